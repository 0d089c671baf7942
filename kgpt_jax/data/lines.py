"""Reads the lines of a text file on demand, after checking them once.

    lines = Lines("wiki.txt")
    len(lines), lines.characters, lines[10:20]

Only the position of every 256th line is kept in memory, so a corpus may be larger than the memory.
"""

import codecs
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import islice
from typing import BinaryIO

from kgpt_jax.config import UserError, first_line
from kgpt_jax.data.vocab import MASK, PAD

BOM = codecs.BOM_UTF8
STRIDE = 256  # the position in the file of every 256th line is kept


class Lines(Sequence):
    """The lines of a UTF-8 file, without their line breaks.

    After a line break at the end of a file comes an empty line. A byte-order mark is ignored, and CRLF and CR
    are line breaks, as in Python's `open`.

    Args:
      path: the file.

    Attributes:
      characters: every character once, sorted, including the line break.
      notes: counts of repairs.

    Raises:
      UserError: the file cannot be read or is empty, or a line is not UTF-8 or has a reserved character. Also
        when lines are read later, if the file has changed since it was checked.
    """

    def __init__(self, path: str):
        self.path, self.notes, self._begins, self._n = path, [], [], 0
        found, blank, begins, raw = set(), True, 0, b"\n"
        with self._open() as file:
            self._version = _version(file)
            crlf, self._lone_cr = _carriage_returns(file)
            file.seek(0)
            for raw in self._raw(file):
                if self._n % STRIDE == 0:
                    self._begins.append(begins)
                begins += len(raw)
                if self._n == 0 and raw.startswith(BOM):
                    self.notes.append(f"{path}: ignored the byte-order mark")
                text = self._text(raw, self._n)
                self._n += 1
                check_text(f"{path}, line {self._n}", text)
                found.update(text)
                blank = blank and not text.strip()
        self._ended = raw.endswith((b"\n", b"\r"))  # an empty last line follows
        self._n += self._ended
        for kind, n in ("CRLF", crlf), ("CR", self._lone_cr):
            if n:
                self.notes.append(f"{path}: read {n} line breaks of the {kind} kind as plain ones")
        if blank:
            raise UserError(f"{path} is empty")
        self.characters = "".join(sorted(found | set("\n" if self._n > 1 else "")))

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[str]:
        return self._from(0)

    def __getitem__(self, index: int | slice) -> str | list[str]:
        numbers = range(self._n)[index]
        if isinstance(numbers, int):
            return next(self._from(numbers))
        assert numbers.step == 1, "lines are read forwards, one by one"
        return list(islice(self._from(numbers.start), len(numbers)))

    def _from(self, first: int) -> Iterator[str]:
        """Yields the lines from number `first` on, counted from 0."""
        with self._open() as file:
            if _version(file) != self._version:
                raise UserError(f"{self.path} has changed since it was checked: give the command again")
            if first < self._n - self._ended:
                file.seek(self._begins[first // STRIDE])
                begun = first - first % STRIDE
                for number, raw in enumerate(self._raw(file), begun):
                    if number >= first:
                        yield self._text(raw, number)
        if self._ended:
            yield ""

    @contextmanager
    def _open(self) -> Iterator[BinaryIO]:
        try:
            with open(self.path, "rb") as file:
                yield file
        except OSError as error:
            raise UserError(f"cannot read {self.path}: {error.strerror or first_line(error)}") from None

    def _raw(self, file: BinaryIO) -> Iterable[bytes]:
        """Returns the lines from the file's current position on, each with its line break."""
        return self._raw_with_lone_cr(file) if self._lone_cr else file

    def _raw_with_lone_cr(self, file: BinaryIO) -> Iterator[bytes]:
        """Yields the same lines, more slowly. In Latin-1 every byte is one character."""
        text = TextIOWrapper(file, "latin-1", newline="")
        try:
            for line in text:
                yield line.encode("latin-1")
        finally:
            text.detach()  # whoever opened the file closes it

    def _text(self, raw: bytes, number: int) -> str:
        if number == 0:
            raw = raw.removeprefix(BOM)
        raw = raw.rstrip(b"\r\n")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            where = f"{self.path}, line {number + 1}: byte {raw[error.start]:#04x}"
            raise UserError(f"{where} is not UTF-8: save the file as UTF-8") from None


def _carriage_returns(file: BinaryIO) -> tuple[int, int]:
    """Returns the number of carriage returns before a line feed, and the number of the others."""
    crlf, n, last = 0, 0, b""
    while block := file.read(2**16):
        crlf += (last + block).count(b"\r\n")
        n += block.count(b"\r")
        last = block[-1:]
    return crlf, n - crlf


def _version(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def check_text(where: str, text: str):
    """Raises a UserError if a text has a character that stands for something else here.

    Args:
      where: the beginning of the message.
      text: the text.
    """
    if "\0" in text:
        raise UserError(f"{where} contains a NUL: save the file as text in UTF-8")
    for special in (PAD, MASK):
        if special in text:
            raise UserError(
                f"{where} contains {special!r} (U+{ord(special):04X}), which stands for "
                f"{'padding' if special == PAD else 'masked text'} here: replace it"
            )
