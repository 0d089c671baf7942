import json

import numpy as np
import pytest

from kgpt_jax.train import progress
from kgpt_jax.train.progress import Progress, clock


def test_the_line_has_all_its_parts(tmp_path, capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    report = Progress(tmp_path, 0, np.array([5e-3, 4e-3, 3e-3, 2e-3]), per_epoch=2, seconds=0.0)
    now[0] += 10
    report.leave_out(8.0)  # compiling
    report.record(0, np.array([[2.0]]), np.array([[1.0]]), tokens=[3000])
    assert capsys.readouterr().out == ""  # two seconds are too few for a line
    now[0] += 4
    report.record(1, np.array([[1.0]]), np.array([[1.0]]), tokens=[3000])
    assert capsys.readouterr().out == (
        "step 2/4  epoch 1/2  loss 1.500  lr 4.00e-03  1.0k tok/s  eta 0:00:06\n"
    )
    now[0] += 1
    report.record(2, np.array([[0.5, 0.25]]), np.array([[1.0, 2.0]]), tokens=[500_000, 1_500_000])
    assert capsys.readouterr().out == (
        "step 4/4  epoch 2/2  loss 0.375  lr 2.00e-03  2.0M tok/s  eta 0:00:00\n"
    )
    assert report.seconds() == 7.0
    report.finish()
    report.file.close()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert records[3] == {
        "step": 4,
        "epoch": 2,
        "loss": 0.25,
        "lr": 2e-3,
        "grad_norm": 2.0,
        "tokens": 1_500_000,
    }
    assert (tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"


def test_each_of_several_models_is_judged_by_itself(tmp_path, capsys):
    """Both models make update 1, the second model skips update 2, and both skip update 3."""
    report = Progress(tmp_path, 0, np.full(3, 1e-3), per_epoch=3, seconds=0.0)
    losses, norms = [[1.0, 2.0, np.nan], [3.0, 4.0, np.inf]], [[5.0, 6.0, np.nan], [7.0, np.nan, 1.0]]
    report.record(0, np.array(losses), np.array(norms), tokens=[1, 1, 1])
    report.finish()
    report.file.close()
    records = progress.read_metrics(tmp_path / "metrics.jsonl")
    assert [(record["loss"], record["grad_norm"]) for record in records] == [(2, 6), (2, 6), (None, None)]
    assert [record.get("skipped_models") for record in records] == [None, [2], None]
    assert [record.get("skipped") for record in records] == [None, None, True]
    assert capsys.readouterr().out.endswith("  skipped 3\n")


def test_a_resumed_run_drops_what_came_after_its_checkpoint(tmp_path):
    report = Progress(tmp_path, 0, np.full(9, 1e-3), per_epoch=3, seconds=0.0)
    report.record(0, np.arange(5.0)[None], np.ones((1, 5)), tokens=[1] * 5)
    report.file.close()
    report = Progress(tmp_path, 3, np.full(9, 1e-3), per_epoch=3, seconds=0.0)
    report.record(3, np.array([[7.0]]), np.ones((1, 1)), tokens=[1])
    report.file.close()
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses == [0.0, 1.0, 2.0, 7.0]


def test_lines_that_cannot_be_read_are_left_out(tmp_path):
    good = [
        json.dumps({"step": step, "epoch": 1, "loss": 1.0, "lr": 0.1, "grad_norm": 1.0}) for step in (1, 3, 5)
    ]
    torn = [good[0], "\x00\x00", '{"step": 2, "lo', "[]", good[1], good[2]]
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(torn).encode() + b"\xff")
    report = Progress(tmp_path, 4, np.full(9, 1e-3), per_epoch=3, seconds=0.0)
    report.record(4, np.array([[7.0]]), np.ones((1, 1)), tokens=[1])
    report.finish()
    report.file.close()
    assert [record["step"] for record in progress.read_metrics(tmp_path / "metrics.jsonl")] == [1, 3, 5]
    assert (tmp_path / "loss.png").exists()


def test_tensorboard_files_are_an_extra(tmp_path):
    pytest.importorskip("tensorboardX")
    report = Progress(tmp_path, 0, np.full(2, 1e-3), per_epoch=2, seconds=0.0, tensorboard=True)
    report.record(0, np.ones((1, 2)), np.ones((1, 2)), tokens=[1, 1])
    report.finish()
    report.file.close()
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))


def test_the_picture_gives_means_of_whole_epochs_and_what_is_held_out(tmp_path, monkeypatch):
    """Epochs of 40 updates, from short to long texts. The means of the epochs fall steadily."""
    from matplotlib.axes import Axes

    drawn, titles = [], []
    plot, title = Axes.plot, Axes.set_title
    monkeypatch.setattr(
        Axes, "plot", lambda axes, x, y, **how: drawn.append((x, y)) or plot(axes, x, y, **how)
    )
    monkeypatch.setattr(
        Axes, "set_title", lambda axes, said, **how: titles.append(said) or title(axes, said, **how)
    )
    folder = tmp_path / "$a_$b_" / "pretrain"  # not a formula
    folder.mkdir(parents=True)
    report = Progress(folder, 0, np.full(400, 1e-3), per_epoch=40, seconds=0.0)
    epoch_U, place_U = np.divmod(np.arange(390), 40)  # the tenth epoch is under way
    loss_U = 5.0 - 0.25 * epoch_U + place_U / 40
    report.record(0, loss_U[None], np.ones((1, 390)), tokens=[1] * 390)
    report.file.close()
    progress.draw_loss(folder, "right: 7 of 10")
    x, y = drawn[1]
    assert x.tolist() == list(range(40, 361, 40))
    np.testing.assert_allclose(np.diff(y), -0.25)
    assert titles == ["$a_$b_, pretrain\nright: 7 of 10"]
    assert [path.name for path in folder.glob("loss*")] == ["loss.png"]


def test_clock():
    assert [clock(s) for s in (0, 59.6, 3725)] == ["0:00:00", "0:01:00", "1:02:05"]
