"""Continuing texts: batched, jitted, and with a cache, so that each character is computed once.

Axes: `B` rows, `L` characters of a text (`seq_len` + 1), `V` vocabulary.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kgpt_jax.data.vocab import MASK_ID, PAD_ID


def empty_cache(model, params, batch_size: int):
    """Returns the cache before the first character: zeros of the shapes that a first call makes."""

    def first_call(params):
        x_BT = jnp.zeros((batch_size, 1), jnp.int32)
        return model.apply({"params": params}, x_BT, train=False, mutable=["cache"])[1]["cache"]

    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(first_call, params))


@partial(jax.jit, static_argnames=("model", "max_new", "stop_at_mask", "temperature", "top_k"))
def continue_texts(
    model,
    params,
    text_BL: jax.Array,
    length_B: jax.Array,
    key: jax.Array,
    *,
    max_new: int,
    stop_at_mask: bool,
    temperature: float = 0.0,
    top_k: int = 0,
) -> jax.Array:
    """Returns `text_BL` with up to `max_new` characters written behind each row's first `length_B`.

    Rows move together, one position a pass: a row still inside its prompt reads it, the others write.
    It ends when all rows have ended, at their MASK if `stop_at_mask`, or at the model's last position.
    Rows of length 0 are not touched. Temperature 0 takes the likeliest character, and draws from the
    `top_k` likeliest (0: from all) otherwise.
    """
    B, L = text_BL.shape

    def unfinished(carry):
        t, _, _, done_B = carry
        return (t < L - 1) & ~done_B.all()

    def one_position(carry):
        t, text_BL, cache, done_B = carry
        logits_B1V, updated = model.apply(
            {"params": params, "cache": cache},
            lax.dynamic_slice_in_dim(text_BL, t, 1, axis=1),
            train=False,
            mutable=["cache"],
        )
        drawn_B = _choose(logits_B1V[:, 0], jax.random.fold_in(key, t), temperature, top_k)
        writes_B = (t + 1 >= length_B) & ~done_B
        next_B = jnp.where(writes_B, drawn_B, text_BL[:, t + 1])
        text_BL = text_BL.at[:, t + 1].set(next_B)
        ended_B = t + 2 >= length_B + max_new
        if stop_at_mask:
            ended_B |= next_B == MASK_ID
        return t + 1, text_BL, updated["cache"], done_B | (writes_B & ended_B)

    start = (0, text_BL, empty_cache(model, params, B), length_B == 0)
    return lax.while_loop(unfinished, one_position, start)[1]


def _choose(logits_BV: jax.Array, key, temperature: float, top_k: int) -> jax.Array:
    if temperature == 0:
        return logits_BV.argmax(axis=-1).astype(jnp.int32)
    logits_BV = logits_BV.at[:, PAD_ID].set(-jnp.inf)  # never a target, so its score means nothing
    if 0 < top_k < logits_BV.shape[-1]:
        kth_B1 = lax.top_k(logits_BV, top_k)[0][:, -1:]
        logits_BV = jnp.where(logits_BV >= kth_B1, logits_BV, -jnp.inf)
    return jax.random.categorical(key, logits_BV / temperature).astype(jnp.int32)


def pad_prompts(prompts: list[np.ndarray], rows: int, text_length: int):
    """Returns `(text_BL, length_B)` of id arrays, with rows of length 0 up to `rows`."""
    text_BL = np.full((rows, text_length), PAD_ID, np.int32)
    length_B = np.zeros(rows, np.int32)
    for i, prompt in enumerate(prompts):
        text_BL[i, : len(prompt)], length_B[i] = prompt, len(prompt)
    return text_BL, length_B
