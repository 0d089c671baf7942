import tracemalloc

import pytest

from kgpt_jax.config import UserError
from kgpt_jax.data import lines
from kgpt_jax.data.lines import Lines


@pytest.mark.parametrize(
    "content", [b"Ann\nB\xc3\xb8\n\nCy\nDu", b"\xef\xbb\xbfAnn\r\nB\xc3\xb8\r\n\r\nCy\r\nDu\r\n", b"one"]
)
@pytest.mark.parametrize("stride", [1, 2, 3, 4096])
def test_any_part_is_that_of_all_lines(tmp_path, monkeypatch, content, stride):
    monkeypatch.setattr(lines, "STRIDE", stride)
    path = tmp_path / "corpus.txt"
    path.write_bytes(content)
    read, expected = Lines(str(path)), content.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    assert list(read) == expected and len(read) == len(expected)
    for first in range(len(expected)):
        assert read[first] == expected[first] and read[first - len(expected)] == expected[first]
        for last in range(first, len(expected) + 2):
            assert read[first:last] == expected[first:last]
    with pytest.raises(IndexError):
        read[len(expected)]


def test_a_file_that_changes_is_not_read_on(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("Ann\nBo\n")
    read = Lines(str(path))
    path.write_text("Ann\nBob\n")
    with pytest.raises(UserError, match=r"corpus.txt has changed since it was checked"):
        read[0:2]
    path.unlink()
    with pytest.raises(UserError, match=r"cannot read .*corpus.txt: No such file"):
        list(read)


def test_a_large_file_is_not_held(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("Ann Bo was born in Rome and sang in Oslo, where she lived.\n" * 60_000)  # 3.5 MB
    tracemalloc.start()
    read = Lines(str(path))
    assert sum(len(line) for line in read) == 58 * 60_000
    assert len(read[50_000:50_100]) == 100
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 500_000
