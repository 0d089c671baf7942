"""Continues texts in batches: reads each prompt in one pass, then writes characters with a cache.

Axes: `B` rows, `P` characters of a padded prompt, `W` characters to be written, `T` positions of a text,
`V` vocabulary, `1` an axis of size one.
"""

import math
import re
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kgpt_jax.config import Config, UserError
from kgpt_jax.data.mixture import weights
from kgpt_jax.data.stage_data import recipe_of
from kgpt_jax.data.vocab import MASK, MASK_ID, PAD, PAD_ID, Vocab
from kgpt_jax.devices import check_memory, to_numpy
from kgpt_jax.model.attention import shortened
from kgpt_jax.model.gpt import GPT
from kgpt_jax.store.compatible import fit_to
from kgpt_jax.store.folder import Run
from kgpt_jax.store.params import first_model

PROMPT_STEP = 8  # prompts are padded to a multiple of this, so that few widths are compiled
SENTENCE_ENDS = ".!?…。！？\"'”’»)]"
SENTENCE = re.compile(r"[.!?…。！？][\"'”’»)\]]*(?=\s|$)")  # matches the end of a sentence


class Start(NamedTuple):
    """The characters that begin every text, and the model's cache after it has read them."""

    ids_1T: jax.Array
    cache: dict


@partial(jax.jit, static_argnames=("model", "max_new", "stop_at_mask", "temperature", "top_k"))
def continue_texts(
    model,
    params,
    prompt_BP: jax.Array,
    length_B: jax.Array,
    key: jax.Array | None = None,
    start: Start | None = None,
    *,
    max_new: int,
    stop_at_mask: bool,
    temperature: float = 0.0,
    top_k: int = 0,
    ends_V: jax.Array | None = None,
) -> jax.Array:
    """Returns the continuation of each prompt: (B, max_new) ids, padded with PAD.

    Args:
      model: a `GPT`.
      params: the parameters of one model.
      prompt_BP: the prompts, padded to the right.
      length_B: the length of each prompt. A row of length 0 is not continued.
      key: a key from `jax.random`; temperature 0 needs none.
      start: what `read_start` returned for the first characters of all prompts, which are then not read
        again. Every prompt must be longer, except prompts of length 0. None: prompts are read as a whole.
      max_new: the most characters to write.
      stop_at_mask: whether a MASK ends a row.
      temperature: 0 writes the likeliest character. Above 0 characters are drawn at random.
      top_k: draws from this many likeliest characters; 0 draws from all.
      ends_V: whether a text may end after each character. If it is given, MASK is written only where it is
        the likeliest character and the text may end: elsewhere it would mark a gap, as in span corruption.
        None treats MASK like any other character.

    A row also ends after the last position that the model can read.
    """
    B = len(prompt_BP)
    last_B, cache = read_prompts(model, params, prompt_BP, length_B, max_new, start)

    def unfinished(carry):
        i, done_B = carry[0], carry[-1]
        return (i < max_new) & ~done_B.all()

    def one_character(carry):
        i, new_BW, last_B, cache, done_B = carry
        logits_BV, cache = read_next(model, params, cache, last_B, length_B, i)
        if ends_V is not None:
            logits_BV = _mask_ends_only(logits_BV, ends_V[last_B])
        next_B = _choose(logits_BV, key, i, temperature, top_k)
        next_B = jnp.where(done_B, PAD_ID, next_B)
        done_B |= length_B + i >= model.cfg.seq_len
        if stop_at_mask:
            done_B |= next_B == MASK_ID
        return i + 1, new_BW.at[:, i].set(next_B), next_B, cache, done_B

    new_BW = jnp.full((B, max_new), PAD_ID, jnp.int32)
    return lax.while_loop(unfinished, one_character, (0, new_BW, last_B, cache, length_B == 0))[1]


@partial(jax.jit, static_argnames="model")
def read_start(model, params, ids_1T: jax.Array) -> Start:
    """Reads the characters that begin every prompt. Models that read whole sources cannot do this."""
    _, cache = model.apply({"params": params}, ids_1T, train=False, mutable=["cache"])
    return Start(ids_1T, cache)


def read_prompts(
    model, params, prompt_BP: jax.Array, length_B: jax.Array, max_new: int, start: Start | None = None
) -> tuple[jax.Array, dict]:
    """Reads the prompts. Returns the last character of each, (B,), and a cache with room for `max_new` more.

    `read_next` reads the last character again and returns its logits. Those of this call are not used, so XLA
    leaves out what only they need: the head, and the last layer except for its keys and values.

    If there is a `start`, only the characters after it are read.
    """
    B, P = prompt_BP.shape
    last_B = jnp.take_along_axis(prompt_BP, jnp.maximum(length_B - 1, 0)[:, None], axis=1)[:, 0]
    variables, rest_BT, start_B = {"params": params}, prompt_BP, None
    if start is not None:
        known = start.ids_1T.shape[1]
        cache = shortened(start.cache, model.cfg, P + max_new)
        variables |= jax.tree.map(lambda leaf: leaf.repeat(B, axis=0), cache)
        rest_BT, start_B = prompt_BP[:, known:], jnp.full(B, known)
    _, cache = model.apply(variables, rest_BT, length_B, start_B, train=False, mutable=["cache"])
    return last_B, shortened(cache, model.cfg, P + max_new)


