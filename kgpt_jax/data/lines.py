"""The lines of a text file, checked once and then read as they are asked for.

    lines = Lines("wiki.txt")
    len(lines), lines.characters, lines[10:20]

A corpus that is larger than the memory can be trained on: what is held is where every few hundredth line
begins.
"""

import codecs
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import islice
from typing import BinaryIO

from kgpt_jax.config import UserError
from kgpt_jax.data.vocab import MASK, PAD

BOM = codecs.BOM_UTF8
STRIDE = 256  # lines between two whose place in the file is held


class Lines(Sequence):
    """The lines of a UTF-8 file, and what was put right in them.

    As when a text is split at line breaks, the last line is empty where the file ends with a break. A
    byte-order mark is left out, and a line break of the CRLF or the CR kind is a plain one, as for Python's
    `open`: `notes` counts these.
    A UserError names the line of what is no text, and tells where the file is empty, cannot be read, or has
    changed since it was checked. `characters` has every character once, sorted, the line break among them.
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
                    self.notes.append(f"{path}: left out the byte-order mark")
                text = self._text(raw, self._n)
                self._n += 1
                _check(f"{path}, line {self._n}", text)
                found.update(text)
                blank = blank and not text.strip()
        self._ended = raw.endswith((b"\n", b"\r"))  # an empty last line follows
        self._n += self._ended
        for kind, n in ("CRLF", crlf), ("CR", self._lone_cr):
            if n:
                self.notes.append(f"{path}: took {n} line breaks of the {kind} kind for plain ones")
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
        """Yields the lines from number `first` on, from 0."""
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
            raise UserError(f"cannot read {self.path}: {error.strerror}") from None

    def _raw(self, file: BinaryIO) -> Iterable[bytes]:
        """Returns the lines from the file's position on, each with its line break."""
        if not self._lone_cr:
            return file
        # Slower. In Latin-1 each byte is a character, so that lines keep their lengths.
        return (line.encode("latin-1") for line in TextIOWrapper(file, "latin-1", newline=""))

    def _text(self, raw: bytes, number: int) -> str:
        if number == 0:
            raw = raw.removeprefix(BOM)
        raw = raw.rstrip(b"\r\n")
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            byte = raw[error.start]
            raise UserError(f"{self.path}, line {number + 1}: byte {byte:#04x} is not UTF-8") from None


def _carriage_returns(file: BinaryIO) -> tuple[int, int]:
    """Counts those before a line feed, and those that stand alone."""
    crlf, n, last = 0, 0, b""
    while block := file.read(2**16):
        crlf += (last + block).count(b"\r\n")
        n += block.count(b"\r")
        last = block[-1:]
    return crlf, n - crlf


def _version(file: BinaryIO) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def _check(where: str, text: str):
    if "\0" in text:
        raise UserError(f"{where} contains a NUL: save the file as text in UTF-8")
    for special in (PAD, MASK):
        if special in text:
            raise UserError(
                f"{where} contains {special!r} (U+{ord(special):04X}), which stands for "
                f"{'padding' if special == PAD else 'masked text'} here: replace it"
            )
