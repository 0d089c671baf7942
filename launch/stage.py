"""Starts a stage on a chosen platform: the environment is set before JAX is imported."""

import os
import sys

from absl import app, flags

from kgpt_jax.environment import prepare

PLATFORMS = ("cpu", "gpu", "tpu")
WHEELS = {"gpu": "jax[cuda13]", "tpu": "jax[tpu]"}
MEMORY_FRACTION = ".9"  # of the GPU's memory, taken at the start so that it does not fragment


def start(mode: str):
    """Runs one stage with the flags of `kgpt_jax.main` and `--platform`."""
    prepare()
    platform = flags.DEFINE_enum("platform", None, PLATFORMS, "Device kind (default: the best one there is).")
    try:
        flags.FLAGS(sys.argv, known_only=True)
    except flags.Error as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    os.environ.update(environment(platform.value))
    import jax  # reads the environment once

    from kgpt_jax import main

    try:
        jax.devices()
    except (RuntimeError, AssertionError):  # without its CUDA plugin JAX fails an assertion
        wheel = WHEELS.get(platform.value, "jax")
        print(
            f"error: JAX finds no {platform.value or 'device'} here: "
            f'on such a machine, pip install -U "{wheel}"',
            file=sys.stderr,
        )
        sys.exit(2)
    sys.argv.insert(1, f"--mode={mode}")
    app.run(main.guarded, flags_parser=main.parse)


def environment(platform: str | None) -> dict[str, str]:
    """Returns what JAX is to find in the environment.

    >>> environment("cpu")
    {'JAX_PLATFORMS': 'cpu'}
    """
    if platform is None:
        return {}
    found = {"JAX_PLATFORMS": "cuda" if platform == "gpu" else platform}
    if platform == "gpu":
        found["XLA_PYTHON_CLIENT_MEM_FRACTION"] = MEMORY_FRACTION
    return found
