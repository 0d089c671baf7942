"""Environment variables that must be set before JAX is imported: a compilation cache and large memory pages.

Every command that uses JAX calls `prepare()` first. Variables that the user has set stay as they are.
"""

import hashlib
import os
import platform
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

# Set for the processes of a launcher, which kills them if they do not stop; its value names the launch.
SUPERVISED = "KGPT_SUPERVISED"
LARGE_PAGES = "glibc.malloc.hugetlb"
MAX_CACHE_BYTES = 2**30  # bytes of compiled programs in the cache


def prepare():
    """Sets the variables, and limits the size of the compilation cache.

    If GLIBC_TUNABLES changes, the process restarts, because the memory allocator reads this variable only at
    the start of a process. On a CPU, every call of a compiled program takes fresh memory from the system.
    With pages of 4 kB this takes much of a training step; with pages of 2 MB it takes almost no time
    (`python -m benchmarks.benchmark --suite=levers`).
    """
    os.environ |= {name: value for name, value in compilation_cache().items() if name not in os.environ}
    tunables = with_large_pages(os.environ.get("GLIBC_TUNABLES", ""), _system_pages())
    if tunables is not None and "IPython" not in sys.modules:  # a notebook would lose its state
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "GLIBC_TUNABLES": tunables})
    trim(Path(compilation_cache()["JAX_COMPILATION_CACHE_DIR"]), MAX_CACHE_BYTES)


def trim(folder: Path, most: int):
    """Removes the least recently used files of a folder until the others have at most `most` bytes.

    JAX's own limit (JAX_COMPILATION_CACHE_MAX_SIZE) needs the package filelock, and stops caching if any file
    was written without a limit or by a process that was killed.
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
    """Returns the variables that make JAX cache compiled programs, so that a second start compiles nothing.

    Each kind of processor has its own folder, because a program consists of one processor's instructions.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    instructions = processor("flags") or processor("Features") or platform.machine() + platform.processor()
    kind = hashlib.sha256(instructions.encode()).hexdigest()[:8]
    return {
        "JAX_COMPILATION_CACHE_DIR": str(home / "kgpt_jax" / f"programs-{kind}"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }


def with_large_pages(tunables: str, system: str) -> str | None:
    """Returns the new value of GLIBC_TUNABLES, or None if it should not change.

    Args:
      tunables: its value, "" if it is not set.
      system: Linux's setting of transparent huge pages. Only "madvise" leaves the choice to programs.

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


@cache
def processor(field: str) -> str:
    """Returns a field of /proc/cpuinfo, such as "model name", or "" if there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == field), "")
