"""The training run that the trials damage: a command of a few seconds, and functions that read its folder."""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

SAVE_EVERY = 5
TINY = f"""
    --config.model.n_layer=1 --config.model.n_embd=16 --config.model.n_head=2
    --config.data.biographies.n_train=20 --config.data.biographies.n_dev=10 --config.data.biographies.n_test=5
    --config.pretrain.batch_size=16 --config.pretrain.epochs=4 --config.pretrain.save_every={SAVE_EVERY}
    --config.pretrain.group_by_length=false --config.pretrain.microbatches=1
""".split()


class Result(NamedTuple):
    """The result of a trial; `remark` states a measured figure in words."""

    promise: str
    tried: int
    failures: list[str]
    remark: str = ""


def command(workdir: Path) -> list[str]:
    """Returns the command that trains a tiny model below a folder."""
    return [sys.executable, "-m", "kgpt_jax.main", "--mode=pretrain", f"--workdir={workdir}", *TINY]


def folder(workdir: Path) -> Path:
    """Returns the folder of the run that `command` trains."""
    return workdir / "vanilla" / "pretrain"


def start(workdir: Path) -> subprocess.Popen:
    return subprocess.Popen(command(workdir), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(workdir: Path) -> str:
    """Runs the command to its end and returns what it printed; raises CalledProcessError if it fails."""
    return subprocess.run(command(workdir), check=True, capture_output=True, text=True).stdout


def whole(root: Path) -> Path:
    """Returns the workdir of an uninterrupted run, which all trials share. The first call trains it."""
    workdir = root.parent / "whole"
    if not workdir.exists():
        finish(workdir)
    return workdir


def outcome(workdir: Path) -> str:
    """Returns a digest of the last checkpoint's parameters and optimiser state, and of the metrics."""
    from kgpt_jax.store.checkpoint import Checkpoints
    from kgpt_jax.store.folder import read_run
    from kgpt_jax.store.params import params_digest

    with Checkpoints(read_run(folder(workdir)), read_only=True) as checkpoints:
        found = checkpoints.manager.restore(checkpoints.step)
        trees = {"params": found["params"], "opt_state": found["opt_state"]}
    return (
        f"{checkpoints.step} {params_digest(trees)} {hash((folder(workdir) / 'metrics.jsonl').read_bytes())}"
    )


def recorded(workdir: Path) -> int:
    """Returns the number of updates recorded in `metrics.jsonl`."""
    path = folder(workdir) / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def valid_step(workdir: Path) -> int:
    """Returns the newest step that has a valid checkpoint, 0 if there is none."""
    from kgpt_jax.store.digests import damage
    from kgpt_jax.store.folder import saved_steps

    steps = saved_steps(folder(workdir))
    return max((s for s in steps if not damage(folder(workdir) / "checkpoints" / str(s))), default=0)
