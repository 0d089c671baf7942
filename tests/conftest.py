import getpass
import os
import tempfile
from pathlib import Path

import jax
import pytest

# Most of the tests' time goes into compiling; without LLVM's optimisations it is a third less.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")


@pytest.fixture(scope="session", autouse=True)
def compile_once():
    """Keeps compiled programs between test runs, so that the second is quicker."""
    folder = Path(tempfile.gettempdir()) / f"kgpt_jax-tests-{getpass.getuser()}"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