def read_next(
    model, params, cache: dict, last_B: jax.Array, length_B: jax.Array, i: jax.Array
) -> tuple[jax.Array, dict]:
    """Reads the last character of each text.

    Args:
      model, params: the model.
      cache: the cache of the calls before, from `read_prompts` or from this function.
      last_B: the last character of each text: that of the prompt if i is 0, otherwise the one just written.
      length_B: the length of each prompt.
      i: how many characters have been written.

    Returns:
      The logits of the next character, (B, V), and the cache. Both mean nothing in rows that have ended.
    """
    start_B = jnp.clip(length_B + i - 1, 0, model.cfg.seq_len - 1)
    logits_B1V, cache = model.apply(
        {"params": params, **cache}, last_B[:, None], length_B, start_B, train=False, mutable=["cache"]
    )
    return logits_B1V[:, 0], cache


def _mask_ends_only(logits_BV: jax.Array, may_end_B: jax.Array) -> jax.Array:
    """Returns logits that force MASK where it is likeliest and the text may end, and forbid it elsewhere."""
    ends_B1 = ((logits_BV.argmax(axis=-1) == MASK_ID) & may_end_B)[:, None]
    is_mask_1V = jnp.arange(logits_BV.shape[-1])[None] == MASK_ID
    return jnp.where(ends_B1 == is_mask_1V, logits_BV, -jnp.inf)


def _choose(logits_BV: jax.Array, key, i: jax.Array, temperature: float, top_k: int) -> jax.Array:
    if temperature == 0:
        return logits_BV.argmax(axis=-1).astype(jnp.int32)
    logits_BV = logits_BV.at[:, PAD_ID].set(-jnp.inf)  # a text has no PAD
    if 0 < top_k < logits_BV.shape[-1]:
        kth_B1 = lax.top_k(logits_BV, top_k)[0][:, -1:]
        logits_BV = jnp.where(logits_BV >= kth_B1, logits_BV, -jnp.inf)
    return jax.random.categorical(jax.random.fold_in(key, i), logits_BV / temperature).astype(jnp.int32)


def check_rows(model, params, rows: int, positions: int, purpose: str, advice: str):
    """Raises a UserError if decoding this many rows at once needs more memory than there is.

    The estimate is a lower bound: the cache and the last logits of each row.

    Args:
      model, params: the model.
      rows: texts in a batch.
      positions: characters of a text, including the prompt.
      purpose, advice: the beginning and the end of the error message.
    """

    def kept(params, prompt_1P, length_1):
        logits_1PV, state = model.apply(
            {"params": params}, prompt_1P, length_1, train=False, mutable=["cache"]
        )
        return logits_1PV[:, -1], shortened(state, model.cfg, positions)

    abstract = jax.eval_shape(kept, params, np.zeros((1, 1), np.int32), np.ones(1, np.int32))
    bytes_per_row = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract) if leaf.ndim)
    check_memory(purpose, rows * bytes_per_row, advice)


