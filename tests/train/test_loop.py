"""Trains on a tiny corpus: a resumed run equals an uninterrupted one, and errors are reported."""

import dataclasses
import json
import signal
from functools import partial

import jax
import numpy as np
import pytest

from kgpt_jax import devices
from kgpt_jax.answer.predict import predict
from kgpt_jax.config import UserError, override, to_dict
from kgpt_jax.data.batches import epoch_batches
from kgpt_jax.data.chunks import Chunks
from kgpt_jax.data.objectives import Material, question_answer, span_corruption
from kgpt_jax.data.vocab import Vocab
from kgpt_jax.model.gpt import GPT, abstract_params, count_params
from kgpt_jax.model.variants import VARIANTS
from kgpt_jax.store.checkpoint import Checkpoints
from kgpt_jax.store.compatible import open_run, with_vocab
from kgpt_jax.store.folder import read_run
from kgpt_jax.train import dispatch, loop
from kgpt_jax.train import step as training_step
from kgpt_jax.train.dispatch import Dispatcher
from kgpt_jax.train.feed import Feed, prefetched
from kgpt_jax.train.optimizer import make_optimizer
from kgpt_jax.train.step import init_state
from tests import tiny

# So short that all texts have the same width, which takes one compiled program.
DOCUMENTS = [f"Bo {i} of {place}." for i in range(5) for place in ("Rome", "Oslo")]
VOCAB = Vocab.of("".join(DOCUMENTS) + "\n")


class Killed(Exception):
    pass


def one_layer(n_seeds=1, seed=0, dropout=0.1, **train):
    """Returns the tiny config with one layer, which compiles twice as fast as two."""
    changes = {"n_seeds": n_seeds, "seed": seed, "model.n_layer": 1, "model.dropout": dropout}
    return override(with_vocab(tiny.config(**train), VOCAB), changes)


def start(folder, n_seeds=1, start_params=None, seed=0, dropout=0.1, documents=DOCUMENTS, **train):
    config = one_layer(n_seeds, seed, dropout, **train)
    run = open_run(folder, config, VOCAB, {"stage": "pretrain"})
    objective = span_corruption(Material(documents, []), VOCAB, config.model)
    return loop.train(run, config.pretrain, Chunks.of(objective, len(documents)), start_params)[0]


def whole_state(folder, step):
    """Returns all that the checkpoint of a step holds."""
    run = read_run(folder)
    with Checkpoints(run) as checkpoints:
        assert checkpoints.step == step
        return checkpoints.manager.restore(step)


def stop_at(monkeypatch, update):
    """Makes training fail before the given update, and dispatch one update or microbatch at a time."""
    send = Dispatcher.send

    def send_until(self, state, queue):
        if queue[0][0] == update:
            raise Killed
        return send(self, state, queue)

    monkeypatch.setattr(dispatch, "SECONDS_PER_DISPATCH", 0.0)
    monkeypatch.setattr(Dispatcher, "send", send_until)


@pytest.fixture
def steps_of_users(monkeypatch):
    """Compiles the training step as users do, with LLVM's optimisations, which `conftest.py` turns off."""
    options = {"xla_backend_optimization_level": 3}

    def optimised(make, donated, *args):
        return jax.jit(make(*args).__wrapped__, donate_argnums=donated, compiler_options=options)

    for name, donated in (("train_steps", (1, 2)), ("add_microbatch", 3), ("end_update", (0, 1))):
        make = getattr(dispatch, f"make_{name}")
        monkeypatch.setattr(dispatch, make.__name__, partial(optimised, make, donated))


@tiny.repeats_bits
@pytest.mark.parametrize("variant, muon_learning_rate", [("vanilla", 0.0), ("synthesizer", 0.02)])
def test_resumed_equals_unbroken_to_the_bit(tmp_path, steps_of_users, variant, muon_learning_rate):
    """The run stops within an epoch, and resumes with another number of microbatches in a dispatch.

    The updates of `vanilla` have four microbatches, which threads share.
    """
    microbatches = 1 if muon_learning_rate else 4
    how = dict(
        variant=variant,
        muon_learning_rate=muon_learning_rate,
        epochs=4,
        save_every=4,
        microbatches=microbatches,
        n_seeds=2 if muon_learning_rate else 1,
    )
    start(tmp_path / "unbroken", **how)  # three updates an epoch
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, 7)
        start(tmp_path / "killed", **how)
    with Checkpoints(read_run(tmp_path / "killed")) as checkpoints:
        assert checkpoints.step == 4
    start(tmp_path / "killed", **how)

    broken, unbroken = (whole_state(tmp_path / name, 12) for name in ("killed", "unbroken"))
    for name in ("params", "opt_state"):
        leaves = [jax.tree.leaves(state[name]) for state in (broken, unbroken)]
        assert len(leaves[0]) == len(leaves[1]) > 15
        assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(*leaves))
    metrics = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("killed", "unbroken")]
    assert metrics[0] == metrics[1]
    assert [json.loads(line)["step"] for line in metrics[0].splitlines()] == list(range(1, 13))


