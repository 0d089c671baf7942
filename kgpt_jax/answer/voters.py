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
from kgpt_jax.config import Config
from kgpt_jax.model.gpt import GPT
from kgpt_jax.train.checkpoint import load_params, models
from kgpt_jax.train.run import Run, fit_to, read_run


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
    shared = {"data": config.data, "model_devices": config.model_devices}
    return [(run, fit_to(run, dataclasses.replace(run.config, **shared))) for run in runs]


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
