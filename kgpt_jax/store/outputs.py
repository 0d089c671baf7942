"""Output files for the user: we overwrite only files that we wrote ourselves.

    check(path, "greedy answers", inputs=[...])  # before the work begins
    write_lines(path, lines, "greedy answers")

A hidden file next to each output records its SHA-256 and its kind of content. If the digest differs, somebody
has edited the output or another program has written it, and we do not overwrite it.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from kgpt_jax.config import UserError
from kgpt_jax.store.atomic import partial_path, replacing
from kgpt_jax.store.digests import file_digest

_GIVE_ANOTHER = "give another path"


def check(path: Path, kind: str, inputs: Iterable[str | Path] = ()):
    """Checks that an output may be written, and creates its folder if that does not exist.

    Args:
      path: the output.
      kind: its kind of content, in a few words.
      inputs: files that the command reads, which it must not overwrite.

    Raises:
      UserError: `path` is an input, cannot be written, or exists and is not our own output of the same kind.
    """
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
            path.resolve().unlink()  # a link stays one
        if new or path.is_file():
            trial = partial_path(_note(path))  # the longest name of those that we shall write
            trial.open("a").close()
            trial.unlink()
    except OSError as error:
        raise _cannot_write(path, error) from None


def record(path: Path, kind: str, content: Path | None = None):
    """Records in a hidden file next to `path` that we wrote it, and its kind of content.

    Nothing is recorded of a device, which keeps no content.

    Args:
      path: the output.
      kind: its kind of content, in a few words.
      content: the file that will be moved to `path`; None if it is there already.

    Raises:
      UserError: the hidden file cannot be written.
    """
    content = content or path
    if not content.is_file():
        return
    try:
        with replacing(_note(path)) as partial:
            partial.write_text(json.dumps({"kind": kind, "sha256": file_digest(content)}) + "\n", "utf-8")
    except OSError as error:
        raise _cannot_write(_note(path), error) from None


def write_lines(path: Path, lines: Iterable[str], kind: str):
    """Writes an output line by line and records it as ours. Call `check` first, before the work begins.

    Raises:
      UserError: the file cannot be written. Then an older one is unchanged.
    """
    try:
        with replacing(path) as partial:
            partial.write_text("".join(line + "\n" for line in lines), "utf-8", newline="\n")
            record(path, kind, partial)  # before the move, which a full disk cannot stop
    except OSError as error:
        raise _cannot_write(path, error) from None


def write_picture(path: Path, figure, kind: str, dpi: int = 120):
    """Writes a `matplotlib.figure.Figure` and records it as ours. Call `check` first, before the work begins.

    The ending of the path names the format; without one it is PNG.

    Raises:
      UserError: the file cannot be written, then an older one is unchanged; or there is no such format.
    """
    try:
        with replacing(path) as partial:
            figure.savefig(partial, dpi=dpi, format=path.suffix[1:] or "png")
    except OSError as error:
        raise _cannot_write(path, error) from None
    except ValueError as error:
        raise UserError(f"cannot write {path}: {error}; {_GIVE_ANOTHER}") from None
    record(path, kind)


def _cannot_write(path: Path, error: OSError) -> UserError:
    """Returns the error to raise for an output that cannot be written."""
    return UserError(f"cannot write {path}: {error.strerror}; {_GIVE_ANOTHER}")


def _check_ours(path: Path, kind: str):
    """Raises a UserError if a file is not our own output of this kind."""
    try:
        noted = json.loads(_note(path).read_text("utf-8"))
        there, digest = noted["kind"], noted["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        there = digest = None
    if digest != file_digest(path):
        raise UserError(f"{path} exists, and this program did not write what it holds: {_GIVE_ANOTHER}")
    if there != kind:
        raise UserError(f"{path} holds {there}, and this would replace them by {kind}: {_GIVE_ANOTHER}")


def _note(path: Path) -> Path:
    """Returns the path of the hidden file beside an output."""
    return path.with_name(f".{path.name}.kgpt.json")
