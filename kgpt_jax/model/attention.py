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
    """Returns a linear layer of the inputs, cut into heads: (B, H, T, K).

    Heads come before positions: with the other order XLA copies the whole cache for each character on a CPU.
    """
    B, T, _ = x_BTC.shape
    h_BTC = dense(cfg, cfg.n_embd, name)(x_BTC)
    return jnp.swapaxes(h_BTC.reshape(B, T, cfg.n_head, cfg.head_dim), 1, 2)


def remember(module: nn.Module, name: str, new: jax.Array, pos_BT: jax.Array) -> jax.Array:
    """Returns what is known of all positions: `new` (B, ..., T, C) or, in decoding, the cache it went into.

    The cache has `seq_len` positions, or as many as `shortened` has left; those that a row has not reached
    hold what the mask hides.
    """
    if not module.is_mutable_collection("cache"):
        return new
    B, *rest, _, C = new.shape
    cache = module.variable("cache", name, jnp.zeros, (B, *rest, module.cfg.seq_len, C), new.dtype)
    start_B = jnp.broadcast_to(pos_BT[:, 0], (B,))
    cache.value = jax.vmap(partial(lax.dynamic_update_slice_in_dim, axis=-2))(cache.value, new, start_B)
    return cache.value


def shortened(cache, cfg: ModelConfig, positions: int):
    """Returns a cache that has room for fewer positions than `seq_len`, so that less of it is read."""

    def cut(leaf: jax.Array) -> jax.Array:
        return leaf[..., :positions, :] if leaf.ndim > 1 and leaf.shape[-2] == cfg.seq_len else leaf

    return jax.tree.map(cut, cache)


def once(module: nn.Module, name: str, make: Callable[[], jax.Array]) -> jax.Array:
    """Returns `make()` or, in decoding, what it returned at the first call."""
    if not module.is_mutable_collection("cache"):
        return make()
    return module.variable("cache", name, make).value


def pattern_name(module: nn.Module) -> str:
    """Returns the name that a layer draws its untrained pattern from: its path and, unless it is 0, the seed.

    Models that train side by side (`n_seeds`) share the seed and so the patterns.
    """
    path, seed = "/".join(module.path), module.cfg.pattern_seed
    return f"{path} {seed}" if seed else path


def causal(pos_BT: jax.Array, S: int) -> jax.Array:
    """Returns the mask (B, 1, T, S) of the positions up to one's own."""
    return jnp.arange(S) <= pos_BT[:, None, :, None]


def same(h_BHTK: jax.Array, pos_BT: jax.Array) -> jax.Array:
    return h_BHTK


def queries_keys_values(module: nn.Module, x_BTC: jax.Array, pos_BT: jax.Array, turn=same):
    """Returns scaled queries of the new positions, and keys and values of all that are known.

    `turn(h_BHTK, pos_BT)` is applied to queries and keys.
    """
    cfg = module.cfg
    q_BHTK = turn(heads(cfg, "query", x_BTC), pos_BT) * cfg.head_dim**-0.5
    k_BHSK = remember(module, "keys", turn(heads(cfg, "key", x_BTC), pos_BT), pos_BT)
    v_BHSK = remember(module, "values", heads(cfg, "value", x_BTC), pos_BT)
    return q_BHTK, k_BHSK, v_BHSK


def dot_products(q_BHTK: jax.Array, k_BHSK: jax.Array) -> jax.Array:
    return jnp.einsum("BHTK,BHSK->BHTS", q_BHTK, k_BHSK)


class Readout(nn.Module):
    """Softmax of the scores that the mask leaves, the values' mean under it, and the output projection.

    Who makes the "intermediates" collection mutable finds the softmax there, under the name `sown`.
    """

    cfg: ModelConfig
    sown: str = "weights"  # by position; another name where columns are not positions

    @nn.compact
    def __call__(self, att_BHTS: jax.Array, seen_B1TS: jax.Array, v_BHSK: jax.Array, *, train: bool):
        cfg = self.cfg
        B, _, T, _ = att_BHTS.shape
        att_BHTS = jnp.where(seen_B1TS, att_BHTS.astype(jnp.float32), -jnp.inf)
        att_BHTS = nn.softmax(att_BHTS)
        self.sow("intermediates", self.sown, att_BHTS)
        att_BHTS = Dropout(cfg.dropout)(att_BHTS.astype(v_BHSK.dtype), train=train)
        y_BHTK = jnp.einsum("BHTS,BHSK->BHTK", att_BHTS, v_BHSK)
        y_BTC = dense(cfg, cfg.n_embd, "proj")(jnp.swapaxes(y_BHTK, 1, 2).reshape(B, T, cfg.n_embd))
        return Dropout(cfg.dropout)(y_BTC, train=train)


class CausalAttention(nn.Module):
    """softmax(Q K^T / sqrt(K)) V over the positions up to one's own (arXiv 1706.03762)."""

    cfg: ModelConfig
    cost = "4 T C C + 2 T T C"

    @nn.compact
    def __call__(self, x_BTC: jax.Array, pos_BT: jax.Array, *, train: bool) -> jax.Array:
        q_BHTK, k_BHSK, v_BHSK = queries_keys_values(self, x_BTC, pos_BT)
        seen_B1TS = causal(pos_BT, k_BHSK.shape[2])
        return Readout(self.cfg, name="readout")(dot_products(q_BHTK, k_BHSK), seen_B1TS, v_BHSK, train=train)


class MemoryAttention(nn.Module):
    """softmax(Q K^T / sqrt(K)) V with queries from x, keys and values from a memory, and any mask.

    `seen_B1TS` says who sees whom; each position must see one. Nothing is cached.
    """

    cfg: ModelConfig

    @nn.compact
    def __call__(self, x_BTC: jax.Array, memory_BSC: jax.Array, seen_B1TS: jax.Array, *, train: bool):
        q_BHTK = heads(self.cfg, "query", x_BTC) * self.cfg.head_dim**-0.5
        k_BHSK = heads(self.cfg, "key", memory_BSC)
        v_BHSK = heads(self.cfg, "value", memory_BSC)
        return Readout(self.cfg, name="readout")(dot_products(q_BHTK, k_BHSK), seen_B1TS, v_BHSK, train=train)
