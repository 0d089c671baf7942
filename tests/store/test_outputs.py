"""Nothing that exists is overwritten but what this program wrote."""

import os
import threading
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from kgpt_jax.config import UserError
from kgpt_jax.store.atomic import replacing
from kgpt_jax.store.outputs import check, record, write_lines, write_picture


def test_a_new_path_is_free_and_nothing_is_left_there(tmp_path):
    path = tmp_path / "new" / "out.txt"
    check(path, "greedy answers")
    assert list(path.parent.iterdir()) == []


def test_a_link_to_a_new_file_stays_a_link(tmp_path):
    path = tmp_path / "link"
    path.symlink_to(tmp_path / "new.txt")
    check(path, "greedy answers")
    assert path.is_symlink() and not (tmp_path / "new.txt").exists()


def test_our_own_output_may_be_replaced_by_its_kind_only(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("Rome\n")
    record(path, "greedy answers")
    check(path, "greedy answers")
    with pytest.raises(
        UserError, match="holds greedy answers, and this would replace them by answers by 4 b"
    ):
        check(path, "answers by 4 beams")
    path.write_text("Rome, edited\n")
    with pytest.raises(UserError, match="out.txt exists, and this program did not write what it holds"):
        check(path, "greedy answers")
    assert path.read_text() == "Rome, edited\n"


def test_an_input_is_no_output(tmp_path):
    path = tmp_path / "dev.tsv"
    path.write_text("Who?\tMe\n")
    record(path, "greedy answers")  # even then
    with pytest.raises(UserError, match="dev.tsv is read by this command and cannot be its output"):
        check(tmp_path / "." / "dev.tsv", "greedy answers", ["", tmp_path / "no.tsv", path])


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match="cannot write .*: Is a directory; give another path"):
        check(tmp_path, "greedy answers")


def test_a_path_whose_hidden_files_cannot_be_written_is_refused_before_the_work(tmp_path):
    """They have longer names."""
    with pytest.raises(UserError, match="cannot write .*: File name too long; give another path"):
        check(tmp_path / ("a" * 240), "greedy answers")
    assert not any(tmp_path.iterdir())


def full(*_):
    raise OSError(28, "No space left on device")


def test_an_interrupted_write_leaves_the_older_output(tmp_path, monkeypatch):
    path = tmp_path / "out.txt"
    write_lines(path, ["Rome"], "greedy answers")
    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", full)
        with pytest.raises(UserError, match="cannot write .*out.txt.*: No space left on device"):
            write_lines(path, ["Oslo", "Bonn"], "greedy answers")
    check(path, "greedy answers")
    write_lines(path, ["Riga"], "greedy answers")
    assert path.read_text() == "Riga\n" and sorted(each.name for each in tmp_path.iterdir()) == [
        ".out.txt.kgpt.json",
        "out.txt",
    ]


def test_two_processes_may_write_one_file_at_a_time(tmp_path, monkeypatch):
    path = tmp_path / "loss.png"
    with replacing(path) as ours:
        ours.write_text("ours")
        monkeypatch.setattr(os, "getpid", lambda: 1)
        with replacing(path) as theirs:
            theirs.write_text("theirs")
        assert path.read_text() == "theirs"
    assert path.read_text() == "ours" and list(tmp_path.iterdir()) == [path]


def test_an_interrupted_picture_leaves_the_older_one(tmp_path, monkeypatch):
    path = tmp_path / "map.png"
    write_picture(path, Figure(), "a map")
    older = path.read_bytes()
    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", full)
        with pytest.raises(UserError, match="cannot write .*map.png: No space left on device"):
            write_picture(path, Figure(figsize=(1, 1)), "a map")
    check(path, "a map")
    assert path.read_bytes() == older and older.startswith(b"\x89PNG") and len(list(tmp_path.iterdir())) == 2


def test_a_device_is_written_to_and_not_read(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    write_lines(pipe, ["Oslo"], "predictions")
    reader.join(5)
    assert read == ["Oslo\n"] and list(tmp_path.iterdir()) == [pipe]


def test_a_link_stays_one(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "out.txt")
    write_lines(tmp_path / "link", ["Rome"], "greedy answers")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "out.txt").read_text() == "Rome\n"
    check(tmp_path / "link", "greedy answers")
