"""The synthesizer family (arXiv 2005.00743): attention weights without dot products of positions.

Scores have one column for each key position, so a model cannot read more than `seq_len` positions. Docstrings
give the parameters of one layer without its output projection, as a formula and as a number at full size: C
is 256, H is 8, K is 32, and S, which is `seq_len`, is 127.

Axes: `B` batch, `T` query position, `S` key position, `C` channels, `H` heads, `K` head size, `R` rank, `2`
the two weights of a mixture. A table of scores for each pair of positions has shape (H, S, S).
"""

import math
import zlib
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from kgpt_jax.config import ModelConfig
from kgpt_jax.model.attention import (
    Readout,
    causal,
    dot_products,
    heads,
    pattern_name,
    queries_keys_values,
    remember,
)
from kgpt_jax.model.dense import product
from kgpt_jax.model.options import Option

RANK = Option("rank", 8, "columns of each random factor, 8 in the paper", letter="R")


def row_lengths(S: int) -> tuple[int, int]:
    """Returns the lengths (a, b) of the two factors of a row of S scores: near sqrt(S), with a b >= S.

    >>> row_lengths(127)
    (11, 12)
    """
    b = math.isqrt(S - 1) + 1
    return -(-S // b), b


def _uniform(key, shape) -> jax.Array:
    return jax.random.uniform(key, shape, minval=-1e-3, maxval=1e-3)


def _read(module: nn.Module, scores: Callable[[int], jax.Array], x_BTC, pos_BT, train: bool) -> jax.Array:
    """Returns the layer's output, given scores that need no keys.

    Args:
      module: the attention layer, which gets the layers "value" and "readout".
      scores: returns the scores (B, H, T, S) for the first S key positions.
      x_BTC: the layer's inputs.
      pos_BT: the positions of the inputs.
      train: whether to apply dropout.
    """
    v_BHSK = remember(module, "values", heads(module.cfg, "value", x_BTC), pos_BT)
    S = v_BHSK.shape[2]
    return Readout(module.cfg, name="readout")(scores(S), causal(pos_BT, S), v_BHSK, train=train)


def _hidden(cfg: ModelConfig, x_BTC: jax.Array) -> jax.Array:
    """Returns relu(X A + a) by head: (B, H, T, K)."""
    return nn.relu(heads(cfg, "w1", x_BTC))


def _rows(table_HSS: jax.Array, x_BTC: jax.Array, pos_BT: jax.Array, S: int) -> jax.Array:
    """Returns the table's rows for the query positions, (B, H, T, S). They do not depend on the text."""
    att_BHTS = jnp.moveaxis(table_HSS[:, pos_BT, :S], 0, 1).astype(x_BTC.dtype)
    return jnp.broadcast_to(att_BHTS, (len(x_BTC), *att_BHTS.shape[1:]))


class SynthesizerAttention(nn.Module):
    """softmax(relu(X A + a) B + b) X V per head: a row of weights depends on the query's own input alone.

    This is the paper's dense synthesizer. The heads share B and b, as in the course. Parameters: 2 (C C + C)
    for w1 and the values, K S + S for w2 and b2; in all 135,775.
    """

    cfg: ModelConfig
    cost = "3 T C C + 2 T T C"

    @nn.compact
    def __call__(self, x_BTC: jax.Array, pos_BT: jax.Array, *, train: bool) -> jax.Array:
        cfg = self.cfg
        h_BHTK = _hidden(cfg, x_BTC)
        w2_KS = self.param("w2", _uniform, (cfg.head_dim, cfg.seq_len)).astype(h_BHTK.dtype)
        b2_S = self.param("b2", nn.initializers.zeros, (cfg.seq_len,)).astype(h_BHTK.dtype)

        def scores(S: int) -> jax.Array:
            dtype = str(h_BHTK.dtype)
            return product(h_BHTK, w2_KS[:, :S], dtype).astype(dtype) + b2_S[None, None, None, :S]

        return _read(self, scores, x_BTC, pos_BT, train)


class FactorizedDenseAttention(nn.Module):
    """softmax(A(X) * B(X)) X V per head: the scores are products of two short rows.

    Row A has a entries and row B has b entries, both near sqrt(S). Both rows are affine functions of
    relu(X W + w). The score of key s is A[s // b] B[s % b]. Parameters: 2 (C C + C) for w1 and the values, (K
    + 1) (a + b) for the rows, a = 11, b = 12; in all 132,343. The letter A in the cost is a + b.
    """

    cfg: ModelConfig
    cost = "3 T C C + T A C + T T H + T T C"

    @staticmethod
    def letters(cfg: ModelConfig) -> dict[str, int]:
        """Returns the letters of `cost` that follow from the config."""
        return {"A": sum(row_lengths(cfg.seq_len))}

    @nn.compact
    def __call__(self, x_BTC: jax.Array, pos_BT: jax.Array, *, train: bool) -> jax.Array:
        cfg = self.cfg
        a, b = row_lengths(cfg.seq_len)
        h_BHTK = _hidden(cfg, x_BTC)

        def row(name: str, size: int, start: float) -> jax.Array:
            w = self.param(f"w2_{name}", _uniform, (cfg.head_dim, size)).astype(h_BHTK.dtype)
            bias = self.param(f"b2_{name}", nn.initializers.constant(start), (size,))
            return h_BHTK @ w + bias.astype(h_BHTK.dtype)[None, None, None]

        # One factor starts at 1. If both started at 0, neither would get a gradient.
        long_BHTS = jnp.repeat(row("a", a, 0.0), b, axis=-1)
        att_BHTS = long_BHTS * jnp.tile(row("b", b, 1.0), a)
        return _read(self, lambda S: att_BHTS[..., :S], x_BTC, pos_BT, train)


class RandomAttention(nn.Module):
    """softmax(R) X V per head: R is trained, and the same for every text.

    Parameters: C C + C for the values, H S S for R; in all 194,824.
    """

    cfg: ModelConfig
    cost = "2 T C C + T T C"

    @nn.compact
    def __call__(self, x_BTC: jax.Array, pos_BT: jax.Array, *, train: bool) -> jax.Array:
        H, S = self.cfg.n_head, self.cfg.seq_len
        table_HSS = self.param("scores", nn.initializers.normal(1.0), (H, S, S))
        return _read(self, lambda S: _rows(table_HSS, x_BTC, pos_BT, S), x_BTC, pos_BT, train)


class FixedRandomAttention(nn.Module):
    """softmax(R) X V per head: R is drawn once and never trained.

    R depends only on the layer's name and `pattern_seed`. So checkpoints do not store it, and no setting of
    JAX changes it. Parameters: C C + C for the values, 65,792.
    """

    cfg: ModelConfig
    cost = "2 T C C + T T C"
    patterned = True

    @nn.compact
    def __call__(self, x_BTC: jax.Array, pos_BT: jax.Array, *, train: bool) -> jax.Array:
        H, S = self.cfg.n_head, self.cfg.seq_len
        if self.is_initializing():  # no parameter depends on R, and counting them should draw nothing
            table_HSS = jnp.zeros((H, S, S))
        else:
            with jax.ensure_compile_time_eval(), jax.threefry_partitionable(True):
                key = jax.random.key(zlib.crc32(pattern_name(self).encode()), impl="threefry2x32")
                table_HSS = jax.random.normal(key, (H, S, S), jnp.float32)
        table_HSS = lax.optimization_barrier(table_HSS)  # XLA would spend seconds on folding the constant
        return _read(self, lambda S: _rows(table_HSS, x_BTC, pos_BT, S), x_BTC, pos_BT, train)


class FactorizedRandomAttention(nn.Module):
    """softmax(R1 R2^T) X V per head: R1 and R2 have R columns, are trained, and the same for every text.

    Parameters: C C + C for the values, 2 H S R for R1 and R2; in all 82,048.
    """

    cfg: ModelConfig
    options = (RANK,)
    cost = "2 T C C + T T R H + T T C"

    @nn.compact
    def __call__(self, x_BTC: jax.Array, pos_BT: jax.Array, *, train: bool) -> jax.Array:
        R = RANK.of(self.cfg)
        shape = (self.cfg.n_head, self.cfg.seq_len, R)
        spread = nn.initializers.normal(R**-0.25)  # scores have variance 1, as in RandomAttention
        ask_HSR = self.param("ask", spread, shape)
        answer_HSR = self.param("answer", spread, shape)
        asked_BTHR = jnp.moveaxis(ask_HSR[:, pos_BT], 0, 2)

        def scores(S: int) -> jax.Array:
            att_BHTS = jnp.einsum("BTHR,HSR->BHTS", asked_BTHR, answer_HSR[:, :S]).astype(x_BTC.dtype)
            return jnp.broadcast_to(att_BHTS, (len(x_BTC), *att_BHTS.shape[1:]))

        return _read(self, scores, x_BTC, pos_BT, train)


class MixtureAttention(nn.Module):
    """softmax(m R + (1 - m) Q K^T / sqrt(K)) V per head: random scores and dot products, m trained.

    The weights m and 1 - m are the softmax of two parameters. Parameters: 3 (C C + C) for queries, keys and
    values, H S S for R, 2 for the mixture; in all 326,410.
    """

    cfg: ModelConfig
    cost = "4 T C C + 2 T T C + 2 T T H"

    @nn.compact
    def __call__(self, x_BTC: jax.Array, pos_BT: jax.Array, *, train: bool) -> jax.Array:
        H, S = self.cfg.n_head, self.cfg.seq_len
        table_HSS = self.param("scores", nn.initializers.normal(1.0), (H, S, S))
        m_2 = nn.softmax(self.param("mixture", nn.initializers.zeros, (2,))).astype(x_BTC.dtype)
        q_BHTK, k_BHSK, v_BHSK = queries_keys_values(self, x_BTC, pos_BT)
        known = k_BHSK.shape[2]
        att_BHTS = m_2[0] * _rows(table_HSS, x_BTC, pos_BT, known) + m_2[1] * dot_products(q_BHTK, k_BHSK)
        return Readout(self.cfg, name="readout")(att_BHTS, causal(pos_BT, known), v_BHSK, train=train)
