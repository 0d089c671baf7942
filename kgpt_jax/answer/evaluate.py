"""Evaluation: lets runs answer questions, and scores the answers.

found = evaluate(Judge(voters), config.data)
print(found.score.accuracy, found.score.interval)
"""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from kgpt_jax.answer import hybrid
from kgpt_jax.answer.calibrated import Calibrated
from kgpt_jax.answer.hybrid import Told
from kgpt_jax.answer.open_book import open_book
from kgpt_jax.answer.record import NEVER, Recited, Sure
from kgpt_jax.answer.score import Score, score
from kgpt_jax.answer.sure import Judge
from kgpt_jax.answer.teachers import BY_READER
from kgpt_jax.answer.voters import ask, unlearned
from kgpt_jax.config import DataConfig
from kgpt_jax.data import corpus
from kgpt_jax.data.spans import places

log = logging.getLogger(__name__)


class Evaluation(NamedTuple):
    """The answers of one or several runs, and their scores.

    Attributes:
      questions: the questions.
      predictions: the answer to each question: the vote of all models.
      targets: the right answers, or None if the questions have none.
      scored: the rows that are scored, because no run has learned their answers.
      score: the score of the vote; None without targets.
      each: the score of each model on its own.
      seconds: seconds of answering, without loading.
      sure: how sure each answer is; None for a question that the calibration used. Instead of a list, it is
        None if the run has no calibration, if it was calibrated with reciting and answers without it (or the
        reverse), or if beams were used.
      calibrated: the calibration.
      recited: what each model recites about each question's name; empty without --recite.
      told: the answers with what the documents say, if they were looked up; these are then the predictions.
    """

    questions: list[str]
    predictions: list[str]
    targets: list[str] | None
    scored: list[int]
    score: Score | None
    each: list[Score]
    seconds: float
    sure: Sequence[Sure | None] | None = None
    calibrated: Calibrated | None = None
    recited: Sequence[Sequence[Recited | None]] = ()
    told: list[Told] | None = None


def evaluate(
    judge: Judge,
    data: DataConfig,
    beams: int = 0,
    table: corpus.Table | None = None,
    one_of: float | None = None,
    look_up: str = NEVER,
    recite: bool = False,
) -> Evaluation:
    """Asks runs questions, and scores the answers by exact match.

    Args:
      judge: the runs, with their calibration. All of their models vote.
      data: names the questions and the corpus.
      beams: 0 lets the models write any text. With a larger number they choose from a list of places, by a
        beam search of this width.
      table: the questions; None reads those of `data`.
      one_of: the level of sets of answers, if the run is calibrated.
      look_up: whether to look answers up in the documents (`answer/hybrid.py`): never, unsure or always.
      recite: whether the models recite before they answer (`answer/recite.py`).

    Raises:
      UserError: a run has learned answers to the questions, and `data.skip_learned` is off.
    """
    voters = judge.voters
    table = corpus.load_questions(data) if table is None else table
    corpus.log_notes(table.notes)
    scored = []
    if table.answers is not None:
        scored = unlearned([voter.run for voter in voters], table.questions, data)
    entries = None
    if beams:
        known = {answer for _, answer in corpus.load_pairs(data).pairs}
        entries = places(corpus.load_documents(data).documents, known)
        log.info(f"answers are restricted to {len(entries):,} places")
    for run, *_ in voters:
        if BY_READER in run.facts.get("taught_by", []):
            log.info(
                f"note: {run.folder} trained on answers of {BY_READER}, perhaps to these questions: "
                "then the score does not measure recall of the documents"
            )
    book = open_book(data, without=set(table.questions)) if recite or look_up != NEVER else None
    given = ask(voters, table.questions, entries, beams, book if recite else None)
    corpus.log_notes(given.notes)
    predictions = given.vote
    made: Calibrated | None = None
    how_sure: list[Sure | None] = [None] * len(predictions)
    if not beams:
        made, how_sure = judge.made, judge.sure(table.questions, given, one_of)
    told = None
    if look_up != NEVER:
        told = hybrid.look_up(book, look_up, table.questions, predictions, how_sure)
        predictions = [each.answer for each in told]
    total, each = None, []
    if table.answers is not None:
        right = [table.answers[i] for i in scored]
        total, *each = (score([of[i] for i in scored], right) for of in [predictions, *given.answers])
    return Evaluation(
        table.questions,
        predictions,
        table.answers,
        scored,
        total,
        each,
        given.seconds,
        how_sure if any(how_sure) else None,
        made,
        given.recited,
        told,
    )
