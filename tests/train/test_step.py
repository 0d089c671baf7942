import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import DictKey

from kgpt_jax.config import TrainConfig
from kgpt_jax.data.batches import Batch
from kgpt_jax.train.optimizer import make_optimizer
from kgpt_jax.train.step import (
    TrainState,
    init_state,
    make_train_steps,
    masked_cross_entropy,
    predicted,
)
from tests import tiny


def test_loss_is_the_mean_over_targets_that_are_not_padding():
    logits_BTV = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], [[0.2, 0.7, 0.1], [1, 1, 1]]]))
    y_BT = jnp.array([[1, 2], [0, 0]])
    expected = -(np.log(0.25) + np.log(0.8)) / 2
    assert float(masked_cross_entropy(logits_BTV, y_BT)) == pytest.approx(expected, rel=1e-6)
    assert float(masked_cross_entropy(logits_BTV, jnp.zeros_like(y_BT))) == 0.0


def test_a_source_read_as_a_whole_has_no_targets():
    y_BT = np.array([[4, 5, 6, 7, 8], [4, 5, 6, 0, 0], [0, 0, 0, 0, 0]])
    batch = Batch(y_BT, y_BT, np.array([3, 1, 0]))
    assert predicted(tiny.config("vanilla").model, batch) is y_BT
    expected = [[0, 0, 6, 7, 8], [4, 5, 6, 0, 0], [0, 0, 0, 0, 0]]
    assert predicted(tiny.config("encoder_decoder").model, batch).tolist() == expected


def setup(variant="vanilla", dropout=0.3):
    model, params, x_BT = tiny.make(variant, dropout=dropout)
    tx = make_optimizer(TrainConfig())
    rng = np.random.default_rng(5)
    x_IBT = rng.integers(2, 13, (6, 3, 15)).astype(np.int32)
    batches = Batch(x_IBT, np.roll(x_IBT, -1, axis=2), np.full((6, 3), 4, np.int32))

    def start():
        fresh = jax.tree.map(jnp.copy, params)  # the step donates its state
        return TrainState(jnp.int32(0), fresh, tx.init(fresh))

    return make_train_steps(model, tx, jax.random.key(3)), start, batches


def same_bits(a, b):
    return all((np.asarray(x) == np.asarray(y)).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


@pytest.mark.parametrize("variant", ["vanilla", "encoder_decoder"])
def test_many_updates_in_one_dispatch_equal_one_by_one(variant):
    train_steps, start, batches = setup(variant)
    lr_I = np.full(6, 1e-2, np.float32)
    at_once, metrics = train_steps(start(), batches, lr_I, 6)
    state, losses = start(), []
    for i in range(6):
        one = jax.tree.map(lambda part: np.stack([part[i]] * 6), batches)  # noqa: B023
        state, single = train_steps(state, one, lr_I, 1)
        losses.append(float(single["loss"][0]))
    assert int(state.step) == int(at_once.step) == 6
    assert same_bits(state, at_once)
    assert losses == metrics["loss"].tolist()


def test_dropout_differs_between_updates():
    train_steps, start, batches = setup()
    first = jax.tree.map(lambda part: np.stack([part[0]] * 6), batches)
    losses = train_steps(start(), first, np.zeros(6, np.float32), 6)[1]["loss"]
    assert len(set(losses.tolist())) == 6  # a rate of 0: only dropout can differ


def test_only_the_first_n_batches_are_seen():
    train_steps, start, batches = setup()
    lr_I = np.full(6, 1e-2, np.float32)
    spoilt = Batch(*(part.copy() for part in batches))
    spoilt.x_BT[2:], spoilt.y_BT[2:] = 0, 0
    assert same_bits(train_steps(start(), batches, lr_I, 2), train_steps(start(), spoilt, lr_I, 2))


def test_padding_changes_no_update():
    train_steps, start, batches = setup(dropout=0.0)
    lr_I = np.full(6, 1e-2, np.float32)
    missing = ((0, 0), (0, 2))
    x_IBT, y_IBT = (np.pad(part, (*missing, (0, 0))) for part in batches[:2])
    padded = Batch(x_IBT, y_IBT, np.pad(batches.source_B, missing))
    plain, _ = train_steps(start(), batches, lr_I, 6)
    more, _ = train_steps(start(), padded, lr_I, 6)
    expected = dict(jax.tree_util.tree_leaves_with_path(more.params))
    for path, ours in jax.tree_util.tree_leaves_with_path(plain.params):
        if path[-2:] != (DictKey("key"), DictKey("bias")):  # its true gradient is 0: Adam blows up noise
            np.testing.assert_allclose(ours, expected[path], rtol=1e-3, atol=2e-4)


def test_a_rate_of_zero_leaves_the_parameters():
    train_steps, start, batches = setup()
    state, _ = train_steps(start(), batches, np.zeros(6, np.float32), 6)
    assert same_bits(state.params, start().params)


def test_init_is_the_references():
    """Linear layers and embeddings N(0, 0.02), biases and positions 0, norms 1."""
    model, _, _ = tiny.make("vanilla", n_embd=64)
    params = init_state(model, make_optimizer(TrainConfig()), jax.random.key(0)).params
    block = params["stack"]["blocks_0"]
    assert float(block["mlp"]["up"]["kernel"].std()) == pytest.approx(0.02, rel=0.05)
    assert float(params["tok_emb"]["embedding"].std()) == pytest.approx(0.02, rel=0.1)
    assert not params["pos_emb"].any() and not block["attn"]["query"]["bias"].any()
    assert (block["ln1"]["scale"] == 1).all()
