"""Evaluation: runs answer the questions that a config names, and their answers are scored.

found = evaluate(config, run)
print(found.score.accuracy, found.score.interval)
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kgpt_jax.answer.predict import ask, unlearned, voting
from kgpt_jax.answer.score import Score, score, vote
from kgpt_jax.config import Config
from kgpt_jax.data import corpus
from kgpt_jax.data.mixture import weights
from kgpt_jax.data.spans import places
from kgpt_jax.data.stage_data import recipe_of
from kgpt_jax.store.compatible import check_corpus, fit_to
from kgpt_jax.store.folder import Run

log = logging.getLogger(__name__)


class Evaluation(NamedTuple):
    """What runs answered to the evaluation questions, and how much of it is right."""

    questions: list[str]
    predictions: list[str]  # the vote of all models, one for each question
    targets: list[str] | None  # the right answers, if the file has any
    scored: list[int]  # rows that count: no run has learned their answers
    score: Score | None  # of the vote; None without targets
    each: list[Score]  # of each model by itself
    seconds: float  # of answering, without loading


def evaluate(config: Config, run: Run, beams: int = 0, voters: Sequence[Path] = ()) -> Evaluation:
    """Answers the evaluation questions with a run, and scores the answers by exact match.

    Args:
      config: `config.data` says which questions; the rest must fit the run.
      run: the run that answers; its models vote if it has several.
      beams: 0 for greedy answers; otherwise answers come from a list of places only, by a beam search.
      voters: folders of further runs that vote.

    Raises:
      UserError: a run does not fit the questions' corpus, or has learned answers that it is asked for and
        `config.data.skip_learned` does not say to leave these out.
    """
    asked = [(run, fit_to(run, config)), *voting(voters, config)]
    check_corpus(run, config.data)
    table = corpus.load_questions(config.data)
    corpus.log_notes(table.notes)
    scored = []
    if table.answers is not None:
        scored = unlearned([each for each, _ in asked], table.questions, config.data)
    entries = None
    if beams:
        known = set(corpus.load_pairs(config.data).answers)
        entries = places(corpus.load_documents(config.data).documents, known)
        log.info(f"answers are restricted to {len(entries):,} places")
    answers, seconds = [], 0.0  # of each model
    for voter, fitted in asked:
        if never_asked(voter):
            log.info(f"note: {voter.folder} was never finetuned on questions: expect no answers of it")
        said = ask(voter, fitted, table.questions, entries=entries, beams=beams)
        corpus.log_notes(said.notes)
        answers += said.answers
        seconds += said.seconds
    predictions = vote(answers)
    if table.answers is None:
        return Evaluation(table.questions, predictions, None, scored, None, [], seconds)
    right = [table.answers[i] for i in scored]
    total, *each = (score([said[i] for i in scored], right) for said in [predictions, *answers])
    return Evaluation(table.questions, predictions, table.answers, scored, total, each, seconds)


def never_asked(run: Run) -> bool:
    """Tells whether a run was pretrained on documents alone."""
    return run.facts["stage"] == "pretrain" and "question_answer" not in weights(
        recipe_of(run.config, "pretrain")
    )
