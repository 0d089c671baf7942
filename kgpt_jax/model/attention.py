"""Causal attention, and the parts that all attention layers share: projections, cache, mask, readout.

An attention layer is a module `(x_BTC, pos_BT, *, train) -> y_BTC` in which no position sees a later one.
`pos_BT` holds the position of each input in its text; it is `pos_1T` if all rows have the same positions. The
class attribute `cost` is the number of multiplications for one text (`model/costs.py` lists the letters). The
attribute `options` lists the layer's own settings (`model/options.py`). A layer with a pattern that is drawn
and never trained has the attribute `patterned = True`, and seeds the pattern with `pattern_name`.

To decode a text, a model is called again and again: first with the beginning of the text, then each time
with the characters that follow. The caller makes the "cache" collection mutable, in which `remember` keeps
the keys and values of earlier calls.

Axes: `B` batch, `T` query position, `S` key position, `G` blocks of positions, `W` positions in a block, `C`
channels, `H` heads, `K` head size, `1` size one.
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
from kgpt_jax.model.options import Option

BLOCK = Option("attention_block", 16, "positions in a block", letter="W")


def heads(cfg: ModelConfig, name: str, x_BTC: jax.Array) -> jax.Array:
    """Applies a linear layer to the inputs and splits its channels into heads: (B, H, T, K)."""
    # In the order (B, T, H, K), XLA would copy the whole cache for each character on a CPU.
    B, T, _ = x_BTC.shape
    h_BTC = dense(cfg, cfg.n_embd, name)(x_BTC)
    return jnp.swapaxes(h_BTC.reshape(B, T, cfg.n_head, cfg.head_dim), 1, 2)


def in_blocks(h_BHSK: jax.Array, G: int, W: int) -> jax.Array:
    """Splits positions into blocks: (B, G, H, W, K), padded with zeros."""
    B, H, S, K = h_BHSK.shape
    h_BHSK = jnp.pad(h_BHSK, ((0, 0), (0, 0), (0, G * W - S), (0, 0)))
    return jnp.moveaxis(h_BHSK.reshape(B, H, G, W, K), 2, 1)


def remember(module: nn.Module, name: str, new: jax.Array, pos_BT: jax.Array) -> jax.Array:
    """Returns an array's values at all positions read so far, from earlier calls and this one.

    Args:
      module: the layer whose cache keeps the array.
      name: the array's name in the cache.
      new: the values at the positions of this call, (B, ..., T, K). The last axis may have any size.
      pos_BT: the positions of this call, which are consecutive in each row. The first call of decoding starts
        at 0.

    Returns:
      `new` itself in training and in the first call of decoding, which has read nothing before. In further
      calls, the cache (B, ..., S, K) with `new` written into it. S is `seq_len`, or the length to which
      `shortened` has cut the cache. The caller's mask must hide positions that a row has not reached yet.
    """
    if not module.is_mutable_collection("cache"):
        return new
    T = new.shape[-2]
    if not module.has_variable("cache", name):
        room = [(0, 0)] * (new.ndim - 2) + [(0, module.cfg.seq_len - T), (0, 0)]
        module.variable("cache", name, jnp.pad, new, room)
        return new
    cache = module.variable("cache", name)
    cache.value = overwritten(cache.value, new, pos_BT)
    return cache.value


def overwritten(old: jax.Array, new: jax.Array, pos_BT: jax.Array) -> jax.Array:
    """Writes `new`, (B, ..., T, K), into `old`, (B, ..., S, K), at the consecutive positions `pos_BT`."""
    start_B = jnp.broadcast_to(pos_BT[:, 0], (len(new),))
    return jax.vmap(partial(lax.dynamic_update_slice_in_dim, axis=-2))(old, new, start_B)


def shortened(cache, cfg: ModelConfig, positions: int):
    """Cuts a cache from `seq_len` to fewer positions, so that each step of decoding reads less."""

    def cut(leaf: jax.Array) -> jax.Array:
        return leaf[..., :positions, :] if leaf.ndim > 1 and leaf.shape[-2] == cfg.seq_len else leaf

    return jax.tree.map(cut, cache)


def once(module: nn.Module, name: str, make: Callable[[], jax.Array]) -> jax.Array:
    """Returns `make()`. In decoding, only the first call runs `make`, and the cache keeps the result."""
    if not module.is_mutable_collection("cache"):
        return make()
    return module.variable("cache", name, make).value


def pattern_name(module: nn.Module) -> str:
    """Returns the name that seeds a layer's untrained pattern: its path and, unless it is 0, `pattern_seed`.

    Models that train side by side (`n_seeds`) share a `pattern_seed`, so they have the same patterns.
    """
    if not getattr(module, "patterned", False):  # else all its runs would have the pattern of seed 0
        raise TypeError(f"{type(module).__name__} draws a pattern: give it the attribute patterned = True")
    path, seed = "/".join(module.path), module.cfg.pattern_seed
    return f"{path} {seed}" if seed else path


def causal(pos_BT: jax.Array, S: int) -> jax.Array:
    """Returns the mask (B, 1, T, S) in which each query sees the keys up to its own position."""
    return jnp.arange(S)[None, None, None] <= pos_BT[:, None, :, None]


def identity(h_BHTK: jax.Array, pos_BT: jax.Array) -> jax.Array:
    """Returns queries or keys unchanged: the default `turn` of `queries_keys_values`."""
    return h_BHTK


def queries_keys_values(module: nn.Module, x_BTC: jax.Array, pos_BT: jax.Array, turn=identity):
    """Returns queries for this call's positions, and keys and values for all positions read so far.

    Args:
      module: the attention layer, which gets the linear layers "query", "key" and "value".
      x_BTC: the layer's inputs.
      pos_BT: the positions of the inputs.
      turn: `(h_BHTK, pos_BT) -> h_BHTK`, applied to queries and keys; rotary embeddings use it.

    Returns:
      `q_BHTK`, divided by sqrt(K), `k_BHSK` and `v_BHSK`.
    """
    cfg = module.cfg
    q_BHTK = turn(heads(cfg, "query", x_BTC), pos_BT) * cfg.head_dim**-0.5
    k_BHSK = remember(module, "keys", turn(heads(cfg, "key", x_BTC), pos_BT), pos_BT)
    v_BHSK = remember(module, "values", heads(cfg, "value", x_BTC), pos_BT)
    return q_BHTK, k_BHSK, v_BHSK


def dot_products(q_BHTK: jax.Array, k_BHSK: jax.Array) -> jax.Array:
    """Returns the score of each key for each query, (B, H, T, S)."""
    return jnp.einsum("BHTK,BHSK->BHTS", q_BHTK, k_BHSK)


def has_fused_kernel() -> bool:
    """Returns whether this process's GPU runs cuDNN's attention: NVIDIA's Ampere or a later generation."""
    device = jax.local_devices()[0]
    return "cuda" in device.client.platform_version and int(device.compute_capability.split(".")[0]) >= 8


