"""Pairs and documents that are given as Python lists, and their files in a run's folder.

table_of([("Where was Ada Bell born?", "Rome")]).pairs
write_documents(folder, ["Ada Bell. She was born in Rome ."])
"""

from collections.abc import Sequence
from pathlib import Path

from kgpt_jax.config import UserError, check_utf8
from kgpt_jax.data.corpus import Table, digest

Pairs = Sequence[tuple[str, str]]  # of question and answer


def table_of(pairs: Pairs) -> Table:
    """Returns a table of the pairs. Raises a UserError that names a pair of another form."""
    rows = []
    for number, pair in enumerate(pairs, 1):
        fits = isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(t, str) for t in pair)
        row = [text.strip() for text in pair] if fits else []
        if not row or not all(row) or any("\t" in text or len(text.splitlines()) > 1 for text in row):
            raise UserError(
                f"pair {number} is {pair!r}: give a question and an answer, both one line without tabs"
            )
        rows.append(row)
    if not rows:
        raise UserError("there are no pairs: give one or more")
    return Table([row[0] for row in rows], [row[1] for row in rows], [])


def write_pairs(folder: Path, pairs: Pairs) -> Path:
    """Writes pairs to a file in a run's folder, and returns its path. Raises a UserError as `table_of`."""
    return _write_lines(folder, "pairs", ".tsv", ["\t".join(row) for row in table_of(pairs).pairs])


def write_documents(folder: Path, documents: Sequence[str]) -> Path:
    """Writes documents to a file in a run's folder, and returns its path.

    Raises:
      UserError: a document has a line break or is no text, or there are none.
    """
    documents = list(documents)
    for number, document in enumerate(documents, 1):
        if not isinstance(document, str):
            raise UserError(f"document {number} is {document!r}: give a text")
        if "\n" in document or "\r" in document:
            raise UserError(f"document {number} has a line break: a document is one line")
    if not any(document.strip() for document in documents):
        raise UserError("there are no documents: give one or more")
    return _write_lines(folder, "documents", ".txt", documents)


def _write_lines(folder: Path, name: str, ending: str, lines: Sequence[str]) -> Path:
    """Writes lines to a file in a run's folder, and returns its path.

    The file name contains a digest of the lines, so that other lines never overwrite the data of a run. The
    last line has no line break, because the reader would find an empty document after it.
    """
    for number, line in enumerate(lines, 1):
        check_utf8(f"number {number} of the {name}", line)
    path, content = folder / f"{name}_{digest(lines)}{ending}", "\n".join(lines).encode("utf-8")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != content:  # another training may be reading it
            path.write_bytes(content)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; give another workdir") from None
    return path
