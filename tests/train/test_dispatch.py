"""The dispatcher, with a model and texts so small that its programs compile quickly."""

import threading
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from kgpt_jax import devices
from kgpt_jax.config import UserError, override
from kgpt_jax.data.chunks import Chunks
from kgpt_jax.data.objectives import Material, span_corruption
from kgpt_jax.data.vocab import Vocab
from kgpt_jax.devices import make_mesh
from kgpt_jax.model.gpt import GPT
from kgpt_jax.store.compatible import with_vocab
from kgpt_jax.train import dispatch
from kgpt_jax.train.dispatch import Dispatcher, share
from kgpt_jax.train.feed import Feed
from kgpt_jax.train.optimizer import make_optimizer
from kgpt_jax.train.step import TrainState, init_state
from tests import tiny

DOCUMENTS = [f"Bo {i} of {place}." for i in range(5) for place in ("Rome", "Oslo")]
VOCAB = Vocab.of("".join(DOCUMENTS))
NO_PROGRESS = SimpleNamespace(record=lambda *_: None, leave_out=lambda seconds: None)
NO_STOP = SimpleNamespace(agreed=lambda: False)
needs_threads = pytest.mark.skipif(
    jax.default_backend() != "cpu" or jax.device_count() > 1, reason="threads work on one CPU only"
)


def prepared(monkeypatch, cores: int, **train):
    """Returns a dispatcher, the first state, and the queue of an epoch's three updates."""
    monkeypatch.setattr(devices, "cores", lambda: cores)
    config = override(with_vocab(tiny.config(**train), VOCAB), {"model.n_layer": 1})
    cfg, mesh = config.pretrain, make_mesh(1)
    model, tx = GPT(config.model), make_optimizer(cfg)
    state = init_state(model, tx, jax.random.key(0), mesh=mesh)
    objective = span_corruption(Material(DOCUMENTS, []), VOCAB, config.model)
    feed = Feed(Chunks.of(objective, len(DOCUMENTS)), config.model, cfg, 0, mesh)
    ((_, updates),) = feed.chunks(range(1))
    queue = [(i, microbatch) for i, update in enumerate(updates) for microbatch in update]
    rates = np.full(3, 1e-2)
    return Dispatcher(model, tx, jax.random.key(1), rates, cfg, NO_PROGRESS, None, state, mesh), state, queue


@needs_threads
def test_several_threads_make_the_same_updates_as_one(monkeypatch):
    """Dropout masks depend on the microbatch, not on the thread."""
    made = []
    for cores, n_threads in ((1, 1), (2, 2), (4, 2)):
        dispatcher, state, queue = prepared(monkeypatch, cores, microbatches=4)
        assert len(queue) == 10 and dispatcher.n_threads == n_threads  # the third update has two microbatches
        state, n_updates = dispatcher.run(state, queue, NO_STOP)
        assert n_updates == int(state.step) == 3
        made.append(jax.tree.leaves(state.params))
    one, two, again = made
    for a, b, c in zip(one, two, again):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
        assert (b == c).all()
    first = jax.tree.leaves(prepared(monkeypatch, 1)[1].params)
    assert max(np.abs(a - b).max() for a, b in zip(one, first)) > 0.01  # three updates at a rate of 0.01


@pytest.mark.parametrize("limit", [1, 3])
def test_an_update_over_several_calls_is_the_same(monkeypatch, limit):
    """As on a GPU: four microbatches, one or three at a time."""
    dispatcher, state, queue = prepared(monkeypatch, 1, microbatches=4)
    whole, _ = dispatcher.run(state, queue, NO_STOP)
    monkeypatch.setattr(dispatch, "count_threads", lambda n: 0)
    monkeypatch.setattr(Dispatcher, "set_limit", lambda self, n: setattr(self, "limit", limit))
    dispatcher, state, queue = prepared(monkeypatch, 1, microbatches=4)
    assert dispatcher.send(state, queue)[1] == 1
    dispatcher, state, _ = prepared(monkeypatch, 1, microbatches=4)
    parts, _ = dispatcher.run(state, queue, NO_STOP)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parts.params)):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


@needs_threads
def test_threads_work_at_the_same_time(monkeypatch):
    """A call of one thread waits for a call of the other, which would never begin after it."""
    program, both = Dispatcher.program, threading.Barrier(2, timeout=60)

    def meeting(self, name, *args, **kwargs):
        compiled = program(self, name, *args, **kwargs)
        if name == "end":
            return compiled

        def call(*args):
            both.wait()
            return compiled(*args)

        return call

    monkeypatch.setattr(Dispatcher, "program", meeting)
    dispatcher, state, queue = prepared(monkeypatch, 2, microbatches=4)
    state, n = dispatcher.send(state, queue)
    assert n == 4 and int(state.step) == 1


@pytest.mark.parametrize("n_threads", [1, 2, 3, 4])
def test_each_microbatch_has_one_thread(n_threads):
    for n in range(1, 10):
        assert sorted(sum((share(i, n_threads, n) for i in range(n_threads)), [])) == list(range(n))
    assert share(0, 3, 8) == [0, 5, 6]


@needs_threads
def test_the_memory_of_all_threads_has_to_fit(monkeypatch):
    dispatcher, state, queue = prepared(monkeypatch, 2, microbatches=4)
    dispatcher.send(state, queue)
    adding = next(program for name, program in dispatcher.compiled.items() if name != "end")
    needed = adding.memory_analysis()
    between = needed.argument_size_in_bytes + 1.5 * needed.temp_size_in_bytes  # one fits, two do not
    monkeypatch.setattr(devices, "memory", lambda: between)
    for cores, refused in ((1, False), (2, True)):
        dispatcher, state, queue = prepared(monkeypatch, cores, microbatches=4)
        if refused:
            with pytest.raises(UserError, match="an update needs .* lower batch_size, or raise microbatches"):
                dispatcher.send(state, queue)
        else:
            dispatcher.send(state, queue)


def test_one_call_ends_before_the_next_begins_on_a_cpu(monkeypatch):
    program, under_way = Dispatcher.program, []

    def watched(self, *args):
        compiled = program(self, *args)

        def call(*args):
            under_way.append(len(self.under_way))
            return compiled(*args)

        return call

    monkeypatch.setattr(Dispatcher, "program", watched)
    dispatcher, state, queue = prepared(monkeypatch, 2)
    dispatcher.run(state, queue, NO_STOP)
    assert max(under_way[1:]) == (0 if jax.default_backend() == "cpu" else 1)


def test_skips_of_different_models_are_no_row():
    """Two models take turns to skip, so neither skips twice in a row."""
    state = TrainState(np.zeros(2, np.int32), {}, ())
    dispatcher = Dispatcher(
        None, None, None, None, tiny.config().pretrain, NO_PROGRESS, None, state, make_mesh(1)
    )
    by_turns_EU = np.where((np.arange(10) + np.arange(2)[:, None]) % 2, np.nan, 1.0)
    metrics = {"loss": by_turns_EU, "grad_norm": np.ones((2, 10))}
    dispatcher.under_way.append(dispatch.Dispatch(0, list(range(10)), [1] * 10, metrics))
    dispatcher.collect(under_way=0)
    assert dispatcher.skipped_E.tolist() == [1, 0]
