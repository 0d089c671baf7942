"""BigBird (arXiv 2007.14062), causal: each block of positions looks at a few blocks, not at all.

Axes: `B` batch, `T` positions that ask, `S` positions that are looked at, `C` channels, `H` heads,
`K` head size, `N` blocks of the text, `W` positions of a block, `G` blocks that a block looks at.
"""

import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kgpt_jax.config import ModelConfig
from kgpt_jax.model.attention import Readout, causal, dot_products, pattern_name, queries_keys_values

LOOKED_AT = 4  # its own block and the one before (window), the first (global), and one random


def looked_at(N: int, seed: str) -> np.ndarray:
    """Returns the blocks (N, 4) that each block looks at; -1 where there are fewer.

    The random one lies between the first and the window. It follows from the seed and the block's number
    alone, so that a longer text changes nothing for its beginning.

    >>> looked_at(4, "")
    array([[ 0, -1, -1, -1],
           [ 1,  0, -1, -1],
           [ 2,  1,  0, -1],
           [ 3,  2,  0,  1]])
    """
    blocks_NG = np.full((N, LOOKED_AT), -1)
    for n in range(N):
        between = sorted(range(1, n - 1), key=lambda m: zlib.crc32(f"{seed} {n} {m}".encode()))
        blocks = list(dict.fromkeys([n, max(n - 1, 0), 0, *between[:1]]))
        blocks_NG[n, : len(blocks)] = blocks
    return blocks_NG


class BigBirdAttention(nn.Module):
    """softmax(Q K^T / sqrt(K)) V over a window, the first block and a random block, up to one's own position.

    The blocks looked at are gathered, so that the cost grows with the length and not with its square.
    Unlike the original's, the first block sees no more than any other: looking ahead is not for GPTs.
    """

    cfg: ModelConfig
    cost = "4 T C C + 8 T W C"

    @nn.compact
    def __call__(self, x_BTC: jax.Array, pos_BT: jax.Array, *, train: bool) -> jax.Array:
        W = self.cfg.attention_block
        N = -(-self.cfg.seq_len // W)
        blocks_NG = looked_at(N, pattern_name(self))
        q_BHTK, k_BHSK, v_BHSK = queries_keys_values(self, x_BTC, pos_BT)
        readout = Readout(self.cfg, name="readout")
        if self.is_mutable_collection("cache"):  # few positions ask: a mask costs less than gathering
            looked_NN = (blocks_NG[:, :, None] == np.arange(N)).any(axis=1)
            S = k_BHSK.shape[2]
            looked_NS = looked_NN.repeat(W, axis=1)[:, :S]
            seen_B1TS = causal(pos_BT, S) & jnp.asarray(looked_NS)[pos_BT // W][:, None]
            return readout(dot_products(q_BHTK, k_BHSK), seen_B1TS, v_BHSK, train=train)
        B, H, T, K = q_BHTK.shape
        N = -(-T // W)
        blocks_NG = blocks_NG[:N]

        def in_blocks(h_BHTK: jax.Array) -> jax.Array:
            h_BHTK = jnp.pad(h_BHTK, ((0, 0), (0, 0), (0, N * W - T), (0, 0)))
            return jnp.moveaxis(h_BHTK.reshape(B, H, N, W, K), 2, 1)

        def gathered(h_BHSK: jax.Array) -> jax.Array:
            """Returns for each block, as a row of the batch, the positions that it looks at."""
            h_BNGHWK = in_blocks(h_BHSK)[:, blocks_NG]
            return jnp.swapaxes(h_BNGHWK, 2, 3).reshape(B * N, H, LOOKED_AT * W, K)

        q_BHTK = in_blocks(q_BHTK).reshape(B * N, H, W, K)
        pos_NGW = blocks_NG[:, :, None] * W + np.arange(W)
        own_NW = np.arange(N * W).reshape(N, W)
        seen_NWS = (pos_NGW.reshape(N, 1, -1) <= own_NW[:, :, None]) & (pos_NGW >= 0).reshape(N, 1, -1)
        seen_B1TS = jnp.tile(seen_NWS, (B, 1, 1))[:, None]
        att_BHTS = dot_products(q_BHTK, gathered(k_BHSK))
        y_BTC = readout(att_BHTS, seen_B1TS, gathered(v_BHSK), train=train)
        return y_BTC.reshape(B, N * W, H * K)[:, :T]
