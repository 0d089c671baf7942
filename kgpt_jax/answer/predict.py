"""Runs answer questions: one run or several, each of one model or several.

for run, config in voting(folders, config):
    said = ask(run, config, questions)
"""

import dataclasses
import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kgpt_jax.answer.beam import best_entries, make_trie
from kgpt_jax.answer.decode import WIDTH_STEP, check_rows, continue_texts, pad_prompts
from kgpt_jax.config import Config, DataConfig, UserError
from kgpt_jax.data.holdout import UNKNOWN, learned_rows, refuse_learned
from kgpt_jax.data.vocab import MASK, PAD, Vocab
from kgpt_jax.devices import to_numpy
from kgpt_jax.model.gpt import GPT
from kgpt_jax.store.compatible import check_corpus, fit_to, learned_by
from kgpt_jax.store.folder import Run, read_run
from kgpt_jax.store.params import load_params, models

log = logging.getLogger(__name__)

MAX_ANSWER = 32  # characters, as in the course


ROWS = 64  # questions answered at once; more would save less than their padding costs


def predict(
    model, params, vocab: Vocab, questions: list[str], trie: np.ndarray | None = None, beams: int = 4
) -> tuple[list[str], list[str]]:
    """Returns an answer for each question, in their order, and notes on those read with losses.

    An answer is what the model writes greedily or, given a trie (`answer/beam.py`), the likeliest of its
    entries that a search with so many beams finds.

    Characters that the vocabulary lacks are left out; a question that leaves no room for an answer gets
    the empty one. An answer has no line breaks, so that it fills one line of a file.
    """
    text_length = model.cfg.seq_len + 1
    notes, prompts = [], []
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
    if trie is None:
        # Greedy: the key is never drawn from.
        write = partial(continue_texts, key=jax.random.key(0), max_new=MAX_ANSWER, stop_at_mask=True)
    else:
        positions = min(WIDTH_STEP, model.cfg.seq_len) + MAX_ANSWER
        check_rows(model, params, ROWS * beams, positions, f"a search with {beams:,} beams", "lower --beams")
        write = partial(best_entries, child_XV=jnp.asarray(trie), beams=beams, max_new=MAX_ANSWER)
    answers = [""] * len(questions)
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for first in range(0, len(by_length), ROWS):
        chosen = by_length[first : first + ROWS]
        prompt_BP, length_B = pad_prompts([prompts[i] for i in chosen], ROWS, model.cfg.seq_len)
        new_BN = write(model, params, prompt_BP, length_B)
        for i, new_N in zip(chosen, to_numpy(new_BN)):
            answer = vocab.decode(new_N)
            answers[i] = " ".join(answer.split(MASK)[0].rstrip(PAD).splitlines())
    return answers, notes


class Answers(NamedTuple):
    """What a run's models answered: a list for each model, in the questions' order."""

    answers: list[list[str]]
    seconds: float  # of answering, without what loading takes
    notes: list[str]  # on the questions


def voting(folders: Sequence[Path], config: Config) -> list[tuple[Run, Config]]:
    """Returns runs, each with its own config, but for data and devices, which are those of `config`.

    A UserError where a run does not fit the data.
    """
    runs = [read_run(folder) for folder in folders]
    for run in runs:
        check_corpus(run, config.data)
    shared = {"data": config.data, "model_devices": config.model_devices}
    return [(run, fit_to(run, dataclasses.replace(run.config, **shared))) for run in runs]


def unlearned(runs: Sequence[Run], questions: Sequence[str], data: DataConfig) -> list[int]:
    """Returns the rows of the questions that may be scored: no run has learned their answers.

    Prints a note for each run that does not record what it learned. Raises a UserError where a run has
    learned any of the answers; with `data.skip_learned` these rows are left out, and a UserError says
    where none is left.
    """
    for run in runs:
        if UNKNOWN in learned_by([run]):
            log.info(
                f"note: what {run.folder} learned is unknown, wholly or in part: it may know the answers"
            )
        if not data.skip_learned:
            refuse_learned(questions, learned_by([run]), str(run.folder))
    known = learned_rows(questions, learned_by(runs))
    if known:
        names = ", ".join(str(run.folder) for run in runs)
        first = f"{len(known)} of the {len(questions)} questions, the first {questions[known[0]]!r}"
        if len(known) == len(questions):
            raise UserError(
                f"{names} learned the answers to {first}: none is left to score; ask about others"
            )
        log.info(f"note: left out of the score, as their answers were learned: {first}")
    return sorted(set(range(len(questions))) - set(known))


def ask(
    run: Run,
    config: Config,
    questions: list[str],
    purpose: str = "evaluating",
    entries: list[str] | None = None,
    beams: int = 0,
) -> Answers:
    """Returns what each model of a run answers, with a config that fits it; prints the purpose and which run.

    Where `entries` are given, answers are among these, by a search with so many beams.
    """
    model, params = GPT(config.model), load_params(run, purpose, config.model_devices)
    trie = None if entries is None else make_trie(entries, run.vocab)
    began, answers, notes = time.perf_counter(), [], []
    for one in models(run, params):
        said, notes = predict(model, one, run.vocab, questions, trie, beams)
        answers.append(said)
    return Answers(answers, time.perf_counter() - began, notes)
