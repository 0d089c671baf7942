"""The linear layer: with `cfg.products` its matrix products may take bfloat16 factors.

Axes: `N` positions of all texts, `C` channels in, `F` channels out.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from kgpt_jax.config import ModelConfig
from kgpt_jax.environment import processor

normal_init = nn.initializers.normal(0.02)


def dense(cfg: ModelConfig, features: int, name: str) -> nn.Module:
    """Returns a linear layer with a bias."""
    return nn.Dense(
        features,
        dtype=cfg.dtype,
        kernel_init=normal_init,
        name=name,
        dot_general=_dot_general if factor_type(cfg.products) == "bfloat16" else None,
    )


def factor_type(products: str) -> str:
    """Returns what `cfg.products` stands for: "auto" is bfloat16 where a CPU has instructions for it."""
    if products != "auto":
        return products
    fast = {"amx_bf16", "avx512_bf16"} & set(processor("flags").split())
    return "bfloat16" if jax.default_backend() == "cpu" and fast else "float32"


def _dot_general(x, w_CF, dimensions, precision=None):
    """Stands in for `lax.dot_general` in `nn.Dense`, where the last axis of x meets the first of w."""
    return product(x, w_CF, "bfloat16").astype(x.dtype)


def product(x: jax.Array, w_CF: jax.Array, factors: str) -> jax.Array:
    """Returns x w, (..., F), in float32, from factors rounded to `factors`, and gradients likewise.

    XLA's fast path for bfloat16 on CPUs takes row-major factors only, hence the transposes that are really
    made. In float32, too, the gradient of w then costs a transpose of x, and not one of all of x w.
    """
    x_NC = x.reshape(-1, x.shape[-1])
    y_NF = _product(x_NC.astype(jnp.float32), w_CF.astype(jnp.float32), factors)
    return y_NF.reshape(*x.shape[:-1], -1)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x_NC, w_CF, factors):
    return _dot(x_NC, w_CF, factors)


def _forward(x_NC, w_CF, factors):
    return _dot(x_NC, w_CF, factors), (x_NC.astype(factors), w_CF.astype(factors))


def _backward(factors, saved, g_NF):
    x_NC, w_CF = saved
    return _dot(g_NF, _row_major(w_CF.T), factors), _dot(_row_major(x_NC.T), g_NF, factors)


_product.defvjp(_forward, _backward)


def _dot(a, b, factors):
    return jnp.dot(a.astype(factors), b.astype(factors), preferred_element_type=jnp.float32)


def _row_major(matrix: jax.Array) -> jax.Array:
    if jax.default_backend() != "cpu":
        return matrix
    return with_layout_constraint(matrix, Layout(major_to_minor=(0, 1)))
