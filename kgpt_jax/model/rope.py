"""Rotary position embedding (arXiv 2104.09864): rotates queries and keys by their positions.

Axes: `B` batch, `T` query position, `S` key position, `C` channels, `H` heads, `K` head size, `P` = K / 2
pairs of channels, `1` size one.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kgpt_jax.config import ModelConfig, UserError
from kgpt_jax.model.attention import causal_attention

BASE = 10_000.0


def rotate(h_BHTK: jax.Array, pos_BT: jax.Array) -> jax.Array:
    """Rotates each pair of channels (2p, 2p + 1), a point in the plane, by the angle pos * 10000^(-2p/K).

    The position t of a query and the position s of a key then enter their dot product as t - s only.
    """
    *shape, K = h_BHTK.shape
    rate_P = BASE ** (-jnp.arange(0, K, 2) / K)
    angle_B1TP = pos_BT[:, None, :, None] * rate_P[None, None, None]
    cos, sin = jnp.cos(angle_B1TP), jnp.sin(angle_B1TP)
    even, odd = h_BHTK[..., 0::2], h_BHTK[..., 1::2]
    turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.reshape(*shape, K).astype(h_BHTK.dtype)


class RotaryAttention(nn.Module):
    """softmax(rot(Q) rot(K)^T / sqrt(K)) V over positions up to the query's own.

    A call raises a UserError if heads have an odd number of channels.
    """

    cfg: ModelConfig
    cost = "4 T C C + 2 T T C"

    @nn.compact
    def __call__(self, x_BTC: jax.Array, pos_BT: jax.Array, *, train: bool) -> jax.Array:
        if self.cfg.head_dim % 2:
            raise UserError(
                f"variant 'rope' turns pairs of channels, and n_embd / n_head is {self.cfg.head_dim}: "
                "make it even"
            )
        return causal_attention(self, x_BTC, pos_BT, rotate, train=train)
