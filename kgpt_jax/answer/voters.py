"""Runs that are asked the same questions: several models answer, those of one run or of many.

for run, config in voting(folders, config):
    said = ask(run, config, questions)
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kgpt_jax.answer.beam import make_trie
from kgpt_jax.answer.evaluate import predict
from kgpt_jax.config import Config, DataConfig, UserError
from kgpt_jax.data.holdout import UNKNOWN, learned_rows, refuse_learned
from kgpt_jax.model.gpt import GPT
from kgpt_jax.train.checkpoint import load_params, models
from kgpt_jax.train.run import Run, check_corpus, fit_to, learned_by, read_run


class Said(NamedTuple):
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
            print(f"note: what {run.folder} learned is unknown, wholly or in part: it may know the answers")
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
        print(f"note: left out of the score, as their answers were learned: {first}")
    return sorted(set(range(len(questions))) - set(known))


def ask(
    run: Run,
    config: Config,
    questions: list[str],
    purpose: str = "evaluating",
    entries: list[str] | None = None,
    beams: int = 0,
) -> Said:
    """Returns what each model of a run answers, with a config that fits it; prints the purpose and which run.

    Where `entries` are given, answers are among these, by a search with so many beams.
    """
    model, params = GPT(config.model), load_params(run, purpose, config.model_devices)
    trie = None if entries is None else make_trie(entries, run.vocab)
    began, answers, notes = time.perf_counter(), [], []
    for one in models(run, params):
        said, notes = predict(model, one, run.vocab, questions, trie, beams)
        answers.append(said)
    return Said(answers, time.perf_counter() - began, notes)
