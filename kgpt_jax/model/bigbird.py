"""BigBird (arXiv 2007.14062) in a causal form: each block of positions attends to at most four blocks.

Axes: `B` batch, `T` query position, `S` key position, `C` channels, `H` heads, `K` head size, `G` blocks of
the text, `W` positions in a block, `4` blocks that a block attends to, `1` size one.
"""

import zlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from kgpt_jax.config import ModelConfig
from kgpt_jax.model.attention import (
    BLOCK,
    Readout,
    causal,
    dot_products,
    in_blocks,
    pattern_name,
    queries_keys_values,
)


def attended_blocks(G: int, seed: str) -> np.ndarray:
    """Returns the numbers of the blocks that each block attends to, (G, 4); -1 fills rows with fewer.

    A block attends to itself and the block before it (the window), to the first block (global), and to one
    random block between the first and the window. The random block depends only on the seed and on the
    block's number, so the beginning of a longer text has the same pattern.

    >>> attended_blocks(4, "")
    array([[ 0, -1, -1, -1],
           [ 1,  0, -1, -1],
           [ 2,  1,  0, -1],
           [ 3,  2,  0,  1]])
    """
    blocks_G4 = np.full((G, 4), -1)
    for g in range(G):
        between = sorted(range(1, g - 1), key=lambda m: zlib.crc32(f"{seed} {g} {m}".encode()))
        blocks = list(dict.fromkeys([g, max(g - 1, 0), 0, *between[:1]]))
        blocks_G4[g, : len(blocks)] = blocks
    return blocks_G4


class BigBirdAttention(nn.Module):
    """softmax(Q K^T / sqrt(K)) V over a window, the first and a random block, up to the query's position.

    Each block gathers the blocks that it attends to, so the cost is linear in the text's length. In the paper
    the first block attends to the whole text; here it must not look ahead.
    """

    cfg: ModelConfig
    cost = "4 T C C + 8 T W C"
    options = (BLOCK,)
    patterned = True

    @nn.compact
    def __call__(self, x_BTC: jax.Array, pos_BT: jax.Array, *, train: bool) -> jax.Array:
        W = BLOCK.of(self.cfg)
        G = -(-self.cfg.seq_len // W)
        blocks_G4 = attended_blocks(G, pattern_name(self))
        q_BHTK, k_BHSK, v_BHSK = queries_keys_values(self, x_BTC, pos_BT)
        readout = Readout(self.cfg, name="readout")
        if self.is_mutable_collection("cache"):  # in decoding, a mask is quicker
            looked_GG = (blocks_G4[:, :, None] == np.arange(G)).any(axis=1)
            S = k_BHSK.shape[2]
            looked_GS = looked_GG.repeat(W, axis=1)[:, :S]
            seen_B1TS = causal(pos_BT, S) & jnp.asarray(looked_GS)[pos_BT // W][:, None]
            return readout(dot_products(q_BHTK, k_BHSK), seen_B1TS, v_BHSK, train=train)
        B, H, T, K = q_BHTK.shape
        G = -(-T // W)
        blocks_G4 = blocks_G4[:G]

        def gathered(h_BHSK: jax.Array) -> jax.Array:
            """Gathers the positions that each block attends to, one row per block: (B G, H, 4 W, K)."""
            h_BG4HWK = in_blocks(h_BHSK, G, W)[:, blocks_G4]
            return jnp.swapaxes(h_BG4HWK, 2, 3).reshape(B * G, H, 4 * W, K)

        # From here on, each block is a row of the batch: B means B G, T means W, and S means 4 W.
        q_BHTK = in_blocks(q_BHTK, G, W).reshape(B * G, H, W, K)
        pos_G4W = blocks_G4[:, :, None] * W + np.arange(W)
        own_GT = np.arange(G * W).reshape(G, W)
        seen_GTS = (pos_G4W.reshape(G, 1, -1) <= own_GT[:, :, None]) & (pos_G4W >= 0).reshape(G, 1, -1)
        seen_B1TS = jnp.tile(seen_GTS, (B, 1, 1))[:, None]
        att_BHTS = dot_products(q_BHTK, gathered(k_BHSK))
        y_BTC = readout(att_BHTS, seen_B1TS, gathered(v_BHSK), train=train)
        return y_BTC.reshape(B, G * W, H * K)[:, :T]