def fused_means(
    q_BHTK: jax.Array, k_BHSK: jax.Array, v_BHSK: jax.Array, cfg: ModelConfig, *, train: bool
) -> jax.Array | None:
    """Returns causal attention's weighted means of the values, (B, H, T, K), without writing any scores.

    In training, one kernel of cuDNN computes them (arXiv 2307.08691), where it can: on bfloat16 activations,
    without dropout, and with a head size that is a multiple of 8 and at most 128. Otherwise the result is
    None. On CPUs, `jax.nn.dot_product_attention` is no faster than `Readout`, and its gradient is slower.

    In training, the kernel demands an even number of positions. If the number is odd, we add a position of
    padding at the end, which no other position sees.
    """
    fits = q_BHTK.dtype == jnp.bfloat16 and cfg.dropout == 0 and cfg.head_dim % 8 == 0 and cfg.head_dim <= 128
    if not (train and fits and has_fused_kernel()):
        return None
    length = q_BHTK.shape[2]

    def prepared(h_BHTK):
        return jnp.pad(jnp.swapaxes(h_BHTK, 1, 2), ((0, 0), (0, length % 2), (0, 0), (0, 0)))

    q_BTHK, k_BSHK, v_BSHK = map(prepared, (q_BHTK, k_BHSK, v_BHSK))
    y_BTHK = jax.nn.dot_product_attention(
        q_BTHK, k_BSHK, v_BSHK, scale=1.0, is_causal=True, implementation="cudnn"
    )
    return jnp.swapaxes(y_BTHK[:, :length], 1, 2)


