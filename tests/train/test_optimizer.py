import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kgpt_jax.config import TrainConfig, load_recipe
from kgpt_jax.train.optimizer import decayed, learning_rates, make_optimizer
from tests import tiny

WIKI = 2938  # documents of the course's wiki.txt
COURSE = TrainConfig(
    epochs=650,
    batch_size=128,
    learning_rate=6e-3,
    warmup_tokens=512 * 20,
    final_tokens=200 * WIKI * 128,
    first_step_at_peak=True,
)


def rate_after(epoch, rates, per_epoch):
    """Returns the rate that the course prints after an epoch, which is that of the next update."""
    return f"{rates[epoch * per_epoch]:e}"


@pytest.mark.parametrize(
    "epoch, printed",
    [(1, "5.999844e-04"), (10, "5.983263e-04"), (75, "5.100024e-04")],
)
def test_rates_that_public_finetuning_logs_print(epoch, printed):
    cfg = dataclasses.replace(COURSE, epochs=76, batch_size=256, learning_rate=6e-4)
    rates = learning_rates(cfg, n_examples=2000, seq_len=127)
    assert len(rates) == 76 * 8
    assert rate_after(epoch, rates, 8) == printed


@pytest.mark.parametrize(
    "documents, epoch, printed",
    [
        (WIKI, 1, "5.999655e-03"),
        (WIKI, 5, "5.990993e-03"),
        (WIKI, 100, "3.037461e-03"),
        (WIKI, 200, "6.000000e-04"),
        (WIKI, 400, "5.996448e-03"),
        (WIKI, 649, "6.881640e-04"),
        (WIKI, 650, "7.182453e-04"),
        (WIKI - 1, 650, "7.182460e-04"),  # printed where the last, empty document was dropped
    ],
)
def test_rates_that_public_pretraining_logs_print(documents, epoch, printed):
    cfg = dataclasses.replace(COURSE, epochs=651, final_tokens=200 * documents * 128)
    rates = learning_rates(cfg, n_examples=documents, seq_len=127)
    assert len(rates) == 651 * 23
    assert rate_after(epoch, rates, 23) == printed


def test_since_2024_a_question_counts_127_tokens_and_a_document_128():
    """The course's question/answer texts kept their 127 columns when pretraining got one more."""
    recipe = load_recipe("configs/course_2024.py")
    assert recipe.model.seq_len == 128
    scratch = learning_rates(recipe.scratch, n_examples=2000, seq_len=128)
    assert f"{scratch[-1]:.4e}" == "5.1024e-04"
    rates = learning_rates(recipe.pretrain, n_examples=WIKI, seq_len=128)
    assert rates[-1] == pytest.approx(6e-4, rel=1e-6)  # one decay over all 650 epochs, to a tenth


def test_the_courses_first_update_runs_at_the_peak():
    assert learning_rates(COURSE, WIKI, 127)[0] == 6e-3


def test_our_own_warms_up_and_decays_once():
    cfg = TrainConfig(epochs=10, batch_size=10, learning_rate=1e-3, warmup_tokens=500)
    rates = learning_rates(cfg, n_examples=95, seq_len=10)
    assert len(rates) == 100
    np.testing.assert_allclose(rates[:4], [2e-4, 4e-4, 6e-4, 8e-4])
    assert rates[4] == 1e-3  # 500 tokens
    assert (np.diff(rates[4:]) <= 0).all()
    assert rates[-1] == pytest.approx(1e-4)


def test_the_short_last_batch_counts_its_own_tokens():
    cfg = TrainConfig(epochs=50, batch_size=10, learning_rate=1.0, warmup_tokens=1000)
    rates = learning_rates(cfg, n_examples=25, seq_len=10)
    np.testing.assert_allclose(rates[:4], [0.1, 0.2, 0.25, 0.35])


def test_warming_up_takes_a_tenth_of_a_short_run():
    cfg = TrainConfig(epochs=1, batch_size=1, learning_rate=1.0, warmup_tokens=10**9)
    rates = learning_rates(cfg, n_examples=100, seq_len=10)
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10)
    assert rates[10] < 1.0


def test_decay_spares_biases_only():
    params = {"ln": {"scale": 1, "bias": 1}, "w2": 1, "b2": 1, "tok_emb": {"embedding": 1}}
    assert decayed(params) == {
        "ln": {"scale": True, "bias": False},
        "w2": True,
        "b2": True,
        "tok_emb": {"embedding": True},
    }


