import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kgpt_jax.model import dense
from kgpt_jax.model.gpt import GPT
from kgpt_jax.model.variants import VARIANTS
from tests import tiny


@pytest.mark.parametrize("factors", ["bfloat16", "float32"])
def test_products_are_those_of_rounded_factors_forward_and_backward(factors):
    rng = np.random.default_rng(0)
    x_NC, w_CF, g_NF = (jnp.float32(rng.standard_normal(shape)) for shape in ((50, 24), (24, 40), (50, 40)))
    y_NF, backward = jax.vjp(lambda x, w: dense.product(x, w, factors), x_NC, w_CF)
    dx_NC, dw_CF = backward(g_NF)
    x, w, g = (np.asarray(jnp.asarray(part, factors), np.float64) for part in (x_NC, w_CF, g_NF))
    for ours, exact in ((y_NF, x @ w), (dx_NC, g @ w.T), (dw_CF, x.T @ g)):
        assert ours.dtype == jnp.float32  # sums are not rounded to bfloat16
        np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=1e-5)


def loss(params, model, x_BT):
    logits_BTV = model.apply({"params": params}, x_BT, train=False)
    return jax.nn.logsumexp(logits_BTV, axis=-1).mean()


def relative_difference(tree, exact):
    ours, exact = (
        jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(part)]) for part in (tree, exact)
    )
    return jnp.linalg.norm(ours - exact) / jnp.linalg.norm(exact)


@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_factors_and_activations_stay_close_to_float32(variant):
    model, params, x_BT = tiny.make(variant)
    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    exact = gradient(params, model, x_BT)
    for dtype, products, most in (
        ("float32", "bfloat16", 0.03),
        ("bfloat16", "float32", 0.05),
        ("bfloat16", "bfloat16", 0.05),
    ):
        other = GPT(dataclasses.replace(model.cfg, dtype=dtype, products=products))
        # 0 would say that the setting has no effect.
        assert 0 < relative_difference(gradient(params, other, x_BT), exact) < most


@pytest.mark.parametrize(
    "flags, chosen",
    [("fma amx_bf16", "bfloat16"), ("avx512_bf16", "bfloat16"), ("fma", "float32"), ("", "float32")],
)
def test_auto_asks_the_processor(monkeypatch, flags, chosen):
    monkeypatch.setattr(dense, "processor", lambda field: flags)
    assert dense.factor_type("auto") == (chosen if jax.default_backend() == "cpu" else "float32")
    assert [dense.factor_type(name) for name in ("float32", "bfloat16")] == ["float32", "bfloat16"]
