"""Dense synthesizer attention (arXiv 2005.00743): scores from each position alone.

Axes: `B` batch, `T` positions that ask, `S` positions that are looked at, `C` channels, `H` heads,
`K` head size.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kgpt_jax.config import ModelConfig
from kgpt_jax.model.attention import Dense, Readout, position, remember, split_heads


class SynthesizerAttention(nn.Module):
    """softmax(relu(X A + a) B + b) X V per head: there are no keys, so no position is ever compared.

    B has a column for each position that can be looked at, `seq_len` of them (127 at the course's
    size), and is shared by the heads, as in the course.
    """

    cfg: ModelConfig

    @nn.compact
    def __call__(self, x_BTC: jax.Array, *, train: bool) -> jax.Array:
        cfg = self.cfg
        h_BTC = nn.relu(Dense(cfg.n_embd, dtype=cfg.dtype, name="w1")(x_BTC))
        h_BTHK = split_heads(h_BTC, cfg.n_head)
        v_BTHK = split_heads(Dense(cfg.n_embd, dtype=cfg.dtype, name="value")(x_BTC), cfg.n_head)
        start = position(self, x_BTC.shape[1])
        v_BSHK = remember(self, "values", v_BTHK, start, cfg.seq_len)
        S = v_BSHK.shape[1]
        w2_KS = self.param("w2", _uniform, (cfg.head_dim, cfg.seq_len))[:, :S]
        b2_S = self.param("b2", nn.initializers.zeros, (cfg.seq_len,))[:S]
        att_BHTS = jnp.einsum("BTHK,KS->BHTS", h_BTHK, w2_KS.astype(h_BTHK.dtype))
        att_BHTS = att_BHTS + b2_S.astype(att_BHTS.dtype)
        return Readout(cfg, name="readout")(att_BHTS, v_BSHK, start, train=train)


def _uniform(key, shape) -> jax.Array:
    return jax.random.uniform(key, shape, minval=-1e-3, maxval=1e-3)
