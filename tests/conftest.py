import jax
import pytest


@pytest.fixture(scope="session", autouse=True)
def compile_once(pytestconfig):
    """Keeps compiled programs between test runs, in pytest's own cache folder."""
    folder = pytestconfig.cache.mkdir("jax")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
