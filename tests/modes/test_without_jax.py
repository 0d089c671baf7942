"""Modes that only read or write texts do not import JAX, so they start at once."""

import subprocess
import sys

from kgpt_jax.modes import MODES
from tests.commands import CHECKOUT, TINY

COMMANDS = """
import sys
from kgpt_jax.main import main

folder = sys.argv[1]
for mode in (
    "--mode=check --template=2021",
    f"--mode=check --answers_path={folder}/answers.toml",
    "--mode=show",
    "--mode=baseline",
    f"--mode=biographies --outputs_path={folder}/people",
):
    assert main([*mode.split(), *sys.argv[2:]]) == 0
print(*sys.modules)
"""


def test_modes_without_devices_import_no_jax(tmp_path):
    light = {name for name, mode in MODES.items() if not mode.computes}
    assert light == {"show", "baseline", "biographies", "check"}
    (tmp_path / "answers.toml").write_text('[average]\nq = "beta * (k_a + k_b)"\n', "utf-8")
    command = [sys.executable, "-c", COMMANDS, str(tmp_path), *TINY]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    *said, imported = done.stdout.splitlines()
    assert said[0].startswith("# Answers") and said[-1] == f"wrote {tmp_path}/people/birth_test_inputs.tsv"
    assert not {"jax", "flax", "optax"} & set(imported.split())
