"""The course's perceiver (after arXiv 2103.03206), and Perceiver AR (arXiv 2202.07765).

Neither has a cache: decoding rereads the whole text for every character.

Axes: `B` batch, `T` query position, `C` channels, `M` latents, `1` size one.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from kgpt_jax.config import ModelConfig, UserError
from kgpt_jax.model.attention import causal
from kgpt_jax.model.blocks import MemoryBlock, apply_block
from kgpt_jax.model.options import Option

BOTTLENECK = Option("bottleneck_dim", 64, "latents", letter="M", within="seq_len")


def initial_latents(key: jax.Array, shape_MC: tuple[int, int]) -> jax.Array:
    """Returns the course's initial latents: uniform between plus and minus sqrt(6 / (M C + C))."""
    # The course calls torch.nn.init.xavier_uniform_ on a tensor (1, M, C). PyTorch takes these axes for
    # outputs, inputs and kernel size, so fan_in is M C and fan_out is C.
    M, C = shape_MC
    bound = math.sqrt(6 / (M * C + C))
    return jax.random.uniform(key, shape_MC, minval=-bound, maxval=bound)


class Perceiver(nn.Module):
    """softmax(Q_latents K^T) V, n_layer - 2 causal blocks on the latents, softmax(Q K_latents^T) V.

    To keep the model causal, the course lets latent j attend to the tokens up to j, and token t to the
    latents up to t. With 4 latents and 7 tokens:

        token      0 1 2 3 4 5 6         latent   0 1 2 3
        latent 0   x . . . . . .         token 0  x . . .
        latent 1   x x . . . . .         token 1  x x . .
        latent 2   x x x . . . .         token 2  x x x .
        latent 3   x x x x . . .         token 3  x x x x
                                         token 4  x x x x
                                         token 5  x x x x
                                         token 6  x x x x

    No latent attends to token 4 or a later one, so token 6 depends only on the first 4 tokens and on itself.
    If a text has more characters than there are latents, the model never sees its middle.

    As in the course, the first and the last block normalise the latents and not the tokens.

    A call raises a UserError if there are fewer than two layers.
    """

    cfg: ModelConfig
    options = (BOTTLENECK,)
    cost = "2 T C C + 10 M C C + 2 T M C + L-2 12 M C C + L-2 2 M M C + 10 T C C + 2 M C C + 2 T M C"

    @staticmethod
    def latent_axes(layer: str) -> tuple[bool, bool]:
        """Returns whether the rows of a layer's attention weights are latents, and whether columns are."""
        return "up_block" not in layer, "down_block" not in layer

    @nn.compact
    def __call__(self, x_BTC: jax.Array, pos_BT: jax.Array, source_B, *, train: bool) -> jax.Array:
        cfg, (B, T, C) = self.cfg, x_BTC.shape
        if cfg.n_layer < 2:
            raise UserError("variant 'perceiver' has a block down and one up: it needs two layers or more")
        latents_MC = self.param("latents", initial_latents, (BOTTLENECK.of(cfg), C))
        M = min(len(latents_MC), T)  # only tokens beyond T would attend to the other latents
        latents_BMC = jnp.broadcast_to(latents_MC[:M].astype(x_BTC.dtype), (B, M, C))
        pos_1M = jnp.arange(M)[None]
        block = MemoryBlock(cfg, norm_memory=False, name="down_block")
        latents_BMC = apply_block(block, latents_BMC, x_BTC, causal(pos_1M, T), train=train)
        for i in range(cfg.n_layer - 2):
            block = MemoryBlock(cfg, name=f"blocks_{i}")
            latents_BMC = apply_block(block, latents_BMC, latents_BMC, causal(pos_1M, M), train=train)
        block = MemoryBlock(cfg, norm_input=False, name="up_block")
        return apply_block(block, x_BTC, latents_BMC, causal(pos_BT, M), train=train)


class PerceiverAR(nn.Module):
    """softmax(Q K^T / sqrt(K)) V over the past in the first layer, over the query's segment in the others.

    In the paper, the last M positions become latents. They attend to the whole text in the first layer and to
    each other in the other layers, and only they have logits. Here the text is cut into segments of M
    positions, and each segment becomes latents, so every position has logits and depends on all earlier
    positions.
    """

    cfg: ModelConfig
    options = (BOTTLENECK,)
    cost = "12 T C C + 2 T T C + L-1 12 T C C + L-1 2 T M C"

    @nn.compact
    def __call__(self, x_BTC: jax.Array, pos_BT: jax.Array, source_B, *, train: bool) -> jax.Array:
        cfg, (B, T, C) = self.cfg, x_BTC.shape
        block = MemoryBlock(cfg, name="blocks_0")
        x_BTC = apply_block(block, x_BTC, x_BTC, causal(pos_BT, T), train=train)
        M = min(BOTTLENECK.of(cfg), T)
        segments = -(-T // M)
        padded_BTC = jnp.pad(x_BTC, ((0, 0), (0, segments * M - T), (0, 0)))
        x_BMC = padded_BTC.reshape(B * segments, M, C)
        for i in range(1, cfg.n_layer):
            block = MemoryBlock(cfg, name=f"blocks_{i}")
            x_BMC = apply_block(block, x_BMC, x_BMC, causal(jnp.arange(M)[None], M), train=train)
        return x_BMC.reshape(B, segments * M, C)[:, :T]
