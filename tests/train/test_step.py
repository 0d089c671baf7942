import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import DictKey

from kgpt_jax.config import TrainConfig
from kgpt_jax.data.batches import Batch, Microbatch, in_microbatches, stack
from kgpt_jax.model.gpt import GPT
from kgpt_jax.store.torch_params import to_torch
from kgpt_jax.train.optimizer import make_optimizer
from kgpt_jax.train.step import (
    TrainState,
    cross_entropy_sum,
    init_state,
    make_add_microbatch,
    make_end_update,
    make_train_steps,
    predicted,
    zero_sums,
)
from tests import tiny

STACKS = ("vanilla", "perceiver", "encoder_decoder")  # a variant of each kind


def test_loss_is_summed_over_targets_that_are_not_padding():
    logits_BTV = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], [[0.2, 0.7, 0.1], [1, 1, 1]]]))
    y_BT = jnp.array([[1, 2], [0, 0]])
    expected = -(np.log(0.25) + np.log(0.8))
    assert float(cross_entropy_sum(logits_BTV, y_BT)) == pytest.approx(expected, rel=1e-6)
    assert float(cross_entropy_sum(logits_BTV, jnp.zeros_like(y_BT))) == 0.0


def test_a_source_read_as_a_whole_has_no_targets():
    y_BT = np.array([[4, 5, 6, 7, 8], [4, 5, 6, 0, 0], [0, 0, 0, 0, 0]])
    batch = Batch(y_BT, y_BT, np.array([3, 1, 0]))
    assert predicted(tiny.config("vanilla").model, batch) is batch
    expected = [[0, 0, 6, 7, 8], [4, 5, 6, 0, 0], [0, 0, 0, 0, 0]]
    assert predicted(tiny.config("encoder_decoder").model, batch).y_BT.tolist() == expected


def setup(variant="vanilla", dropout=0.3):
    """Returns a train step, a function that makes a state to start from, and six batches."""
    model, params, x_BT = tiny.make(variant, dropout=dropout, n_layer=1)
    tx = make_optimizer(TrainConfig())
    rng = np.random.default_rng(5)
    x_IBT = rng.integers(2, 13, (6, 3, 15)).astype(np.int32)
    batches = [Batch(x_BT, np.roll(x_BT, -1, axis=1), np.full(3, 4, np.int32)) for x_BT in x_IBT]

    def start():
        fresh = jax.tree.map(jnp.copy, params)  # the step donates its state
        return TrainState(jnp.int32(0), fresh, tx.init(fresh))

    return partial(make_train_steps(model, tx), jax.random.key(3)), start, batches


def whole(batches) -> Microbatch:
    """Returns batches as microbatches that are each a whole update."""
    return stack([in_microbatches(batch, 1)[0] for batch in batches])


def run(train_steps, state, microbatches, lr_J, n=None):
    """Returns state and metrics after the first n microbatches."""
    n = len(lr_J) if n is None else n
    state, _, metrics = train_steps(state, zero_sums(state), microbatches, lr_J, n)
    return state, metrics


