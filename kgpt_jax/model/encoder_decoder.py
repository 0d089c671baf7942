"""The original Transformer's encoder and decoder (arXiv 1706.03762), for texts whose first part is given.

The encoder reads the source, a question or a corrupted document, in both directions. The source ends with a
MASK, which is the decoder's first input. (In a text without a MASK, the first character is the source.) Both
read the whole text and mask the part that is not theirs, so batches, positions and targets are the same as
for every other variant.

Unlike the original, which has post-norm blocks and sinusoids, blocks are pre-norm and positions are learned,
as in our other variants.

Axes: `B` batch, `T` query position, `S` key position, `C` channels, `H` heads, `K` head size, `1` size one.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kgpt_jax.config import ModelConfig
from kgpt_jax.model.attention import Readout, causal, dot_products, heads, once, queries_keys_values
from kgpt_jax.model.blocks import LayerNorm, MemoryBlock, Mlp, apply_block


class EncoderDecoder(nn.Module):
    """softmax(Q K^T / sqrt(K)) V over the source, over the answer so far, and from the answer to the source.

    Encoder and decoder have `n_layer` blocks each. In decoding, the encoder runs only in the first call,
    which must contain the whole source; the cache keeps its keys and values. Outputs before the source's last
    position mean nothing.
    """

    cfg: ModelConfig
    cost = "L 28 T C C + L 6 T T C"

    @nn.compact
    def __call__(self, x_BTC: jax.Array, pos_BT: jax.Array, source_B: jax.Array, *, train: bool) -> jax.Array:
        cfg = self.cfg
        source_B = jnp.maximum(source_B, 1)  # a row of padding has no source
        encoder = Encoder(cfg, name="encoder")
        memory_BSC = once(self, "memory", lambda: encoder(x_BTC, source_B, train=train))
        for i in range(cfg.n_layer):
            block = DecoderBlock(cfg, name=f"decoder_{i}")
            x_BTC = apply_block(block, x_BTC, memory_BSC, pos_BT, source_B, train=train)
        return x_BTC


class Encoder(nn.Module):
    """Reads the source (B, S, C) in both directions. No position attends to positions after the source."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self, x_BSC: jax.Array, source_B: jax.Array, *, train: bool) -> jax.Array:
        for i in range(self.cfg.n_layer):
            block = MemoryBlock(self.cfg, name=f"blocks_{i}")
            x_BSC = apply_block(block, x_BSC, x_BSC, within(source_B, x_BSC.shape[1]), train=train)
        return LayerNorm(dtype=self.cfg.dtype, name="ln")(x_BSC)


class DecoderBlock(nn.Module):
    """Attention to the answer so far, attention to the source, and an MLP."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self, x_BTC, memory_BSC, pos_BT, source_B, *, train: bool) -> jax.Array:
        cfg = self.cfg
        h_BTC = LayerNorm(dtype=cfg.dtype, name="ln1")(x_BTC)
        x_BTC += AnswerAttention(cfg, name="attn")(h_BTC, pos_BT, source_B, train=train)
        h_BTC = LayerNorm(dtype=cfg.dtype, name="ln2")(x_BTC)
        x_BTC += SourceAttention(cfg, name="cross")(h_BTC, memory_BSC, source_B, train=train)
        h_BTC = LayerNorm(dtype=cfg.dtype, name="ln3")(x_BTC)
        return x_BTC + Mlp(cfg, name="mlp")(h_BTC, train=train)


class AnswerAttention(nn.Module):
    """softmax(Q K^T / sqrt(K)) V over positions from the source's last one up to the query's own."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self, x_BTC: jax.Array, pos_BT: jax.Array, source_B: jax.Array, *, train: bool) -> jax.Array:
        q_BHTK, k_BHSK, v_BHSK = queries_keys_values(self, x_BTC, pos_BT)
        S = k_BHSK.shape[2]
        # Positions inside the source attend to themselves, because a softmax over no scores is NaN.
        oneself = jnp.arange(S)[None, None, None] == pos_BT[:, None, :, None]
        seen_B1TS = causal(pos_BT, S) & ~within(source_B - 1, S) | oneself
        return Readout(self.cfg, name="readout")(dot_products(q_BHTK, k_BHSK), seen_B1TS, v_BHSK, train=train)


class SourceAttention(nn.Module):
    """softmax(Q K^T / sqrt(K)) V with keys and values from the encoder, which decoding computes once."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self, x_BTC: jax.Array, memory_BSC: jax.Array, source_B: jax.Array, *, train: bool):
        cfg = self.cfg
        q_BHTK = heads(cfg, "query", x_BTC) * cfg.head_dim**-0.5
        k_BHSK = once(self, "keys", lambda: heads(cfg, "key", memory_BSC))
        v_BHSK = once(self, "values", lambda: heads(cfg, "value", memory_BSC))
        seen_B1TS = within(source_B, k_BHSK.shape[2])
        return Readout(cfg, name="readout")(dot_products(q_BHTK, k_BHSK), seen_B1TS, v_BHSK, train=train)


def within(source_B: jax.Array, S: int) -> jax.Array:
    """Returns the mask (B, 1, 1, S) of the first `source_B` positions."""
    return jnp.arange(S)[None, None, None] < source_B[:, None, None, None]