@tiny.repeats_bits
def test_chunks_are_gone_through_in_order_and_resumed_within(tmp_path, monkeypatch):
    """Ten documents in chunks of four, four and two: five updates of two examples an epoch."""
    config = one_layer(epochs=2, batch_size=2, save_every=3)
    made = []

    def chunk(i):
        made.append(i)
        return span_corruption(Material(DOCUMENTS[4 * i : 4 * i + 4], []), VOCAB, config.model)

    data = Chunks(lambda i, shard: chunk(i), [[4], [4], [2]])

    def train(folder):
        run = open_run(folder, config, VOCAB, {"stage": "pretrain"})
        loop.train(run, config.pretrain, data)

    train(tmp_path / "unbroken")
    assert made == [0, 1, 2, 0, 1, 2]
    stop_at(monkeypatch, 8)
    with pytest.raises(Killed):
        train(tmp_path / "killed")  # saved at update 6, the first of the second epoch
    monkeypatch.undo()
    made.clear()
    train(tmp_path / "killed")
    assert made == [0, 1, 2]
    metrics = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("killed", "unbroken")]
    assert metrics[0] == metrics[1]


def test_what_is_made_ahead_fails_where_it_is_used():
    def make(number):
        if number == 2:
            raise UserError("the corpus has changed")
        return [number]

    made = prefetched(make, range(4))
    assert [next(made), next(made)] == [(0, [0]), (1, [1])]
    with pytest.raises(UserError, match="the corpus has changed"):
        next(made)


def test_a_finished_run_says_so_and_does_nothing(tmp_path, capsys):
    params = start(tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    again = start(tmp_path)
    assert "is finished: 6 updates" in capsys.readouterr().out
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert all((a == b).all() for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(again)))


@pytest.mark.parametrize("microbatches", [1, 2])  # with the optimiser in the same program, and apart
def test_an_equal_model_is_not_traced_again(tmp_path, monkeypatch, microbatches):
    """The learning rate and the number of epochs are inputs of the program."""
    start(tmp_path / "first", microbatches=microbatches)
    for module, name in ((GPT, "__call__"), (training_step, "apply_gradient")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("traced again"))
    start(tmp_path / "second", learning_rate=1e-3, epochs=1, microbatches=microbatches)


@pytest.mark.parametrize("n_threads", [0, 2])  # 0: microbatches in calls of up to three, as on a GPU
def test_metrics_count_what_each_update_reads(tmp_path, monkeypatch, n_threads):
    monkeypatch.setattr(dispatch, "count_threads", lambda n: n_threads)
    changes = {
        "epochs": 2,
        "batch_size": 10,
        "microbatches": 5,
        "microbatches_per_dispatch": 3,
        "group_by_length": False,
    }
    documents = [f"{document} {document}"[: 8 + 2 * i] for i, document in enumerate(DOCUMENTS)]  # two widths
    start(tmp_path, documents=documents, **changes)
    config = one_layer(**changes)
    objective = span_corruption(Material(documents, []), VOCAB, config.model)
    expected = [
        sum(np.count_nonzero(batch.x_BT) for batch in epoch_batches(objective, config.pretrain, 0, epoch))
        for epoch in range(2)
    ]
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [record["tokens"] for record in records] == expected


def test_the_folder_holds_what_it_should(tmp_path):
    start(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "SHA256SUMS",
        "config.json",
        "vocab.json",
        "run.json",
        "checkpoints",
        "metrics.jsonl",
        "loss.png",
    }
    steps = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert steps == {"3", "6"}
    assert json.loads((tmp_path / "config.json").read_text()) == to_dict(one_layer())
    losses = [record["loss"] for record in records_of(tmp_path)]
    for step in (3, 6):  # the checkpoint of the least loss is the best
        saved = json.loads((tmp_path / "checkpoints" / str(step) / "meta" / "metadata").read_text())["loss"]
        assert saved == pytest.approx(np.mean(losses[step - 3 : step]))


