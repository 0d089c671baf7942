"""The launchers in one process."""

import json
import shutil
from importlib.util import find_spec

import pytest

from tests.commands import TINY, run_process


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_launcher_says_that_a_platform_is_not_there(platform, tmp_path):
    if shutil.which("nvidia-smi") if platform == "gpu" else find_spec("libtpu"):
        pytest.skip(f"there may be a {platform} here")
    flags = [f"--platform={platform}", f"--workdir={tmp_path}"]
    complaint = run_process(*flags, module="launch.pretrain", status=2)
    assert f"JAX finds no {platform} here" in complaint and "pip install" in complaint


@pytest.mark.long
def test_launcher_takes_the_same_flags(tmp_path):
    flags = ["--platform=cpu", *TINY]
    bigbird = (f"--workdir={tmp_path}", "--variant=bigbird")
    assert "pretraining: bigbird" in run_process("--seed=3", *flags, *bigbird, module="launch.pretrain")
    assert "starting from" in run_process("--seed=4", *bigbird, module="launch.finetune")
    stages = ("pretrain", "finetune")
    configs = [json.loads((tmp_path / f"bigbird/{stage}/config.json").read_text()) for stage in stages]
    seeds = [(config["seed"], config["model"]["pattern_seed"]) for config in configs]
    assert seeds == [(3, 3), (4, 3)]  # what was drawn for pretraining stays
    assert "Correct: " in run_process(*bigbird, module="launch.evaluate")
    assert "<cpu|gpu|tpu>" in run_process("--platform=abacus", module="launch.pretrain", status=2)
