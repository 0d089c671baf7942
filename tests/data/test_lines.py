import tracemalloc

import pytest

from kgpt_jax.config import UserError
from kgpt_jax.data import lines
from kgpt_jax.data.lines import Lines


@pytest.mark.parametrize(
    "content",
    [
        b"Ann\nB\xc3\xb8\n\nCy\nDu",
        b"\xef\xbb\xbfAnn\r\nB\xc3\xb8\r\n\r\nCy\r\nDu\r\n",
        b"one",
        b"\xef\xbb\xbfAnn\rB\xc3\xb8\r\rCy\rDu\r",  # the line breaks of old Macs
        b"\rAnn\r\r\nB\xc3\xb8\n\rCy\r\nDu",
    ],
)
@pytest.mark.parametrize("stride", [1, 2, 3, 4096])
def test_slices_are_those_of_all_lines(tmp_path, monkeypatch, content, stride):
    monkeypatch.setattr(lines, "STRIDE", stride)
    path = tmp_path / "corpus.txt"
    path.write_bytes(content)
    read, expected = Lines(str(path)), path.read_text("utf-8-sig").split("\n")
    assert list(read) == expected and len(read) == len(expected)
    for first in range(len(expected)):
        assert read[first] == expected[first] and read[first - len(expected)] == expected[first]
        for last in range(first, len(expected) + 2):
            assert read[first:last] == expected[first:last]
    with pytest.raises(IndexError):
        read[len(expected)]


def test_line_breaks_of_each_kind_are_counted(tmp_path):
    """This includes a CRLF whose two bytes are in different blocks of the file."""
    path = tmp_path / "corpus.txt"
    for n in range(2**16 - 2, 2**16 + 2):
        path.write_bytes(b"x" * n + b"\r\ny\rz\r\r\n")
        read = Lines(str(path))
        assert list(read) == ["x" * n, "y", "z", "", ""]
        assert read.notes == [
            f"{path}: read 2 line breaks of the CRLF kind as plain ones",
            f"{path}: read 2 line breaks of the CR kind as plain ones",
        ]


def test_a_file_that_has_changed_is_refused(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("Ann\nBo\n")
    read = Lines(str(path))
    path.write_text("Ann\nBob\n")
    with pytest.raises(UserError, match=r"corpus.txt has changed since it was checked"):
        read[0:2]
    path.unlink()
    with pytest.raises(UserError, match=r"cannot read .*corpus.txt: No such file"):
        list(read)


@pytest.mark.parametrize("end", [b"\n", b"\r"])
def test_a_large_file_is_not_held_in_memory(tmp_path, end):
    path = tmp_path / "corpus.txt"
    line = b"Ann Bo was born in Rome and sang in Oslo, where she lived." + end
    path.write_bytes(line * 20_000)  # 1.2 MB
    tracemalloc.start()
    read = Lines(str(path))
    assert sum(len(line) for line in read) == 58 * 20_000
    assert len(read[15_000:15_100]) == 100
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 400_000