def same_bits(a, b):
    return all((np.asarray(x) == np.asarray(y)).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


@tiny.repeats_bits
@pytest.mark.parametrize("variant", ["vanilla", "encoder_decoder"])
def test_many_updates_in_one_dispatch_equal_one_by_one(variant):
    train_steps, start, batches = setup(variant)
    lr_I = np.full(6, 1e-2, np.float32)
    at_once, metrics = run(train_steps, start(), whole(batches), lr_I)
    state, losses = start(), []
    for batch in batches:
        state, single = run(train_steps, state, whole([batch] * 6), lr_I, n=1)
        losses.append(float(single["loss"][0]))
    assert int(state.step) == int(at_once.step) == 6
    assert same_bits(state, at_once)
    assert losses == metrics["loss"].tolist()


def test_dropout_differs_between_updates_and_microbatches():
    train_steps, start, batches = setup()
    no_rates = np.zeros(6, np.float32)  # only dropout can differ
    losses = run(train_steps, start(), whole(batches[:1] * 6), no_rates)[1]["loss"]
    assert len(set(losses.tolist())) == 6
    microbatch = in_microbatches(batches[0], 1)[0]
    numbered = stack([microbatch._replace(number=np.int32(number), last=np.bool_(True)) for number in (0, 1)])
    first, _ = run(train_steps, start(), numbered, no_rates[:2], n=1)
    second = jax.tree.map(lambda part: part[::-1], numbered)
    other, _ = run(train_steps, start(), second, no_rates[:2], n=1)
    assert not same_bits(first.opt_state, other.opt_state)


@tiny.repeats_bits
def test_only_the_first_n_microbatches_are_seen():
    train_steps, start, batches = setup()
    lr_I = np.full(6, 1e-2, np.float32)
    spoilt = batches[:2] + [batch._replace(x_BT=batch.x_BT * 0 + 2) for batch in batches[2:]]
    steps = [run(train_steps, start(), whole(some), lr_I, n=2) for some in (batches, spoilt)]
    assert same_bits(*steps)


def close_but_for_noise(ours, theirs, rtol, atol):
    expected = dict(jax.tree_util.tree_leaves_with_path(theirs))
    for path, leaf in jax.tree_util.tree_leaves_with_path(ours):
        if path[-2:] != (DictKey("key"), DictKey("bias")):  # its true gradient is 0: Adam blows up noise
            np.testing.assert_allclose(leaf, expected[path], rtol=rtol, atol=atol)


def test_padding_changes_no_update():
    train_steps, start, batches = setup(dropout=0.0)
    lr_I = np.full(6, 1e-2, np.float32)
    padded = [
        Batch(*(np.pad(part, ((0, 2), (0, 0))) for part in batch[:2]), np.pad(batch.source_B, (0, 2)))
        for batch in batches
    ]
    plain, _ = run(train_steps, start(), whole(batches), lr_I)
    more, _ = run(train_steps, start(), whole(padded), lr_I)
    # Sums over five rows round in another order than over three: after six updates, which move a parameter by
    # up to 0.06, by 2.4e-7 at the most on a Xeon with AMX, with LLVM's optimisations and without.
    close_but_for_noise(plain.params, more.params, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "variant",
    # The loss does not look into the stack, and padding changes no logits of any variant (test_variants.py).
    STACKS,
)
def test_a_batch_in_microbatches_makes_the_same_update(variant):
    """Five texts of 5 to 63 characters: in three microbatches of two rows, against all rows at once."""
    model, params, _ = tiny.make(
        variant, dropout=0.0, block_size=64, seq_len=63, n_layer=tiny.few_layers(variant)
    )
    tx, rng = make_optimizer(TrainConfig()), np.random.default_rng(7)
    x_BT = np.zeros((5, 63), np.int32)
    for row, length in zip(x_BT, (40, 5, 63, 14, 20)):
        row[:length] = rng.integers(2, 13, length)
    batch = Batch(x_BT, np.where(x_BT > 0, rng.integers(2, 13, x_BT.shape), 0), np.full(5, 4, np.int32))
    batch = predicted(model.cfg, batch)
    add, end = partial(make_add_microbatch(model), jax.random.key(3)), make_end_update(tx)
    results = []
    for n in (1, 3):
        fresh = jax.tree.map(jnp.copy, params)
        state = TrainState(jnp.int32(0), fresh, tx.init(fresh))
        sums = zero_sums(state)
        for microbatch in in_microbatches(batch, n):
            sums = add(state.params, state.step, sums, microbatch)
        state, parts, metrics = end(state, [sums], np.float32(1e-3))
        assert int(state.step) == 1 and not any(leaf.any() for leaf in jax.tree.leaves(parts))
        results.append((state, metrics))
    assert [len(in_microbatches(batch, n)) for n in (1, 3)] == [1, 3]
    shapes = [microbatch.batch.x_BT.shape for microbatch in in_microbatches(batch, 3)]
    assert shapes == [(2, 16), (2, 32), (2, 63)]
    (whole_state, whole_metrics), (state, metrics) = results
    for name in ("loss", "grad_norm"):
        assert float(metrics[name][0]) == pytest.approx(float(whole_metrics[name][0]), rel=1e-5)
    close_but_for_noise(first_moment(state), first_moment(whole_state), rtol=1e-3, atol=1e-6)


def first_moment(state: TrainState):
    """Returns Adam's first moment: after one update, the clipped gradient times 1 - beta1."""
    return state.opt_state[1].mu


def test_a_rate_of_zero_leaves_the_parameters():
    train_steps, start, batches = setup()
    state, _ = run(train_steps, start(), whole(batches), np.zeros(6, np.float32))
    assert same_bits(state.params, start().params)


COURSE_INIT = {  # course name -> kind and scale, written from the course's code for M = 64, C = 256
    r"(.*\.)?(mlp\.[02]|key|query|value|proj|w1|tok_emb|head)\.weight": ("normal", 0.02),
    r".*\.bias|pos_emb|.*\.attn\.b2": ("constant", 0.0),
    r"(.*\.)?ln(1|2|_f)\.weight": ("constant", 1.0),
    r".*\.attn\.w2": ("uniform", 0.001),
    r"down_block\.C": ("uniform", (6 / (64 * 256 + 256)) ** 0.5),
}


@pytest.mark.parametrize("variant", ["vanilla", "synthesizer", "rope", "perceiver"])
def test_initial_distributions_are_the_courses(variant):
    size = dict(n_layer=3, n_head=8, n_embd=256, vocab_size=90, block_size=128, seq_len=127)
    model = GPT(dataclasses.replace(tiny.MODEL, variant=variant, **size))
    params = init_state(model, make_optimizer(TrainConfig()), jax.random.key(0)).params
    for name, array in to_torch(params).items():
        [(kind, scale)] = [rule for pattern, rule in COURSE_INIT.items() if re.fullmatch(pattern, name)]
        low, high, n = array.min(), array.max(), array.size
        if kind == "constant":
            assert low == high == scale, name
            continue
        std = scale if kind == "normal" else scale / 3**0.5
        error = std / n**0.5  # of the mean; that of the standard deviation is smaller
        assert abs(array.mean()) < 5 * error and array.std() == pytest.approx(std, abs=5 * error), name
        most = (3 * std, 6 * std) if kind == "normal" else (scale * (1 - 20 / n), scale)
        assert most[0] <= -low <= most[1] and most[0] <= high <= most[1], name


def test_several_models_at_once_are_each_what_they_are_alone():
    model, _, _ = tiny.make("vanilla", dropout=0.3, n_layer=1)
    tx, (_, _, batches) = make_optimizer(TrainConfig()), setup()
    init_keys, dropout_keys = (jax.random.split(jax.random.key(seed), 3) for seed in (0, 1))
    train_steps, microbatches, lr_J = (
        make_train_steps(model, tx),
        whole(batches[:4]),
        np.full(4, 0.01, np.float32),
    )
    together, metrics = run(
        partial(train_steps, dropout_keys), init_state(model, tx, init_keys), microbatches, lr_J
    )
    losses = []
    for k, (init_key, dropout_key) in enumerate(zip(init_keys, dropout_keys)):
        alone, alones = run(
            partial(train_steps, dropout_key), init_state(model, tx, init_key), microbatches, lr_J
        )
        losses.append(alones["loss"])
        for ours, one in zip(jax.tree.leaves(together.params), jax.tree.leaves(alone.params)):
            np.testing.assert_allclose(ours[k], one, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-5)
    assert together.step.tolist() == [4, 4, 4] and np.std(losses, axis=0).min() > 1e-4


def test_an_update_in_its_own_program_is_the_same():
    """Two models side by side make two updates from the sums of two threads."""
    model, _, _ = tiny.make("vanilla", dropout=0.3, n_layer=1)
    tx, (_, _, batches) = make_optimizer(TrainConfig()), setup()
    keys = jax.random.split(jax.random.key(0), 2)
    halves = [microbatch for batch in batches[:2] for microbatch in in_microbatches(batch, 2)]
    rate_J = np.float32([1e-2, 1e-2, 1e-3, 1e-3])
    state = init_state(model, tx, keys)
    state, _, metrics = make_train_steps(model, tx)(keys, state, zero_sums(state), stack(halves), rate_J, 4)
    assert not np.any(metrics["loss"][:, [0, 2]])  # these two microbatches do not end an update

    apart = init_state(model, tx, keys)
    parts, add, end = [zero_sums(apart) for _ in range(2)], make_add_microbatch(model), make_end_update(tx)
    for first in (0, 2):
        for i in range(2):
            parts[i] = add(keys, apart.params, apart.step, parts[i], halves[first + i])
        apart, parts, ended = end(apart, parts, rate_J[first])
        for name, value_EJ in ended.items():
            np.testing.assert_allclose(value_EJ, metrics[name][:, [first + 1]], rtol=1e-5)
    assert apart.step.tolist() == [2, 2] and not any(leaf.any() for leaf in jax.tree.leaves(parts))
    for ours, theirs in zip(jax.tree.leaves(apart.params), jax.tree.leaves(state.params)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", STACKS)
def test_activations_that_are_computed_again_give_the_same_gradient(variant):
    """With dropout, over each kind of stack."""
    model, params, x_BT = tiny.make(variant, dropout=0.3, n_layer=tiny.few_layers(variant))
    again = GPT(dataclasses.replace(model.cfg, remat=True))

    def gradient(model):
        def loss(params):
            rngs = {"dropout": jax.random.key(1)}
            logits_BTV = model.apply(
                {"params": params}, x_BT, tiny.source_B(variant, 5), train=True, rngs=rngs
            )
            return cross_entropy_sum(logits_BTV, np.roll(x_BT, -1, axis=1))

        return jax.make_jaxpr(jax.grad(loss))(params), jax.jit(jax.grad(loss))(params)

    (plain_ops, plain), (again_ops, computed) = gradient(model), gradient(again)
    assert "remat" in str(again_ops) and "remat" not in str(plain_ops)
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(computed)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
