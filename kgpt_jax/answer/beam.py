"""Finds the likeliest answers by a beam search, among the entries of a list or among all texts.

    child_XV = make_trie(["Rome", "Romania"], vocab)    # or any_text(vocab)
    new_BEW, score_BE = best_entries(model, params, prompt_BP, length_B, child_XV, beams=4, max_new=32)

Axes: `B` questions, `E` beams, `R` = B E rows, `P` characters of a padded prompt, `W` characters to be
written, `V` vocabulary, `X` nodes of the trie, `1` an axis of size one.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kgpt_jax.answer.decode import read_next, read_prompts
from kgpt_jax.data.vocab import MASK_ID, PAD_ID, Vocab

ROOT, NOWHERE = 0, -1


def make_trie(entries: list[str], vocab: Vocab) -> np.ndarray:
    """Returns child_XV: the node that each character leads to from each node, or NOWHERE.

    Node 0 is the root. Every entry ends with a MASK. Entries with characters that the vocabulary lacks are
    left out.
    """
    children: list[dict[int, int]] = [{}]
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


def any_text(vocab: Vocab) -> np.ndarray:
    """Returns a trie that holds every text: its only node leads to itself."""
    child_XV = np.full((1, len(vocab)), ROOT, np.int32)
    child_XV[:, PAD_ID] = NOWHERE
    return child_XV


@partial(jax.jit, static_argnames=("model", "beams", "max_new", "complete"))
def best_entries(
    model,
    params,
    prompt_BP: jax.Array,
    length_B: jax.Array,
    child_XV: jax.Array,
    *,
    beams: int,
    max_new: int,
    complete: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Returns the likeliest entries that the search finds for each prompt, the likeliest first.

    Args:
      model: a `GPT`.
      params: the parameters of one model.
      prompt_BP: the prompts, padded to the right.
      length_B: the length of each prompt. A row of length 0 gets no entry.
      child_XV: the trie of the entries (`make_trie`).
      beams: how many partial entries the search keeps for each prompt.
      max_new: the most characters to write.
      complete: whether to finish all entries; otherwise the search ends as soon as it knows the likeliest.

    Returns:
      Ids (B, E, max_new) and scores (B, E). An entry ends with MASK and is padded with PAD. If a prompt
      leaves too little room, its entry is cut off. Where there are fewer entries than beams, scores are -inf.

    The score of an entry is the sum of the log probabilities of its characters and its MASK, so that short
    and long entries compete as whole answers.
    """
    B, E, V = len(prompt_BP), beams, child_XV.shape[1]
    last_B, cache = read_prompts(model, params, prompt_BP, length_B, max_new)
    cache = jax.tree.map(lambda leaf: jnp.repeat(leaf, E, axis=0) if leaf.ndim else leaf, cache)
    last_R, length_R = jnp.repeat(last_B, E), jnp.repeat(length_B, E)

    def unfinished(carry):
        i, ended_BE = carry[0], carry[-1]
        return (i < max_new) & ~(ended_BE if complete else ended_BE[:, 0]).all()

    def one_character(carry):
        i, new_BEW, last_R, cache, node_BE, score_BE, ended_BE = carry
        logits_RV, cache = read_next(model, params, cache, last_R, length_R, i)
        gain_BEV = jax.nn.log_softmax(logits_RV).reshape(B, E, V)
        gain_BEV = jnp.where(child_XV[node_BE] == NOWHERE, -jnp.inf, gain_BEV)
        # A beam that has ended continues with PAD, which does not change its score.
        stay_11V = jnp.where(jnp.arange(V) == PAD_ID, 0.0, -jnp.inf)[None, None]
        gain_BEV = jnp.where(ended_BE[:, :, None], stay_11V, gain_BEV)
        score_BE, flat_BE = lax.top_k((score_BE[:, :, None] + gain_BEV).reshape(B, E * V), E)
        parent_BE, next_BE = flat_BE // V, flat_BE % V
        follow = partial(jnp.take_along_axis, indices=parent_BE, axis=1)
        new_BEW = jnp.take_along_axis(new_BEW, parent_BE[:, :, None], axis=1).at[:, :, i].set(next_BE)
        ended_BE = follow(ended_BE) | (next_BE == MASK_ID) | (length_B + i >= model.cfg.seq_len)[:, None]
        node_BE = jnp.where(ended_BE, ROOT, child_XV[follow(node_BE), next_BE])
        parent_R = (jnp.arange(B)[:, None] * E + parent_BE).ravel()
        cache = jax.tree.map(lambda leaf: leaf[parent_R] if leaf.ndim else leaf, cache)
        return i + 1, new_BEW, next_BE.ravel(), cache, node_BE, score_BE, ended_BE

    one_beam_E = jnp.where(jnp.arange(E) == 0, 0.0, -jnp.inf)  # the search begins with one beam
    first_BE = jnp.broadcast_to(one_beam_E[None], (B, E))
    new_BEW = jnp.full((B, E, max_new), PAD_ID, jnp.int32)
    node_BE = jnp.full((B, E), ROOT, jnp.int32)
    ended_BE = jnp.broadcast_to(length_B[:, None] == 0, (B, E))
    start = (0, new_BEW, last_R, cache, node_BE, first_BE, ended_BE)
    _, new_BEW, *_, score_BE, _ = lax.while_loop(unfinished, one_character, start)
    return new_BEW, score_BE
