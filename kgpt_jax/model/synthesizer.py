"""The synthesizer family (arXiv 2005.00743): attention whose weights need no dot product of positions.

Axes: `B` batch, `T` positions that ask, `S` positions that are looked at, `P` positions of a table that
ask (`seq_len` of them, as of S), `C` channels, `H` heads, `K` head size, `R` rank.

Scores have a column for each position that can be looked at, so that these models have parameters for
`seq_len` positions (127 at the course's size) and no more. Numbers of parameters are those of one layer
without the output projection, N standing for `seq_len`; at full size C is 256, H 8, K 32, N 127.
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

RANK = 8  # of factorized random scores, as in the paper


def factors(N: int) -> tuple[int, int]:
    """Returns the lengths (a, b) of a factorized row of N scores: near sqrt(N), their product N or more.

    >>> factors(127)
    (11, 12)
    """
    b = math.isqrt(N - 1) + 1
    return -(-N // b), b


def _uniform(key, shape) -> jax.Array:
    return jax.random.uniform(key, shape, minval=-1e-3, maxval=1e-3)


def _read(module: nn.Module, scores: Callable[[int], jax.Array], x_BTC, pos_BT, train: bool) -> jax.Array:
    """Returns the readout of `scores(S)`, (B, H, T, S), for as many columns as positions are known."""
    v_BHSK = remember(module, "values", heads(module.cfg, "value", x_BTC), pos_BT)
    S = v_BHSK.shape[2]
    return Readout(module.cfg, name="readout")(scores(S), causal(pos_BT, S), v_BHSK, train=train)


def _hidden(cfg: ModelConfig, x_BTC: jax.Array) -> jax.Array:
    return nn.relu(heads(cfg, "w1", x_BTC))


def _rows(table_HPS: jax.Array, x_BTC: jax.Array, pos_BT: jax.Array, S: int) -> jax.Array:
    """Returns the rows of the positions that ask, the same for every text: (B, H, T, S)."""
    att_BHTS = jnp.moveaxis(table_HPS[:, pos_BT, :S], 0, 1).astype(x_BTC.dtype)
    return jnp.broadcast_to(att_BHTS, (len(x_BTC), *att_BHTS.shape[1:]))


class SynthesizerAttention(nn.Module):
    """softmax(relu(X A + a) B + b) X V per head: each row of weights from its own position alone.

    Dense synthesizer. B is shared by the heads, as in the course. Parameters: 2 (C C + C) for w1 and the
    values, K N + N for w2 and b2: 135,775.
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
            factors = str(h_BHTK.dtype)
            return product(h_BHTK, w2_KS[:, :S], factors).astype(factors) + b2_S[:S]

        return _read(self, scores, x_BTC, pos_BT, train)


class FactorizedDenseAttention(nn.Module):
    """softmax(A(X) * B(X)) X V per head: two short rows, one stretched, one repeated, multiplied.

    The score of s is A's entry s // b times B's entry s % b, A having a entries and B having b, both near
    sqrt(N), and both an affine function of relu(X W + w). Parameters: 2 (C C + C) for w1 and the values,
    (K + 1) (a + b) for the rows, a = 11, b = 12: 132,343.
    """

    cfg: ModelConfig
    cost = "3 T C C + T F C + T T H + T T C"

    @nn.compact
    def __call__(self, x_BTC: jax.Array, pos_BT: jax.Array, *, train: bool) -> jax.Array:
        cfg = self.cfg
        a, b = factors(cfg.seq_len)
        h_BHTK = _hidden(cfg, x_BTC)

        def row(name: str, size: int, start: float) -> jax.Array:
            w = self.param(f"w2_{name}", _uniform, (cfg.head_dim, size)).astype(h_BHTK.dtype)
            bias = self.param(f"b2_{name}", nn.initializers.constant(start), (size,))
            return h_BHTK @ w + bias.astype(h_BHTK.dtype)

        # Of a product of two zeros neither factor would learn, so that one starts at 1.
        long_BHTS = jnp.repeat(row("a", a, 0.0), b, axis=-1)
        att_BHTS = long_BHTS * jnp.tile(row("b", b, 1.0), a)
        return _read(self, lambda S: att_BHTS[..., :S], x_BTC, pos_BT, train)


