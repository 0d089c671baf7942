"""Causal attention, and what every attention shares: the cache, the readout, the layers' initialisers.

Axes: `B` batch, `T` positions that ask, `S` positions that are looked at, `C` channels, `H` heads,
`K` head size.

An attention is a module `(x_BTC, *, train) -> y_BTC` in which position t never sees a later one.
Decoding reads a text piece by piece: when the caller makes the "cache" collection mutable, `remember`
keeps what earlier pieces left there, and the same code runs with T new positions after S - T old ones.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from kgpt_jax.config import ModelConfig

normal_init = nn.initializers.normal(0.02)
Dense = partial(nn.Dense, kernel_init=normal_init)


def position(module: nn.Module, T: int) -> jax.Array | int:
    """Returns the position of the first of T new inputs, and moves the cache's counter past them."""
    if not module.is_mutable_collection("cache"):
        return 0
    index = module.variable("cache", "index", jnp.zeros, (), jnp.int32)
    start = index.value
    index.value = start + T
    return start


def remember(module: nn.Module, name: str, new_BTHK: jax.Array, start, length: int) -> jax.Array:
    """Returns all positions known so far: `new_BTHK` itself or, in decoding, the cache it went into.

    The cache has a fixed length; positions past the newest hold zeros, which the causal mask hides.
    """
    if not module.is_mutable_collection("cache"):
        return new_BTHK
    B, _, H, K = new_BTHK.shape
    cache = module.variable("cache", name, jnp.zeros, (B, length, H, K), new_BTHK.dtype)
    cache.value = lax.dynamic_update_slice(cache.value, new_BTHK, (0, start, 0, 0))
    return cache.value


def split_heads(x_BTC: jax.Array, n_head: int) -> jax.Array:
    B, T, C = x_BTC.shape
    return x_BTC.reshape(B, T, n_head, C // n_head)


class Readout(nn.Module):
    """Causal softmax of the scores, the values' mean under it, and the output projection."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self, att_BHTS: jax.Array, v_BSHK: jax.Array, start, *, train: bool) -> jax.Array:
        cfg = self.cfg
        B, _, T, S = att_BHTS.shape
        seen_TS = jnp.arange(S) <= start + jnp.arange(T)[:, None]
        att_BHTS = jnp.where(seen_TS, att_BHTS.astype(jnp.float32), -jnp.inf)
        att_BHTS = nn.softmax(att_BHTS).astype(v_BSHK.dtype)
        att_BHTS = nn.Dropout(cfg.dropout, deterministic=not train)(att_BHTS)
        y_BTHK = jnp.einsum("BHTS,BSHK->BTHK", att_BHTS, v_BSHK)
        y_BTC = Dense(cfg.n_embd, dtype=cfg.dtype, name="proj")(y_BTHK.reshape(B, T, cfg.n_embd))
        return nn.Dropout(cfg.dropout, deterministic=not train)(y_BTC)


class CausalAttention(nn.Module):
    """softmax(Q K^T / sqrt(K)) V over the positions up to one's own (arXiv 1706.03762)."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self, x_BTC: jax.Array, *, train: bool) -> jax.Array:
        cfg = self.cfg
        dense = partial(Dense, cfg.n_embd, dtype=cfg.dtype)
        q_BTHK = split_heads(dense(name="query")(x_BTC), cfg.n_head) * cfg.head_dim**-0.5
        k_BTHK = split_heads(dense(name="key")(x_BTC), cfg.n_head)
        v_BTHK = split_heads(dense(name="value")(x_BTC), cfg.n_head)
        start = position(self, x_BTC.shape[1])
        k_BSHK = remember(self, "keys", k_BTHK, start, cfg.seq_len)
        v_BSHK = remember(self, "values", v_BTHK, start, cfg.seq_len)
        att_BHTS = jnp.einsum("BTHK,BSHK->BHTS", q_BTHK, k_BSHK)
        return Readout(cfg, name="readout")(att_BHTS, v_BSHK, start, train=train)
