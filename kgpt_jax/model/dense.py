"""The linear layer: with `cfg.products` its matrix products may take bfloat16 factors.

Axes: `N` positions of all texts, `C` channels in, `F` channels out.
"""

from functools import cache, partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint

from kgpt_jax.config import ModelConfig

normal_init = nn.initializers.normal(0.02)


def dense(cfg: ModelConfig, features: int, name: str) -> nn.Module:
    """Returns a linear layer with a bias."""
    factors = products(cfg.products)
    return nn.Dense(
        features,
        dtype=cfg.dtype,
        kernel_init=normal_init,
        name=name,
        dot_general=_dot_general if factors == "bfloat16" else None,
    )


def products(asked: str) -> str:
    """Returns the type of factors: for "auto", bfloat16 on a CPU that multiplies it faster than float32."""
    if asked != "auto":
        return asked
    return "bfloat16" if jax.default_backend() == "cpu" and _cpu_multiplies_bfloat16() else "float32"


@cache
def _cpu_multiplies_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:  # not Linux
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def _dot_general(x, w_CF, dimensions, precision=None):
    """Stands in for `lax.dot_general` in `nn.Dense`, where the last axis of x meets the first of w."""
    return product(x, w_CF, "bfloat16").astype(x.dtype)


def product(x: jax.Array, w_CF: jax.Array, factors: str) -> jax.Array:
    """Returns x w, (..., F), in float32, from factors rounded to `factors`, and gradients likewise.

    XLA's fast path for bfloat16 on CPUs takes row-major factors only, hence the transposes that are really
    made. In float32, too, the gradient of w then costs a transpose of x, and not one of all of x w.
    """
    y_NF = _product(x.reshape(-1, x.shape[-1]), w_CF, factors)
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
