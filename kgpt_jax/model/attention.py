"""Causal attention, and what every attention shares: projections, cache, mask, readout.

Axes: `B` batch, `T` positions that ask, `S` positions that are looked at, `C` channels, `H` heads,
`K` head size, `1` an axis of size one.

An attention is a module `(x_BTC, pos_BT, *, train) -> y_BTC` in which position t never sees a later one;
`pos_BT` (or `pos_1T`, where all rows agree) says which positions these are. `cost` counts its multiplications
for one text (`explore/costs.py` lists the letters).

Decoding reads the prompt at once and then position by position: when the caller makes the "cache"
collection mutable, `remember` keeps what earlier calls left there.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from kgpt_jax.config import ModelConfig
from kgpt_jax.model.dense import dense
from kgpt_jax.model.dropout import Dropout


def heads(cfg: ModelConfig, name: str, x_BTC: jax.Array) -> jax.Array:
    """Returns a linear layer of the inputs, cut into heads: (B, T, H, K)."""
    B, T, _ = x_BTC.shape
    h_BTC = dense(cfg, cfg.n_embd, name)(x_BTC)
    return h_BTC.reshape(B, T, cfg.n_head, cfg.head_dim)


def remember(module: nn.Module, name: str, new: jax.Array, pos_BT: jax.Array) -> jax.Array:
    """Returns what is known of all positions: `new` (B, T, ...) or, in decoding, the cache it went into.

    The cache has `seq_len` positions; those that a row has not reached hold what the mask hides.
    """
    if not module.is_mutable_collection("cache"):
        return new
    B, _, *rest = new.shape
    cache = module.variable("cache", name, jnp.zeros, (B, module.cfg.seq_len, *rest), new.dtype)
    start_B = jnp.broadcast_to(pos_BT[:, 0], (B,))
    cache.value = jax.vmap(partial(lax.dynamic_update_slice_in_dim, axis=0))(cache.value, new, start_B)
    return cache.value


def once(module: nn.Module, name: str, make: Callable[[], jax.Array]) -> jax.Array:
    """Returns `make()` or, in decoding, what it returned at the first call."""
    if not module.is_mutable_collection("cache"):
        return make()
    return module.variable("cache", name, make).value


def causal(pos_BT: jax.Array, S: int) -> jax.Array:
    """Returns the mask (B, 1, T, S) of the positions up to one's own."""
    return jnp.arange(S) <= pos_BT[:, None, :, None]


def same(h_BTHK: jax.Array, pos_BT: jax.Array) -> jax.Array:
    return h_BTHK


def queries_keys_values(module: nn.Module, x_BTC: jax.Array, pos_BT: jax.Array, turn=same):
    """Returns scaled queries of the new positions, and keys and values of all that are known.

    `turn(h_BTHK, pos_BT)` is applied to queries and keys.
    """
    cfg = module.cfg
    q_BTHK = turn(heads(cfg, "query", x_BTC), pos_BT) * cfg.head_dim**-0.5
    k_BSHK = remember(module, "keys", turn(heads(cfg, "key", x_BTC), pos_BT), pos_BT)
    v_BSHK = remember(module, "values", heads(cfg, "value", x_BTC), pos_BT)
    return q_BTHK, k_BSHK, v_BSHK


def dot_products(q_BTHK: jax.Array, k_BSHK: jax.Array) -> jax.Array:
    return jnp.einsum("BTHK,BSHK->BHTS", q_BTHK, k_BSHK)


class Readout(nn.Module):
    """Softmax of the scores that the mask leaves, the values' mean under it, and the output projection.

    Who makes the "intermediates" collection mutable finds the softmax there, under the name `sown`.
    """

    cfg: ModelConfig
    sown: str = "weights"  # by position; another name where columns are not positions

    @nn.compact
    def __call__(self, att_BHTS: jax.Array, seen_B1TS: jax.Array, v_BSHK: jax.Array, *, train: bool):
        cfg = self.cfg
        B, _, T, _ = att_BHTS.shape
        att_BHTS = jnp.where(seen_B1TS, att_BHTS.astype(jnp.float32), -jnp.inf)
        att_BHTS = nn.softmax(att_BHTS)
        self.sow("intermediates", self.sown, att_BHTS)
        att_BHTS = Dropout(cfg.dropout)(att_BHTS.astype(v_BSHK.dtype), train=train)
        y_BTHK = jnp.einsum("BHTS,BSHK->BTHK", att_BHTS, v_BSHK)
        y_BTC = dense(cfg, cfg.n_embd, "proj")(y_BTHK.reshape(B, T, cfg.n_embd))
        return Dropout(cfg.dropout)(y_BTC, train=train)


class CausalAttention(nn.Module):
    """softmax(Q K^T / sqrt(K)) V over the positions up to one's own (arXiv 1706.03762)."""

    cfg: ModelConfig
    cost = "4 T C C + 2 T T C"

    @nn.compact
    def __call__(self, x_BTC: jax.Array, pos_BT: jax.Array, *, train: bool) -> jax.Array:
        q_BTHK, k_BSHK, v_BSHK = queries_keys_values(self, x_BTC, pos_BT)
        seen_B1TS = causal(pos_BT, k_BSHK.shape[1])
        return Readout(self.cfg, name="readout")(dot_products(q_BTHK, k_BSHK), seen_B1TS, v_BSHK, train=train)


class MemoryAttention(nn.Module):
    """softmax(Q K^T / sqrt(K)) V with queries from x, keys and values from a memory, and any mask.

    `seen_B1TS` says who sees whom; each position must see one. Nothing is cached.
    """

    cfg: ModelConfig

    @nn.compact
    def __call__(self, x_BTC: jax.Array, memory_BSC: jax.Array, seen_B1TS: jax.Array, *, train: bool):
        q_BTHK = heads(self.cfg, "query", x_BTC) * self.cfg.head_dim**-0.5
        k_BSHK = heads(self.cfg, "key", memory_BSC)
        v_BSHK = heads(self.cfg, "value", memory_BSC)
        return Readout(self.cfg, name="readout")(dot_products(q_BTHK, k_BSHK), seen_B1TS, v_BSHK, train=train)
