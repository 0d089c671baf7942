"""Files that a command writes for its user: nothing is overwritten but what we wrote ourselves.

    check(path, "greedy answers", inputs=[...])    before the work begins
    record(path, "greedy answers")                 once the file is complete

A hidden file beside each output says what it holds and its SHA-256. So a file that was edited, or that
another program wrote, is known and left alone.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from kgpt_jax.config import UserError

_GIVE_ANOTHER = "give another path"


def check(path: Path, kind: str, inputs: Iterable[str | Path] = ()):
    """Raises a UserError unless `path` can be written, and is new or holds our own output of this kind."""
    try:
        if any(
            other and Path(other).exists() and path.resolve() == Path(other).resolve() for other in inputs
        ):
            raise UserError(f"{path} is read by this command and cannot be its output: {_GIVE_ANOTHER}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            _check_ours(path, kind)
        new = not path.exists()
        path.open("a").close()
        if new:
            path.unlink()
    except OSError as error:
        raise cannot_write(path, error) from None


def record(path: Path, kind: str):
    """Records the digest of a file that we wrote, in a hidden file beside it."""
    try:
        _note(path).write_text(json.dumps({"kind": kind, "sha256": _digest(path)}) + "\n", "utf-8")
    except OSError as error:
        raise cannot_write(_note(path), error) from None


def write_lines(path: Path, lines: Iterable[str], kind: str):
    """Writes a file of lines, and records it as ours; the caller has checked the path."""
    try:
        path.write_text("".join(line + "\n" for line in lines), "utf-8", newline="\n")
    except OSError as error:
        raise cannot_write(path, error) from None
    record(path, kind)


def cannot_write(path: Path, error: OSError) -> UserError:
    """Returns the error of an output that the system does not let us write."""
    return UserError(f"cannot write {path}: {error.strerror}; {_GIVE_ANOTHER}")


def _check_ours(path: Path, kind: str):
    try:
        noted = json.loads(_note(path).read_text("utf-8"))
        there, digest = noted["kind"], noted["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        there = digest = None
    if digest != _digest(path):
        raise UserError(f"{path} exists, and this program did not write what it holds: {_GIVE_ANOTHER}")
    if there != kind:
        raise UserError(f"{path} holds {there}, and this would replace them by {kind}: {_GIVE_ANOTHER}")


def _note(path: Path) -> Path:
    return path.with_name(f".{path.name}.kgpt.json")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
