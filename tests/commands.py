"""Commands as users type them, in a tiny size."""

import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from kgpt_jax import main

CHECKOUT = Path(__file__).parent.parent
TINY = """
    --config.model.n_layer=1 --config.model.n_embd=16 --config.model.n_head=2
    --config.data.biographies.n_train=8 --config.data.biographies.n_dev=6
    --config.data.biographies.n_test=3 --config.data.biographies.copies=1
    --config.pretrain.epochs=1 --config.finetune.epochs=1 --config.scratch.epochs=1
    --config.pretrain.muon_learning_rate=0 --config.pretrain.weight_decay=0.1
""".split()


def run(*flags, status=0):
    """Runs a command of `kgpt_jax.main` in this process, where nothing is imported or compiled twice.

    Returns what it prints, or the line with which it refuses to run if `status` is not 0.
    """
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        ended = main.main([str(flag) for flag in flags])
    return checked(status, ended, out.getvalue(), err.getvalue())


def run_process(*flags, module="kgpt_jax.main", status=0):
    """Runs a command in its own process, which takes seconds; otherwise like `run`."""
    command = [sys.executable, "-m", module, *map(str, flags)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=300)
    return checked(status, done.returncode, done.stdout, done.stderr)


def checked(status, ended, out, err):
    assert ended == status, out + err
    if not status:
        return out
    assert "Traceback" not in err and len(err.strip().splitlines()) == 1, err
    return err


def refused(*flags):
    """Returns the line with which `kgpt_jax.main` refuses these flags."""
    return run(*flags, status=2)
