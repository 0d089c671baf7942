"""Modes that only read or write texts do not import JAX, so they start at once."""

import subprocess
import sys

from kgpt_jax.modes import MODES
from tests.commands import CHECKOUT, TINY

COMMANDS = """
import sys
from kgpt_jax.main import main

for mode in ("--mode=show", "--mode=baseline", "--mode=biographies --outputs_path=" + sys.argv[1]):
    assert main([*mode.split(), *sys.argv[2:]]) == 0
print(*sys.modules)
"""


def test_modes_without_devices_import_no_jax(tmp_path):
    assert {name for name, mode in MODES.items() if not mode.computes} == {"show", "baseline", "biographies"}
    command = [sys.executable, "-c", COMMANDS, str(tmp_path / "people"), *TINY]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    *said, imported = done.stdout.splitlines()
    assert said[0].startswith("x: ") and said[-1] == f"wrote {tmp_path}/people/birth_test_inputs.tsv"
    assert not {"jax", "flax", "optax"} & set(imported.split())
