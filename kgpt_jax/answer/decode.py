"""Continuing texts: batched and jitted; prompts are read at once, answers written with a cache.

Axes: `B` rows, `P` characters of a padded prompt, `N` characters to be written, `V` vocabulary.
"""

import logging
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kgpt_jax.config import Config, UserError
from kgpt_jax.data.vocab import MASK_ID, PAD, PAD_ID
from kgpt_jax.devices import check_memory
from kgpt_jax.model.attention import shortened
from kgpt_jax.model.gpt import GPT
from kgpt_jax.store.compatible import fit_to
from kgpt_jax.store.folder import Run
from kgpt_jax.store.params import first_model

log = logging.getLogger(__name__)

WIDTH_STEP = 8  # prompts are padded to multiples of this, and the full width


@partial(jax.jit, static_argnames=("model", "max_new", "stop_at_mask", "temperature", "top_k"))
def continue_texts(
    model,
    params,
    prompt_BP: jax.Array,
    length_B: jax.Array,
    key: jax.Array,
    *,
    max_new: int,
    stop_at_mask: bool,
    temperature: float = 0.0,
    top_k: int = 0,
) -> jax.Array:
    """Returns the up to `max_new` characters (B, max_new) that follow each prompt, then PAD.

    Prompts are the first `length_B` characters of the rows of `prompt_BP`. A row ends at its MASK if
    `stop_at_mask`, or one past the last position that the model reads; rows of length 0 write nothing.
    Temperature 0 takes the likeliest character, and draws from the `top_k` likeliest (0: from all)
    otherwise.
    """
    B, last = len(prompt_BP), model.cfg.seq_len
    read = partial(model.apply, train=False, mutable=["cache"])
    logits_BPV, state = read({"params": params}, prompt_BP, length_B)
    state = shortened(state, model.cfg, prompt_BP.shape[1] + max_new)
    end_B = jnp.maximum(length_B - 1, 0)
    logits_BV = jnp.take_along_axis(logits_BPV, end_B[:, None, None], axis=1)[:, 0]

    def unfinished(carry):
        i, done_B = carry[0], carry[-1]
        return (i < max_new) & ~done_B.all()

    def one_character(carry):
        i, new_BN, logits_BV, cache, done_B = carry
        next_B = _choose(logits_BV, jax.random.fold_in(key, i), temperature, top_k)
        next_B = jnp.where(done_B, PAD_ID, next_B)
        position_B = jnp.minimum(length_B + i, last)
        done_B |= position_B == last
        if stop_at_mask:
            done_B |= next_B == MASK_ID
        start_B = jnp.minimum(position_B, last - 1)  # what ended rows compute is not used
        logits_B1V, state = read({"params": params, **cache}, next_B[:, None], length_B, start_B)
        return i + 1, new_BN.at[:, i].set(next_B), logits_B1V[:, 0], state, done_B

    new_BN = jnp.full((B, max_new), PAD_ID, jnp.int32)
    return lax.while_loop(unfinished, one_character, (0, new_BN, logits_BV, state, length_B == 0))[1]


def _choose(logits_BV: jax.Array, key, temperature: float, top_k: int) -> jax.Array:
    if temperature == 0:
        return logits_BV.argmax(axis=-1).astype(jnp.int32)
    logits_BV = logits_BV.at[:, PAD_ID].set(-jnp.inf)  # never a target, so its score means nothing
    if 0 < top_k < logits_BV.shape[-1]:
        kth_B1 = lax.top_k(logits_BV, top_k)[0][:, -1:]
        logits_BV = jnp.where(logits_BV >= kth_B1, logits_BV, -jnp.inf)
    return jax.random.categorical(key, logits_BV / temperature).astype(jnp.int32)


def check_rows(model, params, rows: int, positions: int, purpose: str, advice: str):
    """Raises a UserError where answering so many rows at once needs more memory than the machine has.

    The estimate is a lower bound: the cache of each row, for so many positions, and its last logits.
    """

    def kept(params, prompt_1P, length_1):
        logits_1PV, state = model.apply(
            {"params": params}, prompt_1P, length_1, train=False, mutable=["cache"]
        )
        return logits_1PV[:, -1], shortened(state, model.cfg, positions)

    abstract = jax.eval_shape(kept, params, np.zeros((1, 1), np.int32), np.ones(1, np.int32))
    of_one = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract) if leaf.ndim)
    check_memory(purpose, rows * of_one, advice)


def pad_prompts(prompts: list[np.ndarray], rows: int, seq_len: int):
    """Returns `(prompt_BP, length_B)` of id arrays, with rows of length 0 up to `rows`.

    P is one of a few widths, so that few programs are compiled.
    """
    longest = max(map(len, prompts), default=1)
    width = min(-(-max(longest, 1) // WIDTH_STEP) * WIDTH_STEP, seq_len)
    prompt_BP = np.full((rows, width), PAD_ID, np.int32)
    length_B = np.zeros(rows, np.int32)
    for i, prompt in enumerate(prompts):
        prompt_BP[i, : len(prompt)], length_B[i] = prompt, len(prompt)
    return prompt_BP, length_B


def sample(
    run: Run, config: Config, prompt: str, n: int, max_new: int, temperature: float, top_k: int
) -> list[str]:
    """Returns `n` continuations of a prompt by a run's first model, the prompt included.

    Raises:
      UserError: the vocabulary lacks a character of the prompt, or it leaves no room.
    """
    config = fit_to(run, config)
    seq_len = config.model.seq_len
    if unknown := run.vocab.unknown(prompt):
        raise UserError(f"--prompt has {unknown!r}, which the vocabulary of {run.folder} lacks")
    if not 1 <= len(prompt) <= seq_len:
        raise UserError(f"--prompt has {len(prompt)} characters: give 1 to {seq_len}")
    if max_new > seq_len + 1 - len(prompt):
        max_new = seq_len + 1 - len(prompt)
        log.info(f"the model reads {seq_len} characters: writing {max_new}")
    model, params = GPT(config.model), first_model(run)
    check_rows(model, params, n, len(prompt) + max_new, f"--num_samples={n}", "lower it")
    prompt_BP, length_B = pad_prompts([run.vocab.encode(prompt)] * n, n, seq_len)
    new_BN = continue_texts(
        model,
        params,
        prompt_BP,
        length_B,
        jax.random.key(config.seed),
        max_new=max_new,
        stop_at_mask=False,
        temperature=temperature,
        top_k=top_k,
    )
    return [prompt + run.vocab.decode(new_N).rstrip(PAD) for new_N in np.asarray(new_BN)]
