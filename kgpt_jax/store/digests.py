"""Digest files, which show whether a folder is complete and undamaged.

    seal(folder)              # after all files are written
    problem = damage(folder)  # "" if the folder is valid

A folder is valid if its digest file, SHA256SUMS, exists and matches the other files. `sha256sum -c` reads the
digest file, too. Its last line is a comment with the digest of the lines above.
"""

import hashlib
import os
import stat
from pathlib import Path, PurePosixPath

from kgpt_jax.store.atomic import replacing

SEAL = "SHA256SUMS"


def seal(folder: Path, names: list[str] | None = None):
    """Writes a folder's digest file.

    Args:
      folder: the folder.
      names: the files to cover; None covers all files below the folder.

    Raises:
      OSError: a file cannot be read or written; no digest file stays behind.
    """
    if names is None:
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL)
        names = [path.relative_to(folder).as_posix() for path in files]
    lines = "".join(f"{file_digest(folder / name)}  {name}\n" for name in names)
    with replacing(folder / SEAL) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        file.write(lines + _last_line(lines))
        file.flush()
        os.fsync(file.fileno())


def damage(folder: Path) -> str:
    """Returns a description of the first damaged or missing file of a folder, "" if the folder is valid.

    Raises:
      OSError: a file exists and cannot be read, so it may be undamaged.
    """
    try:
        text = (folder / SEAL).read_bytes().decode()
    except FileNotFoundError:
        return f"{SEAL} is missing: it was deleted, or never finished"
    except UnicodeDecodeError:
        return f"{SEAL} has changed"
    start = text.rfind("\n") + 1
    if text[start:] != _last_line(text[:start]):
        return f"{SEAL} has changed"
    for line in text[:start].splitlines():
        digest, _, name = line.partition("  ")
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\0" in name:
            return f"{SEAL} names a file outside of the folder"
        try:
            # Only regular files are read: a pipe would block.
            if not stat.S_ISREG((folder / name).stat().st_mode) or file_digest(folder / name) != digest:
                return f"{name} has changed"
        except (FileNotFoundError, NotADirectoryError):
            return f"{name} is missing"
    return ""


def file_digest(path: Path) -> str:
    """Returns the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _last_line(lines: str) -> str:
    return f"# {hashlib.sha256(lines.encode()).hexdigest()}"
