"""The linear layer. If `cfg.products` is bfloat16, its matrix products round their factors to bfloat16.

Axes: `B` here all axes but the last, flattened; `I` channels in, `O` channels out.
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
    """Returns a linear layer with a bias, initialised as in GPT-2: kernel N(0, 0.02), bias 0."""
    factor_dtype = factor_type(cfg.products)
    is_ours = cfg.dtype == "float32" or factor_dtype == "bfloat16"
    return nn.Dense(
        features,
        dtype=cfg.dtype,
        kernel_init=normal_init,
        name=name,
        dot_general=partial(_dot_general, factor_dtype) if is_ours else None,
    )


def factor_type(products: str) -> str:
    """Returns the factors' type. "auto" is bfloat16 on a CPU that multiplies it faster, else float32."""
    if products != "auto":
        return products
    fast = {"amx_bf16", "avx512_bf16"} & set(processor("flags").split())
    return "bfloat16" if jax.default_backend() == "cpu" and fast else "float32"


def _dot_general(factor_dtype: str, x, w_IO, dimensions, precision=None):
    """Replaces `lax.dot_general` in `nn.Dense`, which contracts the last axis of x with the first of w."""
    return product(x, w_IO, factor_dtype).astype(x.dtype)


def product(x: jax.Array, w_IO: jax.Array, factor_dtype: str) -> jax.Array:
    """Returns the matrix product x w of rounded factors. The gradients round their factors, too.

    Args:
      x: an array with any number of axes; the last one is I.
      w_IO: the matrix.
      factor_dtype: the type to which both are rounded, "float32" or "bfloat16".

    Returns:
      A float32 array whose last axis is O.
    """
    x_BI = x.reshape(-1, x.shape[-1])
    y_BO = _product(x_BI.astype(jnp.float32), w_IO.astype(jnp.float32), factor_dtype)
    return y_BO.reshape(*x.shape[:-1], -1)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x_BI, w_IO, factor_dtype):
    return _dot(x_BI, w_IO, factor_dtype)


def _forward(x_BI, w_IO, factor_dtype):
    return _dot(x_BI, w_IO, factor_dtype), (x_BI.astype(factor_dtype), w_IO.astype(factor_dtype))


def _backward(factor_dtype, saved, g_BO):
    # On CPUs, XLA's fast kernels take no transposed first factor, so the gradient of w copies one in row
    # order: the factor with fewer channels. They take a transposed second factor if `einsum` names its axes,
    # but not as `w_IO.T`.
    x_BI, w_IO = saved
    g_BO = g_BO.astype(factor_dtype)
    if x_BI.shape[1] <= g_BO.shape[1]:
        grad_IO = _dot(_row_major(x_BI.T), g_BO, factor_dtype)
    else:
        grad_IO = _row_major(_dot(_row_major(g_BO.T), x_BI, factor_dtype)).T
    return jnp.einsum("BO,IO->BI", g_BO, w_IO, preferred_element_type=jnp.float32), grad_IO


_product.defvjp(_forward, _backward)


def _dot(a, b, dtype):
    return jnp.dot(a.astype(dtype), b.astype(dtype), preferred_element_type=jnp.float32)


def _row_major(matrix: jax.Array) -> jax.Array:
    if jax.default_backend() != "cpu":
        return matrix
    return with_layout_constraint(matrix, Layout(major_to_minor=(0, 1)))