def records_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("start_params, dropout", [(None, 0.1), ("the same", 0.0)])
def test_the_seed_decides_the_first_parameters_and_the_order_of_the_data(tmp_path, start_params, dropout):
    """At a learning rate of nearly zero, first the parameters may differ, and then only the data."""
    how = dict(epochs=1, learning_rate=1e-9, dropout=dropout, start_params=start_params and one_model())
    each = [start(tmp_path / str(seed), seed=seed, **how)["tok_emb"]["embedding"] for seed in (0, 1)]
    assert np.allclose(*each, atol=1e-6) == (start_params is not None)
    first, other = (records_of(tmp_path / str(seed))[0]["loss"] for seed in (0, 1))
    assert first != other


def one_model():
    config = one_layer()
    return init_state(GPT(config.model), make_optimizer(config.pretrain), jax.random.key(7)).params


def poison(monkeypatch, updates):
    """Makes loss and gradient of these updates NaN, by the weight of their last microbatch."""
    made = Feed.chunks

    def poisoned(feed, epochs):
        for epoch, found in made(feed, epochs):
            for number, microbatches in enumerate(found, epoch * len(found) + 1):
                if number in updates:
                    microbatches[-1] = microbatches[-1]._replace(weight=np.float32(np.nan))
            yield epoch, found

    monkeypatch.setattr(Feed, "chunks", poisoned)


def test_an_update_that_is_not_finite_is_skipped_and_counted(tmp_path, monkeypatch, capsys):
    poison(monkeypatch, {4, 6})
    start(tmp_path / "six", epochs=2, learning_rate=6e-4)
    records = records_of(tmp_path / "six")
    assert [record["step"] for record in records if "skipped" in record] == [4, 6]
    assert records[3]["loss"] is None and records[4]["loss"] > 0
    assert "skipped 2" in capsys.readouterr().out
    assert np.isfinite(jax.tree.leaves(whole_state(tmp_path / "six", 6)["params"])[0]).all()


def test_a_skipped_update_changes_nothing(tmp_path, monkeypatch):
    poison(monkeypatch, {4, 5, 6})
    start(tmp_path)  # saves after updates 3 and 6
    with Checkpoints(read_run(tmp_path)) as checkpoints:
        third, sixth = (checkpoints.manager.restore(step) for step in (3, 6))
    for name in ("params", "opt_state"):
        for a, b in zip(jax.tree.leaves(third[name]), jax.tree.leaves(sixth[name])):
            assert (np.asarray(a) == np.asarray(b)).all()


def test_a_run_gives_up_after_five_in_a_row(tmp_path, monkeypatch):
    poison(monkeypatch, {2, 5, 6, 7, 8, 9, 10})
    with pytest.raises(UserError, match=r"not finite at update 9, and 5 or more .*checkpoints/6;"):
        start(tmp_path, epochs=4)
    with Checkpoints(read_run(tmp_path)) as checkpoints:
        assert checkpoints.step == 6


def diverged(n_seeds, which):
    """Returns initial parameters of several models, one of which has infinite logits."""
    config = one_layer()
    state = init_state(GPT(config.model), make_optimizer(config.pretrain), jax.random.key(0))
    several = jax.tree.map(lambda leaf: np.stack([leaf] * n_seeds), state.params)
    several["head"]["kernel"][which] = 3e38
    return several


def test_a_model_that_diverges_leaves_the_others_alone_and_is_named_after_five(tmp_path, capsys):
    """Of two models the second skips every update, and the first learns all the same."""
    params = start(tmp_path, n_seeds=2, start_params=diverged(2, which=1))
    records = records_of(tmp_path)
    assert all(np.isfinite(record["loss"]) and "skipped" not in record for record in records)
    assert [record["skipped_models"] for record in records] == [[2]] * 6
    assert capsys.readouterr().out.count("model 2 of 2 has skipped 5 updates in a row, up to 5: it may") == 1
    first, second = (diverged(2, which=1)["tok_emb"]["embedding"][k] for k in (0, 1))
    assert (params["tok_emb"]["embedding"][0] != first).any()
    assert (params["tok_emb"]["embedding"][1] == second).all()


def test_parameters_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
    rates = loop.learning_rates

    def explode(*args):
        out = rates(*args)
        out[5] = np.inf
        return out

    monkeypatch.setattr(loop, "learning_rates", explode)
    with pytest.raises(UserError, match=r"not finite at update 6; .*checkpoints/3;"):
        start(tmp_path)
    with Checkpoints(read_run(tmp_path)) as checkpoints:
        assert checkpoints.step == 3


