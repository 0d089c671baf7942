"""Commands as users type them, in a tiny size."""

import subprocess
import sys
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

from kgpt_jax import main

CHECKOUT = Path(__file__).parent.parent
TINY = """
    --config.model.n_layer=1 --config.model.n_embd=16 --config.model.n_head=2
    --config.data.biographies.n_train=8 --config.data.biographies.n_dev=6
    --config.data.biographies.n_test=3 --config.data.biographies.copies=1
    --config.pretrain.epochs=1 --config.finetune.epochs=1 --config.scratch.epochs=1
""".split()


def run(*flags, module="kgpt_jax.main", status=0):
    command = [sys.executable, "-m", module, *map(str, flags)]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=300)
    assert done.returncode == status, done.stdout + done.stderr
    if status:
        assert "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr
        return done.stderr
    return done.stdout


def refused(*given):
    """Returns the line with which `kgpt_jax.main` refuses these flags; in this process, which is quick."""
    with redirect_stderr(StringIO()) as said:
        assert main.main([str(word) for word in given]) == 2
    assert len(said.getvalue().strip().splitlines()) == 1, said.getvalue()
    return said.getvalue()
