"""What must be in the environment before JAX is imported: compiled programs that are kept, large pages.

    prepare()

comes first in every command. Both can be refused: variables that are set already stay as they are.
"""

import hashlib
import math
import os
import platform
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

from kgpt_jax.config import UserError

LARGE_PAGES = "glibc.malloc.hugetlb"
WHEELS = {"gpu": "jax[cuda13]", "cuda": "jax[cuda13]", "tpu": "jax[tpu]"}
MOST_PROGRAMS = 2**30  # bytes of compiled programs that are kept


def prepare():
    """Sets the variables; starts the process anew where the memory allocator reads one at its start only.

    The buffers of a CPU come fresh from the system at each call. With pages of 4 kB it spends much of a
    training step on them; with pages of 2 MB, next to nothing (`python -m launch.benchmark --suite=levers`).
    """
    os.environ |= {name: value for name, value in compilation_cache().items() if name not in os.environ}
    tunables = with_large_pages(os.environ.get("GLIBC_TUNABLES", ""), _system_pages())
    if tunables is not None and "IPython" not in sys.modules:  # a notebook would lose its state
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "GLIBC_TUNABLES": tunables})
    trim(Path(compilation_cache()["JAX_COMPILATION_CACHE_DIR"]), MOST_PROGRAMS)


def trim(folder: Path, most: int):
    """Removes the files of a folder that were used longest ago, until the others have `most` bytes together.

    JAX's own limit (JAX_COMPILATION_CACHE_MAX_SIZE) needs the package filelock; where one file was written
    without a limit, or by a process that was killed, JAX keeps no further programs.
    """
    used = []
    for file in folder.glob("*"):
        try:
            status = file.stat()
        except OSError:  # another process has removed it
            continue
        used.append((max(status.st_atime, status.st_mtime), status.st_size, file))
    kept = 0
    for _, size, file in sorted(used, reverse=True):
        kept += size
        if kept > most:
            with suppress(OSError):
                file.unlink()


def compilation_cache() -> dict[str, str]:
    """Returns the variables that let a second start compile nothing.

    The folder is one for each kind of processor, since programs hold its instructions.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    instructions = processor("flags") or processor("Features") or platform.machine() + platform.processor()
    kind = hashlib.sha256(instructions.encode()).hexdigest()[:8]
    return {
        "JAX_COMPILATION_CACHE_DIR": str(home / "kgpt_jax" / f"programs-{kind}"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }


def with_large_pages(tunables: str, system: str) -> str | None:
    """Returns the new GLIBC_TUNABLES, or None where there is nothing to change.

    `system` is what Linux says of transparent huge pages: it must leave them to the program.

    >>> with_large_pages("", "always [madvise] never")
    'glibc.malloc.hugetlb=1'
    >>> with_large_pages("glibc.malloc.hugetlb=0", "always [madvise] never")
    >>> with_large_pages("", "[always] madvise never")
    """
    if "[madvise]" not in system or LARGE_PAGES in tunables:
        return None
    return ":".join(filter(None, [tunables, f"{LARGE_PAGES}=1"]))


def _system_pages() -> str:
    try:
        return Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:  # not Linux
        return ""


def find_devices(platform: str | None = None):
    """Starts JAX's devices; a UserError where it finds none of the platform.

    None stands for the platform that JAX_PLATFORMS names.
    """
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError):  # without its CUDA plugin JAX fails an assertion
        platform = platform or os.environ.get("JAX_PLATFORMS") or "device"
        wheel = WHEELS.get(platform, "jax")
        raise UserError(
            f'JAX finds no {platform} here: on such a machine, pip install -U "{wheel}"; JAX_PLATFORMS=cpu '
            "uses the processor"
        ) from None


def memory() -> float:
    """Returns the bytes of this machine's memory, infinity where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return math.inf


def check_memory(purpose: str, needed: float, advice: str):
    """Raises a UserError with the advice where `needed` bytes are more than this machine's memory.

    Asks nothing where arrays lie elsewhere, on other devices than CPUs or in several processes.
    """
    import jax

    there = memory()
    if needed > there and jax.default_backend() == "cpu" and jax.process_count() == 1:
        raise UserError(
            f"{purpose} needs {needed / 1e9:,.1f} GB of memory or more, and this machine has "
            f"{there / 1e9:,.1f} GB: {advice}"
        )


def made_on() -> dict[str, str | int]:
    """Returns what decides the bits of a result beside the config: versions, processor, devices, threads."""
    import jax
    import jaxlib

    names = ("flax", "optax", "numpy")
    return {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        **{name: version(name) for name in names},
        "processor": processor("model name") or platform.processor() or platform.machine(),
        "processes": jax.process_count(),
        "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}",
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


@cache
def processor(field: str) -> str:
    """Returns what Linux says of the processor, such as its "model name"; "" where it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == field), "")