class RandomAttention(nn.Module):
    """softmax(R) X V per head: R is trained, and the same for every text.

    Parameters: C C + C for the values, H N N for R: 194,824.
    """

    cfg: ModelConfig
    cost = "2 T C C + T T C"

    @nn.compact
    def __call__(self, x_BTC: jax.Array, pos_BT: jax.Array, *, train: bool) -> jax.Array:
        H, N = self.cfg.n_head, self.cfg.seq_len
        table_HPS = self.param("scores", nn.initializers.normal(1.0), (H, N, N))
        return _read(self, lambda S: _rows(table_HPS, x_BTC, pos_BT, S), x_BTC, pos_BT, train)


class FixedRandomAttention(nn.Module):
    """softmax(R) X V per head: R is drawn once and never trained.

    R follows from the layer's name and `pattern_seed`, so that no checkpoint has to hold it, and not from
    JAX's settings. Parameters: C C + C for the values: 65,792.
    """

    cfg: ModelConfig
    cost = "2 T C C + T T C"

    @nn.compact
    def __call__(self, x_BTC: jax.Array, pos_BT: jax.Array, *, train: bool) -> jax.Array:
        H, N = self.cfg.n_head, self.cfg.seq_len
        with jax.ensure_compile_time_eval(), jax.threefry_partitionable(True):
            key = jax.random.key(zlib.crc32(pattern_name(self).encode()), impl="threefry2x32")
            table_HPS = jax.random.normal(key, (H, N, N), jnp.float32)
        table_HPS = lax.optimization_barrier(table_HPS)  # else XLA spends seconds on folding it
        return _read(self, lambda S: _rows(table_HPS, x_BTC, pos_BT, S), x_BTC, pos_BT, train)


class FactorizedRandomAttention(nn.Module):
    """softmax(R1 R2^T) X V per head: R1 and R2 have rank 8, are trained, and the same for every text.

    Parameters: C C + C for the values, 2 H N 8 for R1 and R2: 82,048.
    """

    cfg: ModelConfig
    cost = "2 T C C + T T R H + T T C"

    @nn.compact
    def __call__(self, x_BTC: jax.Array, pos_BT: jax.Array, *, train: bool) -> jax.Array:
        shape = (self.cfg.n_head, self.cfg.seq_len, RANK)
        spread = nn.initializers.normal(RANK**-0.25)  # scores as widely spread as those of R
        ask_HPR = self.param("ask", spread, shape)
        answer_HSR = self.param("answer", spread, shape)
        asked_BTHR = jnp.moveaxis(ask_HPR[:, pos_BT], 0, 2)

        def scores(S: int) -> jax.Array:
            att_BHTS = jnp.einsum("BTHR,HSR->BHTS", asked_BTHR, answer_HSR[:, :S]).astype(x_BTC.dtype)
            return jnp.broadcast_to(att_BHTS, (len(x_BTC), *att_BHTS.shape[1:]))

        return _read(self, scores, x_BTC, pos_BT, train)


class MixtureAttention(nn.Module):
    """softmax(m R + (1 - m) Q K^T / sqrt(K)) V per head: random scores and dot products, m trained.

    (m, 1 - m) is the softmax of two parameters. Parameters: 3 (C C + C) for queries, keys and values,
    H N N for R, 2 for the mixture: 326,410.
    """

    cfg: ModelConfig
    cost = "4 T C C + 2 T T C + 2 T T H"

    @nn.compact
    def __call__(self, x_BTC: jax.Array, pos_BT: jax.Array, *, train: bool) -> jax.Array:
        H, N = self.cfg.n_head, self.cfg.seq_len
        table_HPS = self.param("scores", nn.initializers.normal(1.0), (H, N, N))
        m_2 = nn.softmax(self.param("mixture", nn.initializers.zeros, (2,))).astype(x_BTC.dtype)
        q_BHTK, k_BHSK, v_BHSK = queries_keys_values(self, x_BTC, pos_BT)
        S = k_BHSK.shape[2]
        att_BHTS = m_2[0] * _rows(table_HPS, x_BTC, pos_BT, S) + m_2[1] * dot_products(q_BHTK, k_BHSK)
        return Readout(self.cfg, name="readout")(att_BHTS, causal(pos_BT, S), v_BHSK, train=train)
