"""What must be in the environment before JAX is imported: compiled programs that are kept, large pages.

    prepare()

comes first in every command. Both can be refused: variables that are set already stay as they are.
"""

import hashlib
import os
import platform
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

LARGE_PAGES = "glibc.malloc.hugetlb"
MOST_PROGRAMS = 2**30  # bytes of compiled programs that are kept


def prepare():
    """Sets the variables; starts the process anew where the memory allocator reads one at its start only.

    The buffers of a CPU come fresh from the system at each call. With pages of 4 kB it spends much of a
    training step on them; with pages of 2 MB, next to nothing
    (`python -m benchmarks.benchmark --suite=levers`).
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


@cache
def processor(field: str) -> str:
    """Returns what Linux says of the processor, such as its "model name"; "" where it says nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.split(":")[0].strip() == field), "")
