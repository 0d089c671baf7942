"""The whole network: token and position embeddings -> stack -> norm -> head.

Axes: `B` batch, `T` query position, `S` key position, `C` channels, `V` vocabulary, `1` size one.
"""

import dataclasses
from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp

from kgpt_jax.config import ModelConfig
from kgpt_jax.model.attention import remember
from kgpt_jax.model.blocks import LayerNorm
from kgpt_jax.model.dense import normal_init
from kgpt_jax.model.dropout import Dropout
from kgpt_jax.model.variants import lookup


class GPT(nn.Module):
    """Scores the next character at each position, given the characters up to that position.

    The call's arguments and result:

    - `x_BT`: ids of characters; T is at most `cfg.seq_len`.
    - `source_B`: how many characters at the start of each row are given, by default 1. A variant with
      `whole_source` has meaningful logits only from the source's last character on.
    - `start_B`: in each further call of decoding, the position of each row's first character.
    - `train`: whether to apply dropout, which needs a "dropout" key.
    - result: float32 logits (B, T, V). Those at t score the character at t + 1.

    To decode, call with `mutable=["cache"]`. The first call reads the start of each text; for a variant with
    `whole_source`, it must contain the whole source. Each further call takes the cache from the previous call
    and one or more of the characters that follow. The characters of a call may be padded to the right, up to
    the last position of the cache; later calls overwrite the padding.

    A call raises a ValueError if T is more than `cfg.seq_len`.
    """

    cfg: ModelConfig

    @nn.compact
    def __call__(self, x_BT: jax.Array, source_B=None, start_B=None, *, train: bool) -> jax.Array:
        cfg, variant, (B, T) = self.cfg, lookup(self.cfg), x_BT.shape
        if T > cfg.seq_len:
            raise ValueError(f"{T} positions where the model reads {cfg.seq_len} at most")
        source_B = jnp.ones(B, jnp.int32) if source_B is None else source_B
        pos_BT = jnp.arange(T)[None] if start_B is None else start_B[:, None] + jnp.arange(T)[None]
        h_BTC = nn.Embed(cfg.vocab_size, cfg.n_embd, embedding_init=normal_init, name="tok_emb")(x_BT)
        if variant.learned_positions:
            pos_SC = self.param("pos_emb", nn.initializers.zeros, (cfg.block_size, cfg.n_embd))
            h_BTC += pos_SC[pos_BT]
        h_BTC = Dropout(cfg.dropout)(h_BTC.astype(cfg.dtype), train=train)
        stack = variant.stack(cfg, name="stack")
        if self.has_variable("cache", "inputs"):
            h_BSC = remember(self, "inputs", h_BTC, pos_BT)
            h_BSC = stack(h_BSC, jnp.arange(h_BSC.shape[1])[None], source_B, train=train)
            h_BTC = jnp.take_along_axis(h_BSC, pos_BT[:, :, None], axis=1)
        else:
            inputs_BTC, h_BTC = h_BTC, stack(h_BTC, pos_BT, source_B, train=train)
            if "cache" not in stack.variables:  # further calls of decoding rerun such a stack on all inputs
                remember(self, "inputs", inputs_BTC, pos_BT)
        h_BTC = LayerNorm(dtype=jnp.float32, name="ln_f")(h_BTC)
        return nn.Dense(cfg.vocab_size, use_bias=False, kernel_init=normal_init, name="head")(h_BTC)


def abstract_params(cfg: ModelConfig):
    """Returns the shapes and types of a model's parameters (`jax.ShapeDtypeStruct`), allocating nothing."""

    def variables():
        return GPT(cfg).init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32), train=False)

    return jax.eval_shape(variables)["params"]


@cache
def count_params(cfg: ModelConfig) -> int:
    """Returns the number of a model's parameters."""
    # Layers from the third on all have the same number, so two small models give that of a deep one.
    if cfg.n_layer > 3:
        two, three = (count_params(dataclasses.replace(cfg, n_layer=n)) for n in (2, 3))
        return two + (cfg.n_layer - 2) * (three - two)
    return sum(leaf.size for leaf in jax.tree.leaves(abstract_params(cfg)))