@tiny.repeats_bits
def test_a_stopped_run_has_saved_its_last_update_and_goes_on_to_the_same_bits(tmp_path, monkeypatch, capsys):
    """It gets the signal before the first of two calls that make an update, as they do on a GPU."""
    monkeypatch.setattr(dispatch, "count_threads", lambda n: 0)
    start(tmp_path / "unbroken", microbatches=2)
    send = Dispatcher.send

    def send_and_signal(self, state, queue):
        if queue[0][0] == 1 and queue[0][1].number == 0:
            signal.raise_signal(signal.SIGTERM)
        return send(self, state, queue)

    monkeypatch.setattr(dispatch, "SECONDS_PER_DISPATCH", 0.0)  # one microbatch at a time
    monkeypatch.setattr(Dispatcher, "send", send_and_signal)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        start(tmp_path / "stopped", microbatches=2)
    monkeypatch.setattr(Dispatcher, "send", send)
    assert ended.value.code == 143
    assert "stopped by SIGTERM at update 2 of 6" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == before
    start(tmp_path / "stopped", microbatches=2)
    stopped, unbroken = (whole_state(tmp_path / name, 6) for name in ("stopped", "unbroken"))
    for a, b in zip(jax.tree.leaves(stopped["opt_state"]), jax.tree.leaves(unbroken["opt_state"])):
        assert (np.asarray(a) == np.asarray(b)).all()
    metrics = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("stopped", "unbroken")]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize(
    "changed, complaint",
    [
        ({"learning_rate": 1.0}, "pretrain.learning_rate 0.0006, and 1.0 is asked for"),
        ({"variant": "synthesizer"}, "model.variant 'vanilla', and 'synthesizer' is asked for"),
        ({"objective": "whole_line"}, "pretrain.objective 'span_corruption', and 'whole_line' is asked"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(tmp_path, changed, complaint):
    with Checkpoints(open_run(tmp_path, one_layer(), VOCAB, {"stage": "pretrain"})) as checkpoints:
        checkpoints.save_params(one_model())
    with pytest.raises(UserError, match=complaint):
        open_run(tmp_path, one_layer(**changed), VOCAB, {"stage": "pretrain"})
    open_run(tmp_path, one_layer(objective="span_corruption"), VOCAB, {"stage": "pretrain"})  # the default


@pytest.mark.parametrize("variant", VARIANTS)
def test_learns_four_answers_by_heart(tmp_path, variant):
    places = "Rome Oslo Bonn Cork".split()
    pairs = [(f"Where was {name} born?", place) for name, place in zip("ABCD", places)]
    vocab = Vocab.of("".join(q + a for q, a in pairs))
    config = tiny.config(variant, epochs=250, batch_size=4, learning_rate=5e-3, save_every=1000)
    changes = {"model.n_embd": 32, "model.dropout": 0.0, "model.n_layer": tiny.few_layers(variant)}
    if variant.startswith("perceiver"):
        changes["model.options.bottleneck_dim"] = 24
    config = with_vocab(override(config, changes), vocab)
    run = open_run(tmp_path, config, vocab, {"stage": "finetune"})
    objective = question_answer(Material([], pairs), vocab, config.model)
    params, _ = loop.train(run, config.finetune, Chunks.of(objective, len(pairs)))
    answers, _ = predict(GPT(config.model), params, vocab, [q for q, _ in pairs])
    assert answers == places


def test_what_cannot_fit_is_refused_before_it_is_made():
    config = with_vocab(tiny.config(), VOCAB)
    loop.check_fits(config, "pretrain")
    for changes, complaint in [
        ({"model.n_embd": 1_000_000}, r"pretrain, with 2\d,\d{3},\d{3},\d{3},\d{3} parameters, needs"),
        ({"model.n_embd": 800_000, "model.n_layer": 1_000}, "lower model.n_embd, model.n_layer or n_seeds"),
        ({"n_seeds": 10**9}, "GB of memory or more, and (this machine has|JAX may use) "),
        ({"pretrain.batch_size": 999_999_999}, "lower pretrain.batch_size, or raise pretrain.microbatches"),
    ]:
        with pytest.raises(UserError, match=complaint):
            loop.check_fits(override(config, changes), "pretrain")


def test_an_update_that_cannot_fit_is_refused_before_it_is_run(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "memory", lambda: 1e5)
    with pytest.raises(UserError, match="an update needs .* GB of memory or more"):
        start(tmp_path)


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_of_many_layers_follow_from_few(variant):
    cfg = dataclasses.replace(tiny.MODEL, variant=variant, n_layer=4)
    assert count_params(cfg) == sum(leaf.size for leaf in jax.tree.leaves(abstract_params(cfg)))
