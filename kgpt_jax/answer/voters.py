"""Lets runs answer questions. All models of all runs vote.

voters = load_voters(voting(runs, config), "asking")
ask(voters, questions).vote
"""

import dataclasses
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kgpt_jax.answer.beam import make_trie
from kgpt_jax.answer.open_book import OpenBook
from kgpt_jax.answer.predict import predict
from kgpt_jax.answer.reader import LEAST_PROBABILITY
from kgpt_jax.answer.recite import recite
from kgpt_jax.answer.record import Recited
from kgpt_jax.answer.score import vote
from kgpt_jax.config import Config, DataConfig, UserError
from kgpt_jax.data.holdout import UNKNOWN, learned_rows, refuse_learned
from kgpt_jax.data.mixture import weights
from kgpt_jax.data.stage_data import recipe_of
from kgpt_jax.model.gpt import GPT
from kgpt_jax.store.compatible import check_corpus, fit_to, learned_by
from kgpt_jax.store.folder import Run, read_run
from kgpt_jax.store.params import load_params, models

log = logging.getLogger(__name__)


class Voter(NamedTuple):
    """A run that votes.

    Attributes:
      run: the run.
      config: a config that fits it (`fit_to`).
      params: its parameters, as `load_params` returns them.
    """

    run: Run
    config: Config
    params: Any

    @property
    def models(self) -> list[Any]:
        """The parameters of each of its models."""
        return models(self.run, self.params)


class Answers(NamedTuple):
    """The answers of models.

    Attributes:
      answers: a list of answers for each model, in the order of the questions.
      seconds: seconds of answering, without loading.
      notes: notes on questions that were changed or left out.
      recited: what each model recites about each question's name; empty without --recite.
    """

    answers: list[list[str]]
    seconds: float
    notes: list[str]
    recited: Sequence[list[Recited | None]] = ()

    @property
    def vote(self) -> list[str]:
        """The answer that most models give to each question."""
        return vote(self.answers)


def voting(runs: Sequence[Run], config: Config) -> list[tuple[Run, Config]]:
    """Returns each run with its own config, but with `data` and `model_devices` of `config`.

    Raises:
      UserError: a run does not fit the data.
    """
    for run in runs:
        check_corpus(run, config.data)
    own = [
        dataclasses.replace(run.config, data=config.data, model_devices=config.model_devices) for run in runs
    ]
    return [(run, fit_to(run, each)) for run, each in zip(runs, own)]


def distinct(first: Path, further: Sequence[str | Path]) -> list[Path]:
    """Returns the folders of all runs that vote. Raises a UserError if one is named twice."""
    folders = [first, *map(Path, further)]
    if len({folder.resolve() for folder in folders}) < len(folders):
        names = ",".join(map(str, further))
        raise UserError(f"--voters={names} with {first} names a run twice: each votes once")
    return folders


def with_voters(run: Run, further: Sequence[str | Path], config: Config) -> list[tuple[Run, Config]]:
    """Returns a run and the runs in further folders, each with its config.

    Args:
      run: the run.
      further: the folders of the runs that vote with it.
      config: the config of `run`. Its `data` and `model_devices` hold for all.

    Raises:
      UserError: a run is named twice, or does not fit the data.
    """
    folders = distinct(run.folder, further)
    check_corpus(run, config.data)
    return [(run, fit_to(run, config)), *voting([read_run(folder) for folder in folders[1:]], config)]


def load_voters(asked: Sequence[tuple[Run, Config]], purpose: str, recites: bool = False) -> list[Voter]:
    """Loads the parameters of runs. Logs a note about each run that never learned to answer.

    Args:
      asked: the runs with their fitting configs, as `voting` returns them.
      purpose: the beginning of the log line that names a run; "" logs no such line.
      recites: whether the runs recite, so that they need not have learned to answer.

    Raises:
      UserError: a run has no valid checkpoint.
    """
    loaded = []
    for run, config in asked:
        never_asked = "question_answer" not in weights(recipe_of(run.config, "pretrain"))
        if run.facts["stage"] == "pretrain" and never_asked and not recites:
            log.info(f"note: {run.folder} was never finetuned on questions: do not expect answers")
        loaded.append(Voter(run, config, load_params(run, purpose, config.model_devices)))
    return loaded


def ask(
    voters: Sequence[Voter],
    questions: Sequence[str],
    entries: list[str] | None = None,
    beams: int = 0,
    book: OpenBook | None = None,
) -> Answers:
    """Returns the answers of each model of runs.

    Args:
      voters: the runs.
      questions: the questions.
      entries: the list to choose answers from; None lets the models write any text.
      beams: the width of the beam search among `entries`.
      book: lets each model recite first. What the book's reader finds in that is the answer, if its
        probability is above LEAST_PROBABILITY.

    Raises:
      UserError: the search needs more memory than there is.
    """
    answers: list[list[str]] = []
    notes: list[str] = []
    recited: list[list[Recited | None]] = []
    began = time.perf_counter()
    for voter in voters:
        model, vocab = GPT(voter.config.model), voter.run.vocab
        trie = None if entries is None else make_trie(entries, vocab)
        for params in voter.models:
            given, of_model = predict(model, params, vocab, list(questions), trie, beams)
            notes = list(dict.fromkeys([*notes, *of_model]))
            if book:
                recited.append(recite(model, params, vocab, book, questions))
                given = [
                    there.answer if there and there.probability > LEAST_PROBABILITY else own
                    for own, there in zip(given, recited[-1])
                ]
            answers.append(given)
    return Answers(answers, time.perf_counter() - began, notes, recited)


def unlearned(runs: Sequence[Run], questions: Sequence[str], data: DataConfig) -> list[int]:
    """Returns the indices of the questions that may be scored: no run has learned their answers.

    Logs a note for each run that does not record what it learned.

    Raises:
      UserError: a run has learned an answer and `data.skip_learned` is False; or it is True and no question
        is left.
    """
    for run in runs:
        if UNKNOWN in learned_by([run]):
            log.info(
                f"note: {run.folder} does not record all that it learned: it may know the answers already"
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
        log.info(f"note: left out of the score, because their answers were learned: {first}")
    return sorted(set(range(len(questions))) - set(known))
