"""Mlp, Block and Stack: what stands between the embeddings and the head.

Axes: `B` batch, `T` positions, `C` channels.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax

from kgpt_jax.config import ModelConfig
from kgpt_jax.model.attention import Dense

LayerNorm = partial(nn.LayerNorm, epsilon=1e-5)


class Mlp(nn.Module):
    """Two layers with the exact GELU between, four times as wide inside."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self, x_BTC: jax.Array, *, train: bool) -> jax.Array:
        cfg = self.cfg
        h_BTF = Dense(4 * cfg.n_embd, dtype=cfg.dtype, name="up")(x_BTC)
        y_BTC = Dense(cfg.n_embd, dtype=cfg.dtype, name="down")(nn.gelu(h_BTF, approximate=False))
        return nn.Dropout(cfg.dropout, deterministic=not train)(y_BTC)


class Block(nn.Module):
    """A pre-norm Transformer layer around any attention."""

    cfg: ModelConfig
    attention: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x_BTC: jax.Array, *, train: bool) -> jax.Array:
        cfg = self.cfg
        h_BTC = LayerNorm(dtype=cfg.dtype, name="ln1")(x_BTC)
        x_BTC += self.attention(cfg, name="attn")(h_BTC, train=train)
        h_BTC = LayerNorm(dtype=cfg.dtype, name="ln2")(x_BTC)
        return x_BTC + Mlp(cfg, name="mlp")(h_BTC, train=train)


class Stack(nn.Module):
    """`n_layer` blocks, one after the other."""

    cfg: ModelConfig
    attention: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x_BTC: jax.Array, *, train: bool) -> jax.Array:
        for i in range(self.cfg.n_layer):
            x_BTC = Block(self.cfg, self.attention, name=f"blocks_{i}")(x_BTC, train=train)
        return x_BTC
