"""Linformer (arXiv 2006.04768) in a causal form: a fixed number of projected keys stands for the past.

The paper attends to E K and F V, where each of E's D rows mixes the keys of all positions. No mask can make
this causal, because every projected key contains future positions. Here the projection sums only over the
blocks before the query's own. Position t, in block g = t // W, attends to

    sum over s < g W of E[:, s] K[s]     D projected keys of the text before the block; none if g = 0
    K[s] for g W <= s <= t               the keys of its own block, not projected

The values are projected in the same way with F. One cumulative sum over blocks computes all projections.

Axes: `B` batch, `T` query position, `S` key position, `C` channels, `H` heads, `K` head size, `G` blocks of
the text, `W` positions in a block, `D` projected keys, `X` = D + W score columns, `1` size one.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kgpt_jax.config import ModelConfig
from kgpt_jax.model.attention import BLOCK, Readout, dot_products, in_blocks, overwritten, queries_keys_values
from kgpt_jax.model.options import Option

PROJECTED = Option("linformer_dim", 16, "projected keys", letter="D")


class LinformerAttention(nn.Module):
    """softmax(Q [E K; K_own]^T / sqrt(K)) [F V; V_own]: the past projected, the query's own block not.

    The heads of a layer share E and F, which have shape (D, seq_len).
    """

    cfg: ModelConfig
    cost = "4 T C C + 4 T D C + 2 T W C"
    options = (BLOCK, PROJECTED)

    @nn.compact
    def __call__(self, x_BTC: jax.Array, pos_BT: jax.Array, *, train: bool) -> jax.Array:
        cfg, (B, T, _) = self.cfg, x_BTC.shape
        D, W = PROJECTED.of(cfg), BLOCK.of(cfg)
        q_BHTK, k_BHSK, v_BHSK = queries_keys_values(self, x_BTC, pos_BT)
        e_DS, f_DS = (
            self.param(name, nn.initializers.xavier_normal(), (D, cfg.seq_len)).astype(x_BTC.dtype)
            for name in ("E", "F")
        )
        readout = Readout(cfg, sown="projected", name="readout")

        if self.is_mutable_collection("cache") and T == 1:
            block_B = pos_BT[:, 0] // W
            k_BHXK = _past_and_own(k_BHSK, e_DS, block_B, W)
            v_BHXK = _past_and_own(v_BHSK, f_DS, block_B, W)
            seen_B1TX = _seen(block_B, pos_BT % W, D, W)
            return readout(dot_products(q_BHTK, k_BHXK), seen_B1TX, v_BHXK, train=train)

        known = k_BHSK.shape[2]
        if further := known > T:  # a further call of decoding
            q_BHTK = overwritten(jnp.zeros_like(k_BHSK), q_BHTK, pos_BT)  # other positions are dropped below
        # From here on, each block is a row of the batch: B means B G, and T means W.
        G = -(-known // W)
        q_BHTK = in_blocks(q_BHTK, G, W).reshape(B * G, cfg.n_head, W, cfg.head_dim)
        k_BHXK = _past_and_own_by_block(k_BHSK, e_DS, G, W)
        v_BHXK = _past_and_own_by_block(v_BHSK, f_DS, G, W)
        seen_B1TX = _seen(jnp.tile(jnp.arange(G), B), jnp.arange(W)[None], D, W)
        y_BTC = readout(dot_products(q_BHTK, k_BHXK), seen_B1TX, v_BHXK, train=train)
        y_BTC = y_BTC.reshape(B, G * W, cfg.n_embd)
        return jnp.take_along_axis(y_BTC, pos_BT[:, :, None], axis=1) if further else y_BTC[:, :T]


def _past_and_own_by_block(h_BHSK: jax.Array, e_DS: jax.Array, G: int, W: int) -> jax.Array:
    """Returns the keys or values that each block attends to, one row per block: (B G, H, D + W, K)."""
    (B, H, S, K), D = h_BHSK.shape, len(e_DS)
    h_BGHWK = in_blocks(h_BHSK, G, W)
    e_DGW = jnp.pad(e_DS[:, :S], ((0, 0), (0, G * W - S))).reshape(D, G, W)
    sum_BGHDK = jnp.einsum("DGW,BGHWK->BGHDK", e_DGW, h_BGHWK)
    # The sum is shifted by one block. Subtracting the block's own term instead would leave rounding errors.
    past_BGHDK = jnp.pad(sum_BGHDK.cumsum(axis=1)[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))
    return jnp.concatenate([past_BGHDK, h_BGHWK], axis=3).reshape(B * G, H, D + W, K)


def _past_and_own(h_BHSK: jax.Array, e_DS: jax.Array, block_B: jax.Array, W: int) -> jax.Array:
    """Returns the keys or values that block `block_B` of each row attends to: (B, H, D + W, K)."""
    S = h_BHSK.shape[2]
    past_BS = (jnp.arange(S)[None] < block_B[:, None] * W).astype(h_BHSK.dtype)
    past_BHDK = jnp.einsum("DS,BS,BHSK->BHDK", e_DS[:, :S], past_BS, h_BHSK)
    own_BW = jnp.minimum(block_B[:, None] * W + jnp.arange(W)[None], S - 1)
    own_BHWK = jnp.take_along_axis(h_BHSK, own_BW[:, None, :, None], axis=2)
    return jnp.concatenate([past_BHDK, own_BHWK], axis=2)


def _seen(block_B: jax.Array, offset_BT: jax.Array, D: int, W: int) -> jax.Array:
    """Returns the mask (B, 1, T, D + W): the projected past, if any, and the query's own block so far."""
    B, T = len(block_B), offset_BT.shape[1]
    past_BTD = jnp.broadcast_to(block_B[:, None, None] > 0, (B, T, D))
    own_BTW = jnp.broadcast_to(jnp.arange(W)[None, None] <= offset_BT[:, :, None], (B, T, W))
    return jnp.concatenate([past_BTD, own_BTW], axis=-1)[:, None]
