"""Digests of files, by which damage is noticed: `SHA256SUMS`, which `sha256sum -c` reads, too.

    seal(folder)      once all files in it are complete
    damage(folder)    "" or, in a few words, what is wrong with the first bad one

A last line, a comment, holds the digest of the lines above it.
"""

import hashlib
import os
import stat
from pathlib import Path, PurePosixPath

SEAL = "SHA256SUMS"


def seal(folder: Path, names: list[str] | None = None):
    """Writes the digests of the named files, or of all below the folder, whole or not at all."""
    if names is None:
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL)
        names = [path.relative_to(folder).as_posix() for path in files]
    lines = "".join(f"{_digest(folder / name)}  {name}\n" for name in names)
    temporary = folder / f"{SEAL}.tmp"
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(lines + _last_line(lines))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / SEAL)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def damage(folder: Path) -> str:
    """Returns what is wrong with the files that the folder's seal names, or "" where all are as they were.

    An OSError, but for a file that is missing, is the system's and tells nothing about the files.
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
            # Reading what is no file might wait forever.
            if not stat.S_ISREG((folder / name).stat().st_mode) or _digest(folder / name) != digest:
                return f"{name} has changed"
        except (FileNotFoundError, NotADirectoryError):
            return f"{name} is missing"
    return ""


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _last_line(lines: str) -> str:
    return f"# {hashlib.sha256(lines.encode()).hexdigest()}"
