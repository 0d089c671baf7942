"""Answers out of a given list only: beam search through a trie of its entries.

    trie = make_trie(["Rome", "Romania"], vocab)
    new_BN = best_entries(model, params, prompt_BP, length_B, trie, beams=4)

Axes: `B` questions, `K` beams, `P` characters of a padded prompt, `N` characters of the longest entry and
its MASK, `V` vocabulary, `X` nodes of the trie.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kgpt_jax.data.vocab import MASK_ID, PAD_ID, Vocab
from kgpt_jax.model.attention import shortened

ROOT, NOWHERE = 0, -1


def make_trie(entries: list[str], vocab: Vocab) -> np.ndarray:
    """Returns child_XV: the node that a character leads to, or NOWHERE; every entry ends with a MASK.

    Entries with characters that the vocabulary lacks are left out.
    """
    children = [{}]
    for entry in sorted(set(entries)):
        if vocab.unknown(entry):
            continue
        node = ROOT
        for character in (*vocab.encode(entry).tolist(), MASK_ID):
            if character not in children[node]:
                children[node][character] = len(children)
                children.append({})
            node = children[node][character]
    child_XV = np.full((len(children), len(vocab)), NOWHERE, np.int32)
    for node, following in enumerate(children):
        child_XV[node, list(following)] = list(following.values())
    return child_XV


@partial(jax.jit, static_argnames=("model", "beams", "max_new"))
def best_entries(
    model, params, prompt_BP: jax.Array, length_B: jax.Array, child_XV: jax.Array, *, beams: int, max_new: int
) -> jax.Array:
    """Returns the likeliest entry that the search finds for each prompt, with its MASK, then PAD: (B, N).

    Scores are sums of log probabilities over all characters, MASK included, so that entries of unlike
    length compete as whole answers. A prompt that leaves no room for an entry gets as much as fits.
    """
    B, K, V, last = len(prompt_BP), beams, child_XV.shape[1], model.cfg.seq_len
    read = partial(model.apply, train=False, mutable=["cache"])
    logits_BPV, cache = read({"params": params}, prompt_BP, length_B)
    end_B = jnp.maximum(length_B - 1, 0)
    logits_BV = jnp.take_along_axis(logits_BPV, end_B[:, None, None], axis=1)[:, 0]
    cache = shortened(cache, model.cfg, prompt_BP.shape[1] + max_new)
    cache = jax.tree.map(lambda leaf: jnp.repeat(leaf, K, axis=0) if leaf.ndim else leaf, cache)
    length_R = jnp.repeat(length_B, K)  # R = B K rows

    def unfinished(carry):
        i, ended_BK = carry[0], carry[-1]
        return (i < max_new) & ~ended_BK[:, 0].all()

    def one_character(carry):
        i, new_BKN, logits_BKV, cache, node_BK, score_BK, ended_BK = carry
        gain_BKV = jnp.where(child_XV[node_BK] == NOWHERE, -jnp.inf, jax.nn.log_softmax(logits_BKV))
        stay_V = jnp.where(jnp.arange(V) == PAD_ID, 0.0, -jnp.inf)  # an ended beam adds PAD for nothing
        gain_BKV = jnp.where(ended_BK[:, :, None], stay_V, gain_BKV)
        score_BK, flat_BK = lax.top_k((score_BK[:, :, None] + gain_BKV).reshape(B, K * V), K)
        parent_BK, next_BK = flat_BK // V, flat_BK % V
        follow = partial(jnp.take_along_axis, indices=parent_BK, axis=1)
        new_BKN = jnp.take_along_axis(new_BKN, parent_BK[:, :, None], axis=1).at[:, :, i].set(next_BK)
        position_R = jnp.minimum(length_R + i, last)
        ended_BK = follow(ended_BK) | (next_BK == MASK_ID) | (position_R == last).reshape(B, K)
        node_BK = jnp.where(ended_BK, ROOT, child_XV[follow(node_BK), next_BK])
        parent_R = (jnp.arange(B)[:, None] * K + parent_BK).ravel()
        cache = jax.tree.map(lambda leaf: leaf[parent_R] if leaf.ndim else leaf, cache)
        start_R = jnp.minimum(position_R, last - 1)  # what ended beams compute is not used
        logits_R1V, cache = read({"params": params, **cache}, next_BK.reshape(-1, 1), length_R, start_R)
        return i + 1, new_BKN, logits_R1V.reshape(B, K, V), cache, node_BK, score_BK, ended_BK

    logits_BKV = jnp.broadcast_to(logits_BV[:, None], (B, K, V))
    first_BK = jnp.where(jnp.arange(K) == 0, 0.0, -jnp.inf) + jnp.zeros((B, 1))  # one beam to begin with
    new_BKN = jnp.full((B, K, max_new), PAD_ID, jnp.int32)
    node_BK = jnp.full((B, K), ROOT, jnp.int32)
    ended_BK = jnp.broadcast_to(length_B[:, None] == 0, (B, K))
    start = (0, new_BKN, logits_BKV, cache, node_BK, first_BK, ended_BK)
    return lax.while_loop(unfinished, one_character, start)[1][:, 0]
