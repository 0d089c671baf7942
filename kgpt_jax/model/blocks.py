"""The layers between the embeddings and the head: MLP, blocks, and the stack of blocks.

Axes: `B` batch, `T` query position, `S` key position, `C` channels, `F` = 4 C, `1` size one.
"""

import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
from jax import lax

from kgpt_jax.config import ModelConfig
from kgpt_jax.model.attention import MemoryAttention
from kgpt_jax.model.dense import dense
from kgpt_jax.model.dropout import Dropout

LayerNorm = partial(nn.LayerNorm, epsilon=1e-5)


def gelu(x: jax.Array) -> jax.Array:
    """Returns x Φ(x), where Φ is the normal distribution function (arXiv 1606.08415).

    >>> round(float(gelu(1.0)), 4)
    0.8413
    """
    return x * (0.5 + 0.5 * lax.erf(x * math.sqrt(0.5)))  # `nn.gelu` computes erfc, which is slower on a CPU


class Mlp(nn.Module):
    """A linear layer to four times as many channels, the exact GELU, and a linear layer back."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self, x_BTC: jax.Array, *, train: bool) -> jax.Array:
        cfg = self.cfg
        h_BTF = dense(cfg, 4 * cfg.n_embd, "up")(x_BTC)
        y_BTC = dense(cfg, cfg.n_embd, "down")(gelu(h_BTF))
        return Dropout(cfg.dropout)(y_BTC, train=train)


class Block(nn.Module):
    """A pre-norm Transformer layer: x + attention(norm(x)), then x + MLP(norm(x))."""

    cfg: ModelConfig
    attention: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x_BTC: jax.Array, pos_BT: jax.Array, *, train: bool) -> jax.Array:
        cfg = self.cfg
        h_BTC = LayerNorm(dtype=cfg.dtype, name="ln1")(x_BTC)
        x_BTC += self.attention(cfg, name="attn")(h_BTC, pos_BT, train=train)
        h_BTC = LayerNorm(dtype=cfg.dtype, name="ln2")(x_BTC)
        return x_BTC + Mlp(cfg, name="mlp")(h_BTC, train=train)


class MemoryBlock(nn.Module):
    """A pre-norm Transformer layer whose queries attend to a memory, under any mask.

    The memory may be the input itself. Input and memory share the norm ln1.

    Attributes:
      cfg: the model's config.
      norm_input: whether to normalise the input before the queries.
      norm_memory: whether to normalise the memory before the keys and values.
    """

    cfg: ModelConfig
    norm_input: bool = True
    norm_memory: bool = True

    @nn.compact
    def __call__(
        self, x_BTC: jax.Array, memory_BSC: jax.Array, seen_B1TS: jax.Array, *, train: bool
    ) -> jax.Array:
        cfg = self.cfg
        ln1 = LayerNorm(dtype=cfg.dtype, name="ln1")
        h_BTC = ln1(x_BTC) if self.norm_input else x_BTC
        h_BSC = ln1(memory_BSC) if self.norm_memory else memory_BSC
        x_BTC += MemoryAttention(cfg, name="attn")(h_BTC, h_BSC, seen_B1TS, train=train)
        h_BTC = LayerNorm(dtype=cfg.dtype, name="ln2")(x_BTC)
        return x_BTC + Mlp(cfg, name="mlp")(h_BTC, train=train)


def apply_block(block: nn.Module, *inputs: jax.Array, train: bool) -> jax.Array:
    """Returns the block's output. With `cfg.remat`, the backward pass recomputes the block's activations."""
    if not (block.cfg.remat and train):
        return block(*inputs, train=train)
    return nn.remat(lambda block, *inputs: block(*inputs, train=train))(block, *inputs)


class Stack(nn.Module):
    """`n_layer` blocks around the same kind of attention, one after the other."""

    cfg: ModelConfig
    attention: Callable[..., nn.Module]

    @property
    def cost(self) -> str:
        """The multiplications for one text: those of the attention and the MLP, in each layer."""
        block = f"{self.attention.cost} + 8 T C C"
        return " + ".join(f"L {term}" for term in block.split(" + "))

    @nn.compact
    def __call__(self, x_BTC: jax.Array, pos_BT: jax.Array, source_B, *, train: bool) -> jax.Array:
        for i in range(self.cfg.n_layer):
            block = Block(self.cfg, self.attention, name=f"blocks_{i}")
            x_BTC = apply_block(block, x_BTC, pos_BT, train=train)
        return x_BTC
