"""The benchmark's arithmetic, and that its contestants run; never its timings."""

import json
from types import SimpleNamespace

import pytest

from benchmarks import benchmark, contestants, report
from benchmarks.report import Sample
from kgpt_jax.config import Config, UserError, load_recipe, override, to_dict

TINY = override(
    Config(),
    {
        "model.n_layer": 1,
        "model.n_embd": 16,
        "model.n_head": 2,
        "pretrain.epochs": 1,  # three updates: contestants make more
        "pretrain.batch_size": 4,
        "pretrain.microbatches": 1,
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
        Sample("bfloat16, PyTorch compiled", [0.5, 0.25, 0.5], 250.0),
    ]
    rows = report.table("updates", samples)["rows"]
    assert [row.get("ratio") for row in rows] == [
        None,
        (2.0, 1.0, 4.0),
        None,
        (2.0, 1.0, 4.0),
        (1.0, 0.5, 1.0),
    ]
    assert [row["peak_mb"] for row in rows] == [100.0, 300.0, 90.0, 200.0, 250.0]
    lines = capsys.readouterr().out.splitlines()
    assert lines[-6].startswith("updates ") and " host MB " in lines[-6]
    assert lines[-5].split() == "float32 2.00 1.00 4.00 100".split()
    assert lines[-4].split() == "float32, PyTorch 4.00 4.00 4.00 300 2.00 x (1.00, 4.00)".split()


def test_turns_of_unlike_number_have_no_ratio():
    with pytest.raises(ValueError):
        report.ratios([1.0, 2.0], [1.0])


def test_the_machine_is_named():
    found = report.machine()
    assert " cores of " in found["processor"] and {"python", "jax", "flax"} <= found.keys()


def test_a_gpu_is_named_only_where_something_runs_on_it(monkeypatch):
    without = report.machine()["processor"]  # tests run on the processor
    monkeypatch.setattr(report, "accelerators", lambda: ["NVIDIA T4"] * 2)
    assert report.machine()["processor"] == f"{without} and 2 NVIDIA T4"
    assert report.machine(on_cpu=True)["processor"] == without


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are drawn, for a look at what is on them."""
    from matplotlib.figure import Figure

    figures, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *args, **kw: (figures.append(self), save(self, *args, **kw))
    )
    return figures


def lines_of(*variants):
    rows = [{"name": "a", "seconds": [1.0, 2.0]}, {"name": "b", "seconds": [3.0, 4.0]}]
    line = {"axis": "length", "sizes": (64, 128), "exponent": 1.0, "theory": 1.1}
    return [{"title": name, "variant": name, "rows": rows} | line for name in variants]


def test_a_picture_of_bars_and_lines(tmp_path, drawn):
    rows = [{"name": "a", "seconds": [1.0, 2.0]}, {"name": "a, PyTorch", "seconds": [3.0, 4.0]}]
    report.draw([{"title": "bars", "rows": rows}, *lines_of("rope", "vanilla")], tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    bars, lines = drawn[0].axes
    assert [label.get_text() for label in bars.get_yticklabels()] == ["a", "a, PyTorch"]
    labels = [text.get_text() for text in lines.get_legend().get_texts()]
    assert labels == ["rope: 1.00 (1.10)", "vanilla: 1.00 (1.10)"]


def test_of_many_variants_four_are_highlighted(tmp_path, drawn):
    many = lines_of("vanilla", "rope", "perceiver", "linformer", "bigbird", "encoder_decoder")
    many[1]["exponent"] = 0.9
    report.draw(many, tmp_path / "picture.png")
    (axis,) = drawn[0].axes
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert [label.split(":")[0] for label in labels[:4]] == ["vanilla", "perceiver", "linformer", "bigbird"]
    assert labels[4:] == ["2 others: 0.90 to 1.00 (1.10 to 1.10)"]
    assert sum(line.get_color() == "0.75" and len(line.get_xdata()) > 0 for line in axis.lines) == 2


def tiny_spec(kind, **arguments):
    from kgpt_jax.data import corpus
    from kgpt_jax.data.vocab import Vocab
    from kgpt_jax.store.compatible import with_vocab

    vocab = Vocab.of(corpus.load_documents(TINY.data).characters)
    return {"kind": kind, "config": to_dict(with_vocab(TINY, vocab)), "updates": 2} | arguments


def test_contestants_take_turns():
    specs = {"a": tiny_spec("jax_step", rows=2), "b": tiny_spec("jax_step", rows=2)}
    for sample in benchmark.take_turns(specs, repeats=2):
        assert len(sample.seconds) == 2 and min(sample.seconds) > 0 and sample.peak_mb > 50


@pytest.mark.parametrize("kind, arguments", [("jax_train", {}), ("jax_seeds", {"seeds": 3})])
def test_a_contestant_works_again_and_again(kind, arguments):
    spec = tiny_spec(kind, **arguments)
    once = contestants.CONTESTANTS[spec.pop("kind")](**spec)
    turns = [once(), once()]
    assert min(turn["seconds"] for turn in turns) > 0
    assert all(4 * 16 <= turn["cells"] <= 4 * 127 for turn in turns if kind == "jax_train")
    json.dumps(turns)


def test_a_contestant_that_fails_is_named():
    with pytest.raises(UserError, match="'mine' ended with status 1"):
        benchmark.take_turns({"mine": {"kind": "jax_step", "rows": 1}}, repeats=1)


@pytest.fixture
def check_peer(monkeypatch):
    """A function that checks whether PyTorch does a suite's work, on a machine with one GPU or several."""

    def checked(suite, config, variants=benchmark.PEERS, gpus=1):
        monkeypatch.setattr(benchmark, "FLAGS", SimpleNamespace(suite=suite, variants=list(variants)))
        monkeypatch.setattr(benchmark, "accelerators", lambda: ["NVIDIA T4"] * gpus)
        benchmark.check_peer(config)

    return checked


def test_pytorch_does_the_same_work_by_the_courses_recipe(check_peer):
    for suite in benchmark.WITH_TORCH:
        check_peer(suite, load_recipe("configs/course_2021.py"))
    check_peer("decode", load_recipe("configs/quickstart.py"))  # only answering is compared


@pytest.mark.parametrize(
    "suite, change, machine, complaint",
    [
        ("gpu", {"model.variant": "rope"}, {}, "PyTorch has no 'rope': choose from vanilla, synthesizer"),
        ("train", {}, {"variants": ["vanilla", "bigbird"]}, "PyTorch has no 'bigbird'"),
        ("decode", {}, {"variants": ["rope"]}, "PyTorch has no 'rope'"),
        ("train", {"pretrain.muon_learning_rate": 0.02}, {}, "trains with Muon, and PyTorch with AdamW"),
        ("gpu", {"pretrain.group_by_length": True}, {}, "batches of texts of similar length"),
        ("gpu", {}, {"gpus": 2}, "trains on 2 devices, and PyTorch on one"),
    ],
)
def test_pytorch_is_not_measured_at_other_work(check_peer, suite, change, machine, complaint):
    with pytest.raises(UserError, match=complaint):
        check_peer(suite, override(TINY, change), **machine)


def test_the_gpu_suite_times_all_updates_of_the_recipe(monkeypatch, capsys):
    flags = {"config": "configs/mine.py", "against": "nothing", "updates": 1, "repeats": 1}
    monkeypatch.setattr(benchmark, "FLAGS", SimpleNamespace(**flags, peak_tflops=None))

    def take_turns(specs, _):
        return [Sample(name, [1.0], 0.0) for name in specs]

    monkeypatch.setattr(benchmark, "take_turns", take_turns)
    mixed = {"pretrain.objective": "span_corruption=0.5,question_answer=0.5", "pretrain.epochs": 3}
    tables = benchmark.gpu(override(TINY, mixed))
    # 11 documents and 11 questions make 6 batches of 4.
    assert "all 3 epochs: 18 s" in capsys.readouterr().out
    assert tables[0]["title"] == "mine: seconds of an update"