@pytest.mark.parametrize(
    "muon_learning_rate, shrinking, factor",
    [
        (0.0, r"(?!.*\bbias$)", 1 - 1e-3 * 0.1),  # b2, a bias by another name, shrinks
        (0.02, r"stack/.*/(w1|value|proj|up|down)/kernel$", 1 - 0.02 * 0.1),
    ],
)
def test_without_a_gradient_only_what_decays_shrinks(muon_learning_rate, shrinking, factor):
    params = jax.tree.map(jnp.ones_like, tiny.make("synthesizer")[1])
    tx = make_optimizer(
        TrainConfig(learning_rate=1e-3, muon_learning_rate=muon_learning_rate, weight_decay=0.1)
    )
    no_grads = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(tx.update)(no_grads, tx.init(params), params, learning_rate=1e-3)
    for path, param in jax.tree_util.tree_leaves_with_path(optax.apply_updates(params, updates)):
        name = "/".join(key.key for key in path)
        expected = factor if re.match(shrinking, name) else 1.0
        np.testing.assert_allclose(param, expected, rtol=1e-6, err_msg=name)


def test_muon_turns_the_blocks_matrices_orthogonal_and_leaves_the_rest_to_adam():
    _, params, _ = tiny.make("synthesizer", n_embd=32)
    grads = jax.tree.map(lambda p: jax.random.normal(jax.random.key(p.size), p.shape), params)
    cfg = TrainConfig(learning_rate=1e-3, muon_learning_rate=0.02, weight_decay=0.0, clip_norm=1e9)
    tx = make_optimizer(cfg)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params, learning_rate=1.0)
    updates = jax.tree.map(jnp.negative, updates)  # so that they point along the gradient
    up_CF = updates["stack"]["blocks_0"]["mlp"]["up"]["kernel"] / 20  # Muon's rate, for a rate of 1 of AdamW
    singular = jnp.linalg.svd(up_CF, compute_uv=False) / np.sqrt(128 / 32)  # Muon's scale by shape
    assert 0.5 < singular.min() and singular.max() < 1.5
    gradient_CF = grads["stack"]["blocks_0"]["mlp"]["up"]["kernel"]
    assert (up_CF * gradient_CF).sum() > 0.8 * jnp.linalg.norm(up_CF) * jnp.linalg.norm(gradient_CF)
    adam = optax.scale_by_adam(0.9, 0.95, nesterov=True)
    expected, _ = adam.update(grads, adam.init(params), params)
    for name in ("w2", "b2"):
        ours = updates["stack"]["blocks_0"]["attn"][name]
        np.testing.assert_allclose(ours, expected["stack"]["blocks_0"]["attn"][name], rtol=1e-5)
    np.testing.assert_allclose(updates["head"]["kernel"], expected["head"]["kernel"], rtol=1e-5)


def test_muon_learns_downhill():
    """Twenty updates on one batch lower its loss, by the same sign as AdamW's."""
    from kgpt_jax.data.batches import Batch, in_microbatches, stack
    from kgpt_jax.train.step import TrainState, make_train_steps, zero_sums

    model, params, x_BT = tiny.make("vanilla")
    tx = make_optimizer(TrainConfig(learning_rate=3e-3, muon_learning_rate=0.02))
    one = in_microbatches(Batch(x_BT, np.roll(x_BT, -1, axis=1), np.ones(3, np.int32)), 1)
    state = TrainState(jnp.int32(0), params, tx.init(params))
    train_steps, key, rate_J = make_train_steps(model, tx), jax.random.key(0), np.full(20, 3e-3, np.float32)
    losses = train_steps(key, state, zero_sums(state), stack(one * 20), rate_J, 20)[2]["loss"]
    assert losses[-1] < 0.8 * losses[0]


def test_warmup_stable_decay_rises_stays_and_falls_in_a_line():
    """100 updates of 10 tokens: 50 to warm up, at the peak to 600 of 1,000, then 400 down to a tenth."""
    how = dict(schedule="wsd", decay_from=0.6, floor=0.1, warmup_tokens=50, epochs=100, batch_size=1)
    rates = learning_rates(TrainConfig(learning_rate=2.0, **how), 1, 10)
    np.testing.assert_allclose(rates[[0, 2, 4, 30, 59]], [0.4, 1.2, 2.0, 2.0, 2.0])
    np.testing.assert_allclose(rates[[69, 79, 99]], [1.55, 1.1, 0.2])
