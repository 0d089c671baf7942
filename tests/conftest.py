import getpass
import tempfile
from pathlib import Path

import jax
import pytest


@pytest.fixture(scope="session", autouse=True)
def compile_once():
    """Keeps compiled programs between test runs, so that the second is quicker."""
    folder = Path(tempfile.gettempdir()) / f"kgpt_jax-tests-{getpass.getuser()}"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
