"""Attention weights, read off the papers' formulas in plain NumPy."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kgpt_jax.model.linformer import LinformerAttention
from kgpt_jax.model.synthesizer import (
    FactorizedDenseAttention,
    FactorizedRandomAttention,
    MixtureAttention,
    RandomAttention,
    row_lengths,
)
from tests import tiny

CFG = dataclasses.replace(tiny.MODEL, options="attention_block=4,linformer_dim=3")
T, H, K = 11, tiny.MODEL.n_head, tiny.MODEL.head_dim
X_TC = np.random.default_rng(1).standard_normal((T, tiny.MODEL.n_embd)).astype(np.float32)


def applied(attention):
    """Returns the attention's random parameters, its output and its weights (H, T, S) on one text."""
    module = attention(CFG)
    inputs = X_TC[None], jnp.arange(T)[None]
    shapes = jax.eval_shape(partial(module.init, train=False), jax.random.key(0), *inputs)["params"]
    rng = np.random.default_rng(2)
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes)
    y_1TC, found = module.apply({"params": params}, *inputs, train=False, mutable=["intermediates"])
    weights = jax.tree.leaves(found["intermediates"])
    return params, np.asarray(y_1TC[0]), np.asarray(weights[0][0])


def layer(params, name, head):
    mine = slice(head * K, (head + 1) * K)
    return X_TC @ params[name]["kernel"][:, mine] + params[name]["bias"][mine]


def softmax(score_TS):
    """Returns the softmax over positions up to the query's own."""
    weights_TS = np.tril(np.exp(score_TS - score_TS.max(axis=1, keepdims=True)))
    return weights_TS / weights_TS.sum(axis=1, keepdims=True)


def factorized_dense(params, head):
    a, b = row_lengths(tiny.MODEL.seq_len)
    hidden_TK = np.maximum(layer(params, "w1", head), 0)
    stretched_T4 = hidden_TK @ params["w2_a"] + params["b2_a"]
    repeated_T4 = hidden_TK @ params["w2_b"] + params["b2_b"]
    assert (stretched_T4.shape[1], repeated_T4.shape[1]) == (a, b) == (4, 4)
    return np.array([[stretched_T4[t, s // b] * repeated_T4[t, s % b] for s in range(T)] for t in range(T)])


def random(params, head):
    return params["scores"][head, :T, :T]


def factorized_random(params, head):
    return (params["ask"][head] @ params["answer"][head].T)[:T, :T]


def mixture(params, head):
    share = np.exp(params["mixture"]) / np.exp(params["mixture"]).sum()
    products_TS = layer(params, "query", head) @ layer(params, "key", head).T / np.sqrt(K)
    return share[0] * random(params, head) + share[1] * products_TS


@pytest.mark.parametrize(
    "attention, scores",
    [
        (FactorizedDenseAttention, factorized_dense),
        (RandomAttention, random),
        (FactorizedRandomAttention, factorized_random),
        (MixtureAttention, mixture),
    ],
)
def test_synthesizers_weights(attention, scores):
    params, y_TC, weights_HTS = applied(attention)
    heads_TC = []
    for head in range(H):
        expected_TS = softmax(scores(params, head))
        np.testing.assert_allclose(weights_HTS[head], expected_TS, rtol=1e-4, atol=1e-6)
        heads_TC.append(expected_TS @ layer(params, "value", head))
    proj = params["readout"]["proj"]
    expected_TC = np.concatenate(heads_TC, axis=1) @ proj["kernel"] + proj["bias"]
    np.testing.assert_allclose(y_TC, expected_TC, rtol=1e-4, atol=1e-5)


def test_linformer_position_by_position():
    params, y_TC, _ = applied(LinformerAttention)
    W, heads_TC = 4, np.zeros_like(X_TC)
    assert params["E"].shape == (3, CFG.seq_len)
    for head in range(H):
        q_TK, k_TK, v_TK = (layer(params, name, head) for name in ("query", "key", "value"))
        for t in range(T):
            begin = t // W * W  # of its own block
            keys, values = k_TK[begin : t + 1], v_TK[begin : t + 1]
            if begin:
                keys = np.concatenate([params["E"][:, :begin] @ k_TK[:begin], keys])
                values = np.concatenate([params["F"][:, :begin] @ v_TK[:begin], values])
            score_S = keys @ q_TK[t] / np.sqrt(K)
            weights_S = np.exp(score_S - score_S.max())
            heads_TC[t, head * K : (head + 1) * K] = weights_S @ values / weights_S.sum()
    proj = params["readout"]["proj"]
    np.testing.assert_allclose(y_TC, heads_TC @ proj["kernel"] + proj["bias"], rtol=1e-4, atol=1e-4)
