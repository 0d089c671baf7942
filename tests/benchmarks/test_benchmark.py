"""The benchmark's arithmetic, and that its contestants run; never its timings."""

import json

import pytest

from benchmarks import benchmark, report
from benchmarks.report import Sample
from kgpt_jax.config import Config, UserError, override, to_dict

TINY = override(
    Config(),
    {
        "model.n_layer": 1,
        "model.n_embd": 16,
        "model.n_head": 2,
        "pretrain.batch_size": 4,
        "pretrain.group_by_length": False,
        "data.biographies.n_train": 4,
        "data.biographies.n_dev": 4,
        "data.biographies.n_test": 2,
        "data.biographies.copies": 1,
    },
)


def test_a_table_sets_each_contestant_beside_its_own_peer(capsys):
    samples = [
        Sample("float32", [1.0, 2.0, 4.0], 100.0),
        Sample("float32, PyTorch", [4.0, 4.0, 4.0], 300.0),
        Sample("bfloat16", [0.5, 0.5, 0.5], 90.0),
        Sample("bfloat16, PyTorch", [1.0, 0.5, 2.0], 200.0),
    ]
    rows = report.table("updates", samples)["rows"]
    assert [row.get("ratio") for row in rows] == [(2.0, 1.0, 4.0), None, (2.0, 1.0, 4.0), None]
    assert [row["peak_mb"] for row in rows] == [100.0, 300.0, 90.0, 200.0]
    lines = capsys.readouterr().out.splitlines()
    assert lines[-4].split() == "float32 2.000 1.000 4.000 100 2.00 x (1.00, 4.00)".split()
    assert lines[-3].split() == "float32, PyTorch 4.000 4.000 4.000 300".split()


def test_turns_of_unlike_number_have_no_ratio():
    with pytest.raises(ValueError):
        report.ratios([1.0, 2.0], [1.0])


def test_the_machine_is_named():
    found = report.machine()
    assert " cores of " in found["processor"] and {"python", "jax", "flax"} <= found.keys()


def test_a_picture_of_bars_and_lines(tmp_path):
    rows = [{"name": "a", "seconds": [1.0, 2.0]}, {"name": "a, PyTorch", "seconds": [3.0, 4.0]}]
    line = {"axis": "length", "sizes": (64, 128), "exponent": 1.0, "theory": 1.1}
    lines = [{"title": name, "variant": name, "rows": rows} | line for name in ("rope", "vanilla")]
    tables = [{"title": "bars", "rows": rows}, *lines]
    report.draw(tables, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_contestants_take_turns():
    from kgpt_jax.data import corpus
    from kgpt_jax.data.vocab import Vocab
    from kgpt_jax.store.compatible import with_vocab

    vocab = Vocab.of(corpus.load_documents(TINY.data).characters)
    config = to_dict(with_vocab(TINY, vocab))
    specs = {
        "train": {"kind": "jax_train", "config": config, "updates": 2},
        "step": {"kind": "jax_step", "config": config, "rows": 2, "updates": 2},
        "seeds": {"kind": "jax_seeds", "config": config, "updates": 2, "seeds": 3},
    }
    train, step, seeds = benchmark.take_turns(specs, repeats=2)
    for sample in (train, step, seeds):
        assert len(sample.seconds) == 2 and min(sample.seconds) > 0 and sample.peak_mb > 50
    assert 4 * 16 <= train.extra["cells"] <= 4 * 127
    json.dumps([vars(sample) for sample in (train, step, seeds)])


def test_a_contestant_that_fails_is_named():
    with pytest.raises(UserError, match="'mine' ended with status 1"):
        benchmark.take_turns({"mine": {"kind": "jax_step", "rows": 1}}, repeats=1)
