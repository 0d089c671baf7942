"""The whole network: token and position embeddings -> stack -> norm -> head.

Axes: `B` batch, `T` positions, `C` channels, `V` vocabulary.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from kgpt_jax.config import ModelConfig
from kgpt_jax.model.attention import Dense, normal_init, position
from kgpt_jax.model.blocks import LayerNorm
from kgpt_jax.model.variants import make_stack


class GPT(nn.Module):
    """Characters' ids (B, T) -> float32 logits (B, T, V), T at most `cfg.seq_len`.

    Logits at t are the scores of character t + 1 given those up to t. `train=True` needs a "dropout"
    key. With `mutable=["cache"]` the T inputs are taken to follow those of earlier calls.
    """

    cfg: ModelConfig

    @nn.compact
    def __call__(self, x_BT: jax.Array, *, train: bool) -> jax.Array:
        cfg, T = self.cfg, x_BT.shape[1]
        embed = nn.Embed(cfg.vocab_size, cfg.n_embd, embedding_init=normal_init, name="tok_emb")
        pos_PC = self.param("pos_emb", nn.initializers.zeros, (cfg.block_size, cfg.n_embd))
        pos_TC = lax.dynamic_slice_in_dim(pos_PC, position(self, T), T)
        h_BTC = (embed(x_BT) + pos_TC).astype(cfg.dtype)
        h_BTC = nn.Dropout(cfg.dropout, deterministic=not train)(h_BTC)
        h_BTC = make_stack(cfg, name="stack")(h_BTC, train=train)
        h_BTC = LayerNorm(dtype=jnp.float32, name="ln_f")(h_BTC)
        return Dense(cfg.vocab_size, use_bias=False, name="head")(h_BTC)
