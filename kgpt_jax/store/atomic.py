"""Writes a file completely or not at all.

    with replacing(path) as partial:
        partial.write_text("...", "utf-8")

A process that is killed here leaves the older file, and perhaps a hidden one, `.<name>.<process>.partial`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def partial_path(path: Path) -> Path:
    """Returns the path of a hidden file beside `path`, which no other process writes to."""
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path to write to, in the same folder, and at the end of the block moves that file to `path`.

    If the block raises an error, an older file at `path` is unchanged. A link stays a link. A device, such as
    /dev/stdout, is written to directly.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    path = path.resolve()
    partial = partial_path(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