class Readout(nn.Module):
    """Computes outputs from scores: mask, softmax, weighted mean of the values, output projection.

    If the caller gives `y_BHTK`, the weighted means that `fused_means` returns, it only projects them.

    Attributes:
      cfg: the model's config.
      sown: the name of the softmax in the "intermediates" collection, which callers may make mutable.
        "weights" means that the columns are positions.
    """

    cfg: ModelConfig
    sown: str = "weights"

    @nn.compact
    def __call__(
        self,
        att_BHTS: jax.Array,
        seen_B1TS: jax.Array,
        v_BHSK: jax.Array,
        y_BHTK: jax.Array | None = None,
        *,
        train: bool,
    ) -> jax.Array:
        cfg = self.cfg
        B, _, T, _ = att_BHTS.shape
        if y_BHTK is None:
            # A sum passes the gradient on unchanged. With `where`, the gradient would take a second `where`.
            att_BHTS = att_BHTS.astype(jnp.float32) + jnp.where(seen_B1TS, 0, -jnp.inf)
            att_BHTS = nn.softmax(att_BHTS)
            self.sow("intermediates", self.sown, att_BHTS)
            att_BHTS = Dropout(cfg.dropout)(att_BHTS.astype(v_BHSK.dtype), train=train)
            y_BHTK = jnp.einsum("BHTS,BHSK->BHTK", att_BHTS, v_BHSK)
        y_BTC = dense(cfg, cfg.n_embd, "proj")(jnp.swapaxes(y_BHTK, 1, 2).reshape(B, T, cfg.n_embd))
        return Dropout(cfg.dropout)(y_BTC, train=train)


def causal_attention(module: nn.Module, x_BTC: jax.Array, pos_BT: jax.Array, turn=identity, *, train: bool):
    """Returns softmax(Q K^T / sqrt(K)) V over positions up to the query's own, projected: (B, T, C).

    The arguments are those of `queries_keys_values`.
    """
    q_BHTK, k_BHSK, v_BHSK = queries_keys_values(module, x_BTC, pos_BT, turn)
    y_BHTK = fused_means(q_BHTK, k_BHSK, v_BHSK, module.cfg, train=train)
    # If the readout does not use the scores, XLA leaves them out of the program.
    att_BHTS, seen_B1TS = dot_products(q_BHTK, k_BHSK), causal(pos_BT, k_BHSK.shape[2])
    return Readout(module.cfg, name="readout")(att_BHTS, seen_B1TS, v_BHSK, y_BHTK, train=train)


class CausalAttention(nn.Module):
    """softmax(Q K^T / sqrt(K)) V over positions up to the query's own (arXiv 1706.03762)."""

    cfg: ModelConfig
    cost = "4 T C C + 2 T T C"

    @nn.compact
    def __call__(self, x_BTC: jax.Array, pos_BT: jax.Array, *, train: bool) -> jax.Array:
        return causal_attention(self, x_BTC, pos_BT, train=train)


class MemoryAttention(nn.Module):
    """softmax(Q K^T / sqrt(K)) V with queries from x, and keys and values from a memory.

    `seen_B1TS` is the mask; each query must see at least one key. The layer keeps no cache.
    """

    cfg: ModelConfig

    @nn.compact
    def __call__(
        self, x_BTC: jax.Array, memory_BSC: jax.Array, seen_B1TS: jax.Array, *, train: bool
    ) -> jax.Array:
        q_BHTK = heads(self.cfg, "query", x_BTC) * self.cfg.head_dim**-0.5
        k_BHSK = heads(self.cfg, "key", memory_BSC)
        v_BHSK = heads(self.cfg, "value", memory_BSC)
        return Readout(self.cfg, name="readout")(dot_products(q_BHTK, k_BHSK), seen_B1TS, v_BHSK, train=train)
