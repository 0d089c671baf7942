"""What every variant must keep, and what each is known for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kgpt_jax.config import ModelConfig, UserError
from kgpt_jax.data.vocab import PAD_ID
from kgpt_jax.model.gpt import GPT
from kgpt_jax.model.synthesizer import SynthesizerAttention
from kgpt_jax.model.variants import VARIANTS
from kgpt_jax.train.torch_params import abstract_params
from tests import tiny

FULL_SIZE = {"vanilla": 3_323_392, "synthesizer": 3_076_988}  # the course's own counts
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def logits(model, params, x_BT):
    return model.apply({"params": params}, x_BT, train=False)


@every_variant
def test_full_size_parameter_count(variant):
    shapes = abstract_params(ModelConfig(variant=variant, vocab_size=256))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == FULL_SIZE[variant]


@every_variant
@pytest.mark.parametrize("T", [1, 7, 15])
def test_shape_is_kept(variant, T):
    model, params, x_BT = tiny.make(variant)
    assert logits(model, params, x_BT[:, :T]).shape == (3, T, 13)
    stack = VARIANTS[variant](model.cfg)
    x_BTC = jnp.ones((2, T, 8))
    y_BTC = stack.apply({"params": params["stack"]}, x_BTC, train=False)
    assert y_BTC.shape == x_BTC.shape


@every_variant
@pytest.mark.parametrize("t", [0, 6, 13])
def test_logits_ignore_every_later_character(variant, t):
    model, params, x_BT = tiny.make(variant)
    later_BT = x_BT.copy()
    later_BT[:, t + 1 :] = (later_BT[:, t + 1 :] - 2 + 5) % 11 + 2
    before, after = logits(model, params, x_BT), logits(model, params, later_BT)
    np.testing.assert_array_equal(before[:, : t + 1], after[:, : t + 1])
    assert (before[:, t + 1 :] != after[:, t + 1 :]).any()


@every_variant
@pytest.mark.parametrize("t", [0, 6, 13])
def test_gradient_reaches_every_earlier_position_and_no_later_one(variant, t):
    model, params, x_BT = tiny.make(variant)

    def logits_at_t(pos_PC):
        return logits(model, params | {"pos_emb": pos_PC}, x_BT)[0, t].sum()

    grad_PC = jax.grad(logits_at_t)(params["pos_emb"])
    assert (abs(grad_PC[: t + 1]).sum(axis=1) > 0).all()
    assert not grad_PC[t + 1 :].any()


@every_variant
def test_padding_to_the_right_changes_nothing(variant):
    model, params, x_BT = tiny.make(variant)
    padded_BT = x_BT.copy()
    padded_BT[:, 9:] = PAD_ID
    short, padded = logits(model, params, x_BT[:, :9]), logits(model, params, padded_BT)[:, :9]
    np.testing.assert_allclose(short, padded, rtol=1e-5, atol=1e-6)


@every_variant
def test_every_parameter_gets_a_finite_gradient(variant):
    model, params, x_BT = tiny.make(variant)

    def loss_fn(params):
        log_p_BTV = jax.nn.log_softmax(logits(model, params, x_BT))
        return -log_p_BTV[..., 3].mean()

    for path, grad in jax.tree_util.tree_leaves_with_path(jax.grad(loss_fn)(params)):
        name = jax.tree_util.keystr(path)
        assert jnp.isfinite(grad).all(), name
        # A key's bias adds the same to all scores of a row, which softmax takes away again.
        assert grad.any() or "['key']['bias']" in name, name


@every_variant
@pytest.mark.parametrize("pieces", [[1] * 15, [6, 1, 1, 7], [15]])
def test_cached_logits_equal_uncached(variant, pieces):
    model, params, x_BT = tiny.make(variant)
    collections, parts, start = {"params": params}, [], 0
    for T in pieces:
        piece_BT = x_BT[:, start : start + T]
        part, updated = model.apply(collections, piece_BT, train=False, mutable=["cache"])
        collections, start = {"params": params} | updated, start + T
        parts.append(part)
    np.testing.assert_allclose(
        np.concatenate(parts, axis=1), logits(model, params, x_BT), rtol=1e-5, atol=1e-5
    )


@every_variant
def test_bfloat16_stays_close(variant):
    model, params, x_BT = tiny.make(variant)
    half = GPT(dataclasses.replace(model.cfg, dtype="bfloat16"))
    full_BTV, half_BTV = logits(model, params, x_BT), logits(half, params, x_BT)
    assert half_BTV.dtype == jnp.float32
    assert jnp.linalg.norm(half_BTV - full_BTV) < 0.03 * jnp.linalg.norm(full_BTV)


@every_variant
def test_dropout_acts_in_training_only(variant):
    model, params, x_BT = tiny.make(variant, dropout=0.5)

    def trained(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return model.apply({"params": params}, x_BT, train=True, rngs=rngs)

    assert (trained(0) == trained(0)).all() and (trained(0) != trained(1)).any()
    assert (logits(model, params, x_BT) != trained(0)).any()


def test_synthesizer_is_the_papers_formula():
    """softmax(relu(X A + a) B + b) X V per head, read off arXiv 2005.00743 in plain NumPy."""
    cfg, (B, T, C) = tiny.MODEL, (2, 6, 8)
    x_BTC = np.random.default_rng(1).standard_normal((B, T, C)).astype(np.float32)
    module = SynthesizerAttention(cfg)
    params = module.init(jax.random.key(0), x_BTC, train=False)["params"]
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(1), p.shape), params)
    p = jax.tree.map(np.asarray, params)
    expected = np.zeros_like(x_BTC)
    for b in range(B):
        for head in range(cfg.n_head):
            mine = slice(head * cfg.head_dim, (head + 1) * cfg.head_dim)
            hidden = np.maximum(x_BTC[b] @ p["w1"]["kernel"][:, mine] + p["w1"]["bias"][mine], 0)
            scores = hidden @ p["w2"] + p["b2"]
            values = x_BTC[b] @ p["value"]["kernel"][:, mine] + p["value"]["bias"][mine]
            for t in range(T):
                weights = np.exp(scores[t, : t + 1])
                expected[b, t, mine] = weights @ values[: t + 1] / weights.sum()
    proj = p["readout"]["proj"]
    expected = expected @ proj["kernel"] + proj["bias"]
    ours = module.apply({"params": params}, x_BTC, train=False)
    np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_unknown_variant_lists_the_known():
    with pytest.raises(UserError, match="unknown variant 'gated'; choose from vanilla, synthesizer"):
        tiny.make("gated")
