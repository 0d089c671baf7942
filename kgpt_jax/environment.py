"""Sets environment variables before JAX is imported: it then keeps compiled programs and freed memory.

Every command that uses JAX calls `prepare()` first. Variables that the user has set stay as they are.
"""

import gc
import hashlib
import os
import platform
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

# Set for the processes of a launcher, which kills them if they do not stop; its value names the launch.
SUPERVISED = "KGPT_SUPERVISED"
# With these settings, glibc's allocator keeps what a process frees, in pages of 2 MB if the system allows it.
KEPT_MEMORY = ":".join(
    f"glibc.malloc.{setting}"
    for setting in ("mmap_max=0", f"trim_threshold={2**40}", "arena_max=1", "hugetlb=1")
)
MAX_CACHE_BYTES = 2**30  # bytes of compiled programs in the cache


def prepare():
    """Sets the variables, trims the compilation cache, and lets Python look for garbage less often.

    If GLIBC_TUNABLES changes, the process restarts, because the memory allocator reads this variable only at
    the start of a process. On a CPU, every call of a compiled program allocates its buffers anew. Linux would
    have to clear memory for each call; memory that the process keeps is cleared only once
    (`python -m benchmarks.benchmark --suite=levers`).
    """
    cache = compilation_cache()
    os.environ |= {name: value for name, value in cache.items() if name not in os.environ}
    tunables = with_kept_memory(os.environ.get("GLIBC_TUNABLES", ""), glibc())
    # A restart would lose the variables of a notebook or prompt, or the rest of a script from standard input.
    restarts = "IPython" not in sys.modules and sys.argv[:1] not in ([], [""], ["-"])
    if tunables is not None and restarts:
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "GLIBC_TUNABLES": tunables})
    if cache:
        trim(Path(cache["JAX_COMPILATION_CACHE_DIR"]), MAX_CACHE_BYTES)
    # Most objects that JAX makes at import and while it traces a model live to the end. With Python's own
    # threshold (700 new objects in 3.11), looking for garbage takes an eighth of a short command's time.
    gc.set_threshold(10_000)


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
    Without a home folder there is no cache. In a folder that all users share, somebody else could write the
    programs that this process runs.
    """
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # as for an unknown user in a container
        return {}
    instructions = processor("flags") or processor("Features") or platform.machine() + platform.processor()
    kind = hashlib.sha256(instructions.encode()).hexdigest()[:8]
    return {
        "JAX_COMPILATION_CACHE_DIR": str(home / "kgpt_jax" / f"programs-{kind}"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
    }


def with_kept_memory(tunables: str, has_glibc: bool) -> str | None:
    """Returns the new value of GLIBC_TUNABLES, or None if it should not change.

    Args:
      tunables: its value, "" if it is not set. If it has any setting of the allocator, it stays as it is.
      has_glibc: whether Python's C library is glibc. Others do not read the variable.

    >>> with_kept_memory("", True) == KEPT_MEMORY
    True
    >>> with_kept_memory("glibc.malloc.hugetlb=0", True)
    """
    if not has_glibc or "glibc.malloc." in tunables:
        return None
    return ":".join(filter(None, [tunables, KEPT_MEMORY]))


def glibc() -> bool:
    """Returns whether Python's C library is glibc, as on most Linux systems."""
    return platform.libc_ver()[0] == "glibc"


@cache
def processor(field: str) -> str:
    """Returns a field of /proc/cpuinfo, such as "model name", or "" if there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == field), "")


def cores() -> int:
    """Returns how many of the processor's cores this process may use. A container's quota does not count."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
