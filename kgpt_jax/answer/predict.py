"""Lets a model answer questions, and read texts. `answer/voters.py` lets runs answer by vote.

    answers, notes = predict(model, params, vocab, questions)

Axes: `B` questions, `T` positions of a text, `W` characters to be written, `V` vocabulary, `1` an axis of
size one.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kgpt_jax.answer.beam import any_text, best_entries
from kgpt_jax.answer.decode import PROMPT_STEP, Start, check_rows, continue_texts, pad_prompts, read_start
from kgpt_jax.config import UserError, check_utf8
from kgpt_jax.data.lines import check_text
from kgpt_jax.data.vocab import MASK, MASK_ID, PAD, Vocab
from kgpt_jax.devices import calls_at_once, to_numpy
from kgpt_jax.model.variants import lookup

MAX_ANSWER = 32  # characters, as in the course
USUAL_ANSWER = 16  # few answers have more characters; divides MAX_ANSWER
MANY = 256  # so many questions are worth another program, which reads the start that they share
ROWS = 64  # texts in a batch; more rows would save less than their padding costs


def tidy(question: str) -> str:
    """Returns a question without the spaces around it. Files of questions are read the same way.

    Raises:
      UserError: it is not a string, is blank, or has a line break or a reserved character (`check_text`).
    """
    if not isinstance(question, str) or not question.strip():
        raise UserError(f"a question is {question!r}: give one line of text")
    question = question.strip()
    if len(question.splitlines()) > 1:
        raise UserError(f"the question {question!r} has a line break: give each question on its own")
    check_utf8("the question", question)
    check_text(f"the question {question[:40]!r}", question)
    return question


def predict(
    model, params, vocab: Vocab, questions: list[str], trie: np.ndarray | None = None, beams: int = 4
) -> tuple[list[str], list[str]]:
    """Returns one model's answer to each question, and notes on questions that were changed or left out.

    Args:
      model: a `GPT`.
      params: the parameters of one model.
      vocab: its vocabulary. Characters that it lacks are dropped from a question, with a note.
      questions: texts of one line each.
      trie: None writes the likeliest character at each step. With a trie (`answer/beam.py`), the answer is
        the likeliest entry that a beam search finds.
      beams: the width of the beam search.

    Returns:
      `(answers, notes)`. An answer has at most `MAX_ANSWER` characters and no line break. If a question
      leaves no room for an answer, its answer is "", with a note.

    Raises:
      UserError: the search needs more memory than there is.
    """
    prompts, notes = encode_questions(vocab, questions, model.cfg.seq_len + 1)
    if trie is not None:
        positions = min(PROMPT_STEP, model.cfg.seq_len) + MAX_ANSWER
        rows = n_rows(questions) * beams
        check_rows(model, params, rows, positions, f"a search with {beams:,} beams", "lower --beams")
        child_XV = jnp.asarray(trie)

    # To continue an answer, the model reads a prompt that ends with what it has written so far.
    # `best_entries` cannot do that. A model that reads whole sources would take it for part of the question.
    can_continue = trie is None and not lookup(model.cfg).whole_source
    room, start = MAX_ANSWER, None
    if can_continue and len(questions) >= MANY and jax.default_backend() == "cpu":
        room, start = USUAL_ANSWER, shared_start(model, params, prompts)

    def write(chosen, *batch):
        if trie is None:
            return continue_texts(model, params, *batch, start=start, max_new=room, stop_at_mask=True)
        return best_entries(model, params, *batch, child_XV, beams=beams, max_new=room)[0][:, 0]

    at_once = None if trie is None else 1  # the memory of many beams was checked for one call
    written = [np.zeros(0, np.int32) for _ in prompts]
    left = [i for i, prompt in enumerate(prompts) if len(prompt)]
    while left:
        texts = [np.concatenate([prompts[i], written[i]]) for i in left]
        for chosen, _, new_BW in batch_by_batch(write, texts, model.cfg.seq_len, at_once):
            for j, new_W in zip(chosen, new_BW):
                written[left[j]] = np.concatenate([written[left[j]], new_W])
        left = [i for i in left if _goes_on(written[i], len(prompts[i]), model.cfg.seq_len)]
    return [_line(vocab, new_W) for new_W in written], notes


def _goes_on(new_W: np.ndarray, given: int, seq_len: int) -> bool:
    """Returns whether an answer has not ended and may be longer. Its prompt has `given` characters."""
    return len(new_W) < MAX_ANSWER and MASK_ID not in new_W and given + len(new_W) <= seq_len


def _line(vocab: Vocab, new_W: np.ndarray) -> str:
    """Returns the answer that ids spell, without what follows its end, and without line breaks."""
    return " ".join(vocab.decode(new_W).split(MASK)[0].rstrip(PAD).splitlines())


def likeliest_answers(
    model, params, vocab: Vocab, questions: Sequence[str], beams: int = 8
) -> list[dict[str, float]]:
    """Returns the likeliest answers to each question with their log probabilities, the likeliest first.

    Args:
      model: a `GPT`.
      params: the parameters of one model.
      vocab: its vocabulary.
      questions: texts of one line each. One that leaves no room for an answer gets none.
      beams: how many answers to look for.
    """
    prompts, _ = encode_questions(vocab, list(questions), model.cfg.seq_len + 1)
    found: list[dict[str, float]] = [{} for _ in prompts]
    trie, how = any_text(vocab), {"beams": beams, "max_new": MAX_ANSWER, "complete": True}

    def search(chosen, *batch):
        return best_entries(model, params, *batch, trie, **how)

    for chosen, length_B, (new_BEW, score_BE) in batch_by_batch(search, prompts, model.cfg.seq_len):
        for i, new_EW, score_E, length in zip(chosen, new_BEW, score_BE, length_B):
            for new_W, score in zip(new_EW, score_E):
                if length and np.isfinite(score):  # otherwise there is no such entry
                    found[i].setdefault(_line(vocab, new_W), float(score))  # equal lines: the likelier one
    return found


def encode_questions(
    vocab: Vocab, questions: list[str], text_length: int
) -> tuple[list[np.ndarray], list[str]]:
    """Returns the ids of each question followed by MASK, and notes on questions that were changed.

    A question that leaves no room for an answer in `text_length` characters gets no ids.
    """
    prompts, notes = [], []
    for number, question in enumerate(questions, 1):
        if unknown := vocab.unknown(question):
            notes.append(f"question {number}: left out {unknown!r}, which the vocabulary lacks")
            question = "".join(c for c in question if c not in unknown)
        if len(question) + 2 > text_length:
            notes.append(
                f"question {number}: answered with nothing, its {len(question)} characters are more "
                f"than the {text_length - 2} that fit"
            )
            prompts.append(np.zeros(0, np.int32))
        else:
            prompts.append(vocab.encode(question + MASK))
    return prompts, notes


def n_rows(texts: Sequence) -> int:
    """Returns how many rows a batch of these texts has: `ROWS`, but 1 for a single text.

    Somebody may be waiting for the answer to a single question, and one row is quicker than 64.
    """
    return 1 if len(texts) == 1 else ROWS


def shared_start(model, params, prompts: Sequence[np.ndarray]) -> Start | None:
    """Reads the characters that begin every prompt, such as `Where wa`. Returns None if there are none.

    Every prompt goes on after them, except empty prompts, which do not count. Their number is a multiple of
    `PROMPT_STEP`, so that few programs are compiled. Models that read whole sources cannot do this.
    """
    same = os.path.commonprefix([list(map(int, prompt[:-1])) for prompt in prompts if len(prompt)])
    same = same[: len(same) // PROMPT_STEP * PROMPT_STEP]
    return read_start(model, params, np.array([same], np.int32)) if same else None


def in_batches(
    texts: Sequence[np.ndarray], longest: int
) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """Yields batches of texts, the shortest texts first to save padding.

    Batches have `n_rows` rows, so that one program serves them all; in the last one, some may be empty.

    Args:
      texts: ids.
      longest: the most characters of a text.

    Yields:
      The indices of the texts, their ids (B, T), and their lengths (B,), as from `pad_prompts`.
    """
    rows = n_rows(texts)
    by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for first in range(0, len(by_length), rows):
        chosen = by_length[first : first + rows]
        yield chosen, *pad_prompts([texts[i] for i in chosen], rows, longest)


def batch_by_batch(
    function: Callable, texts: Sequence[np.ndarray], longest: int, at_once: int | None = None
) -> Iterator[tuple[list[int], np.ndarray, Any]]:
    """Calls a function with each batch of texts; on a CPU, threads make several calls at the same time.

    Args:
      function: takes the three parts of a batch (see `in_batches`), and returns JAX arrays.
      texts, longest: as in `in_batches`.
      at_once: how many calls to make at the same time; None: as many as `calls_at_once` says.

    Yields:
      The indices of a batch's texts, their lengths (B,), and what the function returned, as NumPy arrays.
      The batches may come in any order.
    """

    def call(batch, earlier: Future | None = None):
        if earlier:
            earlier.exception()  # waits until the first call of this width has compiled the program
        chosen, _, length_B = batch
        return chosen, length_B, jax.tree.map(to_numpy, function(*batch))

    batches = list(in_batches(texts, longest))
    at_once = at_once or calls_at_once(len(batches))
    if at_once == 1:
        yield from map(call, batches)
        return
    threads = ThreadPoolExecutor(at_once)
    futures: list[Future] = []
    first: dict[int, Future] = {}  # by width
    try:
        for batch in reversed(batches):  # the longest first, so that no thread is idle for long at the end
            width = batch[1].shape[1]
            futures.append(threads.submit(call, batch, first.get(width)))
            first.setdefault(width, futures[-1])
        for future in futures:
            yield future.result()
    finally:
        threads.shutdown(cancel_futures=True)


def log_probabilities(
    model, params, vocab: Vocab, questions: list[str], answers: list[str]
) -> list[float | None]:
    """Returns the log probability, in nats, of each answer and its final MASK given the question.

    The question is encoded as in `predict`. The value is None if the question leaves no room for an answer.
    An answer that fills the text has no MASK.
    """
    texts = with_answers(vocab, questions, answers, model.cfg.seq_len + 1)
    read = read_texts(model, params, [text for text, _ in texts], [given for _, given in texts])
    sums = [float(of.gain_T[max(given - 1, 0) :].sum()) for of, (_, given) in zip(read, texts)]
    return [total if given else None for total, (_, given) in zip(sums, texts)]


def with_answers(
    vocab: Vocab, questions: Sequence[str], answers: Sequence[str], text_length: int
) -> list[tuple[np.ndarray, int]]:
    """Returns the ids of each question with its answer, and how many of them are the question's.

    MASKs follow the question and the answer, as in training. There are no ids for a question that leaves no
    room for an answer in `text_length` characters, nor for an answer with a character that the vocabulary
    lacks.
    """
    prompts, _ = encode_questions(vocab, list(questions), text_length)
    none = np.zeros(0, np.int32)
    texts = []
    for prompt, answer in zip(prompts, answers):
        fits = len(prompt) and not vocab.unknown(answer)
        text = np.concatenate([prompt, vocab.encode(answer + MASK)])[:text_length] if fits else none
        texts.append((text, len(prompt) if fits else 0))
    return texts


class Read(NamedTuple):
    """How likely the characters of a text are, each given those before it; one entry for each but the first.

    Attributes:
      gain_T: log probabilities, in nats.
      lead_T: how far each log probability is above that of the likeliest other character.
    """

    gain_T: np.ndarray
    lead_T: np.ndarray


def read_texts(model, params, texts: Sequence[np.ndarray], given: Sequence[int]) -> list[Read]:
    """Lets a model read texts.

    Args:
      model: a `GPT`.
      params: the parameters of one model.
      texts: ids, at most `seq_len + 1` of each.
      given: how many characters at the start of each text are given. A model with an encoder does not predict
        them, so their entries mean nothing.
    """
    found = [Read(np.zeros(0, np.float32), np.zeros(0, np.float32))] * len(texts)

    def read(chosen, text_BT, length_B):
        source_B = np.ones(len(length_B), np.int32)
        source_B[: len(chosen)] = [max(given[i], 1) for i in chosen]
        return _read(model, params, text_BT, source_B)

    for chosen, length_B, (gain_BT, lead_BT) in batch_by_batch(read, texts, model.cfg.seq_len + 1):
        for i, gain_T, lead_T, length in zip(chosen, gain_BT, lead_BT, length_B):
            size = max(length - 1, 0)
            found[i] = Read(gain_T[:size], lead_T[:size])
    return found


@partial(jax.jit, static_argnames="model")
def _read(model, params, text_BT: jax.Array, source_B: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns log probabilities and leads, (B, T - 1) each."""
    logits_BTV = model.apply({"params": params}, text_BT[:, :-1], source_B, train=False)
    gains_BTV = jax.nn.log_softmax(logits_BTV)
    chosen_BT1 = text_BT[:, 1:, None]
    gain_BT = jnp.take_along_axis(gains_BTV, chosen_BT1, axis=2)[:, :, 0]
    is_other_BTV = jnp.arange(gains_BTV.shape[2])[None, None] != chosen_BT1
    return gain_BT, gain_BT - jnp.where(is_other_BTV, gains_BTV, -jnp.inf).max(axis=2)


def mean_log_probability(scores: Sequence[float | None]) -> float | None:
    """Returns the log of the mean probability, given log probabilities. None if any of them is None.

    >>> round(mean_log_probability([math.log(0.5), math.log(0.25)]), 4) == round(math.log(0.375), 4)
    True
    """
    known = [score for score in scores if score is not None]
    if len(known) < len(scores):
        return None
    most = max(known)
    return most + math.log(sum(math.exp(score - most) for score in known) / len(known))
