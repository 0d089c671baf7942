"""Linformer (arXiv 2006.04768) in a causal form: a fixed number of projected keys stands for the past.

Axes: `B` batch, `T` positions that ask, `S` positions that are looked at, `C` channels, `H` heads,
`K` head size, `N` blocks of the text, `W` positions of a block, `D` projected keys.

The original looks at E K and F V, where each of E's D rows mixes the keys of all positions. That cannot be
made causal by a mask: there is no column that holds the future alone, each holds some of it. Here the sum
over positions stops in time. Position t, in block n = t // W, looks at

    sum over s < n W of E[:, s] K[s]     D keys, none if n = 0: Linformer of the text before the block
    K[s] for n W <= s <= t               the keys of its own block, exactly

and at the values likewise, with F. The sums of all blocks are one cumulative sum.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from kgpt_jax.config import ModelConfig
from kgpt_jax.model.attention import Readout, dot_products, queries_keys_values


class LinformerAttention(nn.Module):
    """softmax(Q [E K; K_own]^T / sqrt(K)) [F V; V_own]: the past projected, one's own block as it is.

    E and F, (D, seq_len), are shared by the heads of a layer.
    """

    cfg: ModelConfig
    cost = "4 T C C + 4 T D C + 2 T W C"

    @nn.compact
    def __call__(self, x_BTC: jax.Array, pos_BT: jax.Array, *, train: bool) -> jax.Array:
        cfg, (B, T, _), W = self.cfg, x_BTC.shape, self.cfg.attention_block
        q_BHTK, k_BHSK, v_BHSK = queries_keys_values(self, x_BTC, pos_BT)
        shape = (cfg.linformer_dim, cfg.seq_len)
        e_DS = self.param("E", nn.initializers.xavier_normal(), shape).astype(x_BTC.dtype)
        f_DS = self.param("F", nn.initializers.xavier_normal(), shape).astype(x_BTC.dtype)
        readout = Readout(cfg, sown="projected", name="readout")

        if self.is_mutable_collection("cache") and T == 1:
            block_B = pos_BT[:, 0] // W
            k_BHXK = _past_and_own(k_BHSK, e_DS, block_B, W)
            v_BHXK = _past_and_own(v_BHSK, f_DS, block_B, W)
            seen_B1TX = _seen(block_B, pos_BT % W, cfg.linformer_dim, W)
            return readout(dot_products(q_BHTK, k_BHXK), seen_B1TX, v_BHXK, train=train)

        N = -(-T // W)
        q_BHTK = _in_blocks(q_BHTK, N, W).reshape(B * N, cfg.n_head, W, cfg.head_dim)
        k_BHXK = _all_pasts_and_owns(k_BHSK[:, :, :T], e_DS, N, W)
        v_BHXK = _all_pasts_and_owns(v_BHSK[:, :, :T], f_DS, N, W)
        seen_B1TX = _seen(jnp.tile(jnp.arange(N), B), jnp.arange(W)[None], cfg.linformer_dim, W)
        y_BTC = readout(dot_products(q_BHTK, k_BHXK), seen_B1TX, v_BHXK, train=train)
        return y_BTC.reshape(B, N * W, cfg.n_embd)[:, :T]


def _in_blocks(h_BHSK: jax.Array, N: int, W: int) -> jax.Array:
    """Returns (B, N, H, W, K), filled up with zeros."""
    B, H, S, K = h_BHSK.shape
    h_BHSK = jnp.pad(h_BHSK, ((0, 0), (0, 0), (0, N * W - S), (0, 0)))
    return jnp.moveaxis(h_BHSK.reshape(B, H, N, W, K), 2, 1)


def _all_pasts_and_owns(h_BHSK: jax.Array, e_DS: jax.Array, N: int, W: int) -> jax.Array:
    """Returns the D + W keys or values that each block looks at, a block being a row: (B N, H, D + W, K)."""
    (B, H, S, K), D = h_BHSK.shape, len(e_DS)
    h_BNHWK = _in_blocks(h_BHSK, N, W)
    e_DNW = jnp.pad(e_DS[:, :S], ((0, 0), (0, N * W - S))).reshape(D, N, W)
    sum_BNHDK = jnp.einsum("DNW,BNHWK->BNHDK", e_DNW, h_BNHWK)
    # Shifted, not subtracted again: that would leave the block's own rounding errors behind.
    past_BNHDK = jnp.pad(sum_BNHDK.cumsum(axis=1)[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))
    return jnp.concatenate([past_BNHDK, h_BNHWK], axis=3).reshape(B * N, H, D + W, K)


def _past_and_own(h_BHSK: jax.Array, e_DS: jax.Array, block_B: jax.Array, W: int) -> jax.Array:
    """Returns the D + W keys or values that one block of each row looks at: (B, H, D + W, K)."""
    S = h_BHSK.shape[2]
    past_BS = (jnp.arange(S) < block_B[:, None] * W).astype(h_BHSK.dtype)
    past_BHDK = jnp.einsum("DS,BS,BHSK->BHDK", e_DS[:, :S], past_BS, h_BHSK)
    own_BW = jnp.minimum(block_B[:, None] * W + jnp.arange(W), S - 1)
    own_BHWK = jnp.take_along_axis(h_BHSK, own_BW[:, None, :, None], axis=2)
    return jnp.concatenate([past_BHDK, own_BHWK], axis=2)


def _seen(block_B: jax.Array, offset_BT: jax.Array, D: int, W: int) -> jax.Array:
    """Returns the mask (B, 1, T, D + W): the past where there is one, one's own block up to oneself."""
    B, T = len(block_B), offset_BT.shape[1]
    past_BTD = jnp.broadcast_to(block_B[:, None, None] > 0, (B, T, D))
    own_BTW = jnp.broadcast_to(jnp.arange(W) <= offset_BT[:, :, None], (B, T, W))
    return jnp.concatenate([past_BTD, own_BTW], axis=-1)[:, None]