def pad_prompts(prompts: list[np.ndarray], rows: int, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    """Stacks prompts, arrays of ids, into a batch of `rows` rows.

    Returns:
      `prompt_BP`, padded with PAD to a multiple of `PROMPT_STEP` and at most `seq_len`; and `length_B`, which
      is 0 in rows without a prompt.
    """
    longest = max(map(len, prompts), default=1)
    width = min(-(-max(longest, 1) // PROMPT_STEP) * PROMPT_STEP, seq_len)
    prompt_BP = np.full((rows, width), PAD_ID, np.int32)
    length_B = np.zeros(rows, np.int32)
    for i, prompt in enumerate(prompts):
        prompt_BP[i, : len(prompt)], length_B[i] = prompt, len(prompt)
    return prompt_BP, length_B


def sample(
    run: Run,
    config: Config,
    prompt: str,
    n: int,
    max_new: int,
    temperature: float,
    top_k: int,
    params=None,
) -> list[str]:
    """Returns `n` continuations of a prompt, each one line that begins with the prompt.

    The run's first model writes them. A text ends

    - where MASK is the likeliest next character. In span corruption, a MASK follows the rest of a document,
      so the model has learned to end texts with it. A model that has never read whole lines also expects a
      MASK as a gap within a sentence; that MASK is not written (`ends_of_texts`);
    - at a line break, because a document is one line;
    - otherwise after the last sentence that is complete within `max_new` characters. A model that has read
      nothing but whole lines needs this rule: it has not learned where lines end, because padding carries no
      loss.

    Args:
      run: the run that writes; its vocabulary must have all characters of the prompt.
      config: `config.seed` seeds the sampling; the rest must fit the run.
      prompt: the beginning of the text.
      n: how many texts.
      max_new: the most characters to add to the prompt.
      temperature: 0 writes the likeliest character.
      top_k: draws from this many likeliest characters; 0 draws from all.
      params: the parameters of the run's first model; None reads them from the run's folder.

    Raises:
      UserError: a number is too low, the vocabulary lacks a character of the prompt, the prompt leaves no
        room, the run does not fit `config`, or the texts need more memory than there is.
    """
    for name, value, least in (
        ("n", n, 1),
        ("max_new", max_new, 1),
        ("temperature", temperature, 0),
        ("top_k", top_k, 0),
    ):
        if not least <= value < math.inf:  # also not a number
            raise UserError(f"{name} is {value}: give {least} or more")
    config = fit_to(run, config)
    seq_len = config.model.seq_len
    if unknown := run.vocab.unknown(prompt):
        raise UserError(f"the prompt has {unknown!r}, which the vocabulary of {run.folder} lacks")
    if not 1 <= len(prompt) <= seq_len:
        raise UserError(f"the prompt has {len(prompt)} characters: give 1 to {seq_len}")
    max_new = min(max_new, seq_len + 1 - len(prompt))
    model, params = GPT(config.model), first_model(run) if params is None else params
    check_rows(model, params, n, len(prompt) + max_new, f"--num_samples={n}", "lower it")
    prompt_BP, length_B = pad_prompts([run.vocab.encode(prompt)] * n, n, seq_len)
    new_BW = continue_texts(
        model,
        params,
        prompt_BP,
        length_B,
        jax.random.key(config.seed),
        max_new=max_new,
        stop_at_mask=True,
        temperature=temperature,
        top_k=top_k,
        ends_V=ends_of_texts(run, prompt),
    )
    return [ended(prompt, run.vocab.decode(new_W)) for new_W in np.asarray(new_BW)]


def ends_of_texts(run: Run, prompt: str) -> np.ndarray:
    """Returns (V,) bools: whether a MASK after each character of the vocabulary ends a text.

    All are True if the run was pretrained on whole lines, too, or if the prompt contains a MASK, like a
    question without its answer. Otherwise only characters that end a sentence are True.
    """
    if MASK in prompt or "whole_line" in weights(recipe_of(run.config, "pretrain")):
        return np.ones(len(run.vocab), bool)
    return sentence_ends(run.vocab)


def sentence_ends(vocab: Vocab) -> np.ndarray:
    """Returns (V,) bools: whether each character of the vocabulary ends a sentence."""
    return np.array([character in SENTENCE_ENDS for character in vocab.characters])


def ended(prompt: str, new: str) -> str:
    """Returns a prompt with its continuation, as one line up to the end of the text.

    Without a MASK or a line break, the text ends with the last complete sentence after the prompt, if any.

    >>> ended("Al ", "sang.⁇□□")
    'Al sang.'
    >>> ended("Al ", "sang. She pla")
    'Al sang.'
    >>> ended("Al ", "plays the ha")
    'Al plays the ha'
    """
    lines = new.split(MASK)[0].rstrip(PAD).splitlines() or [""]
    text = " ".join((prompt + lines[0]).splitlines())
    if MASK in new or len(lines) > 1:
        return text
    ends = [end.end() for end in SENTENCE.finditer(text) if end.end() > len(prompt)]
    return text[: ends[-1]] if ends else text


def logits(model, params, ids_T: np.ndarray, source: int) -> np.ndarray:
    """Returns the float32 logits (T, V) of one text.

    Texts are padded to a few widths, so that few programs are compiled. Padding does not change the logits,
    because no position sees a later one.

    Args:
      model: a `GPT`.
      params: the parameters of one model.
      ids_T: the text.
      source: how many characters at its start are given, not predicted.
    """
    text_1P, _ = pad_prompts([ids_T], 1, model.cfg.seq_len)
    logits_1PV = _read(model, params, text_1P, np.array([source], np.int32))
    return to_numpy(logits_1PV)[0, : len(ids_T)]


@partial(jax.jit, static_argnames="model")
def _read(model, params, x_BT: jax.Array, source_B: jax.Array) -> jax.Array:
    return model.apply({"params": params}, x_BT, source_B, train=False)
