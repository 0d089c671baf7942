import gc
import getpass
import os
import tempfile

import jax
import pytest

from kgpt_jax.environment import compilation_cache
from kgpt_jax.main import show_log

# Tests mostly trace and compile. These flags shorten compilation:
# - no optimisations by LLVM: by a third;
# - the old compiler of fused operations, which JAX 0.11 no longer has: by another third;
# - no splitting of programs: by a fifth. The parts would be compiled in parallel, but pytest-xdist already
#   uses all cores.
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if jax.__version_info__ < (0, 11):
    QUICK += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", QUICK)
# On a GPU, the first of several processes takes most of the memory; CONTRIBUTING.md says how to test there.
jax.config.update("jax_platforms", os.environ.setdefault("JAX_PLATFORMS", "cpu"))

gc.set_threshold(10_000)  # as commands do (`kgpt_jax/environment.py`)
jax.config.update("jax_numpy_rank_promotion", "raise")  # axes that broadcast are written out


@pytest.fixture(scope="session", autouse=True)
def log_on_screen():
    """Prints the package's log as commands do, so that tests can read it."""
    show_log()


@pytest.fixture(scope="session", autouse=True)
def compile_once():
    """Keeps compiled programs between test runs, so that the second is quicker."""
    os.environ["XDG_CACHE_HOME"] = f"{tempfile.gettempdir()}/kgpt_jax-tests-{getpass.getuser()}"
    os.environ |= compilation_cache()  # for commands that tests run
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
