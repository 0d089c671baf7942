"""Evaluation: lets runs answer questions, and scores the answers.

found = evaluate(config, run)
print(found.score.accuracy, found.score.interval)
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kgpt_jax.answer import hybrid
from kgpt_jax.answer.calibrated import Calibrated
from kgpt_jax.answer.hybrid import NEVER, Told
from kgpt_jax.answer.open_book import open_book
from kgpt_jax.answer.predict import ask, unlearned, voting
from kgpt_jax.answer.record import Sure
from kgpt_jax.answer.score import Score, score, vote
from kgpt_jax.answer.sure import sureness
from kgpt_jax.config import Config
from kgpt_jax.data import corpus
from kgpt_jax.data.mixture import weights
from kgpt_jax.data.spans import places
from kgpt_jax.data.stage_data import recipe_of
from kgpt_jax.store.compatible import check_corpus, fit_to
from kgpt_jax.store.folder import Run
from kgpt_jax.store.params import load_params

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
      sure: how sure each answer is; None if the run is not calibrated, its calibration used a question, or
        beams were used.
      calibrated: the calibration.
      told: the answers with what the documents say, if they were looked up; these are then the predictions.
    """

    questions: list[str]
    predictions: list[str]
    targets: list[str] | None
    scored: list[int]
    score: Score | None
    each: list[Score]
    seconds: float
    sure: list[Sure] | None = None
    calibrated: Calibrated | None = None
    told: list[Told] | None = None


def evaluate(
    config: Config,
    run: Run,
    beams: int = 0,
    voters: Sequence[Path] = (),
    table: corpus.Table | None = None,
    params=None,
    one_of: float | None = None,
    look_up: str = NEVER,
) -> Evaluation:
    """Asks a run questions, and scores the answers by exact match.

    Args:
      config: `config.data` names the questions and the corpus; the rest must fit the run.
      run: the run that answers. If it has several models, they vote.
      beams: 0 lets the models write any text. With a larger number they choose from a list of places, by a
        beam search of this width.
      voters: folders of further runs that vote.
      table: the questions; None reads those of `config.data`.
      params: the run's parameters; None reads them from its folder.
      one_of: the level of sets of answers, if the run is calibrated.
      look_up: whether to look answers up in the documents (`answer/hybrid.py`): never, unsure or always.

    Raises:
      UserError: a run does not fit the questions' corpus, or it has learned answers to them and
        `config.data.skip_learned` is off.
    """
    asked = [(run, fit_to(run, config)), *voting(voters, config)]
    check_corpus(run, config.data)
    table = corpus.load_questions(config.data) if table is None else table
    corpus.log_notes(table.notes)
    scored = []
    if table.answers is not None:
        scored = unlearned([each for each, _ in asked], table.questions, config.data)
    entries = None
    if beams:
        known = {answer for _, answer in corpus.load_pairs(config.data).pairs}
        entries = places(corpus.load_documents(config.data).documents, known)
        log.info(f"answers are restricted to {len(entries):,} places")
    answers, seconds = [], 0.0
    loaded = []
    for voter, fitted in asked:
        warn_if_never_asked(voter)
        own = (
            params
            if params is not None and voter is run
            else load_params(voter, "evaluating", fitted.model_devices)
        )
        loaded.append((voter, fitted, own))
        given = ask(
            voter,
            fitted,
            table.questions,
            entries=entries,
            beams=beams,
            params=own,
        )
        corpus.log_notes(given.notes)
        answers += given.answers
        seconds += given.seconds
    predictions = vote(answers)
    made: Calibrated | None = None
    how_sure: list[Sure | None] = [None] * len(predictions)
    if not beams:
        made, how_sure = sureness(loaded, table.questions, answers, one_of)
    told = None
    if look_up != NEVER:
        book = open_book(config.data, without=set(table.questions))
        told = hybrid.look_up(book, look_up, table.questions, predictions, how_sure)
        predictions = [each.answer for each in told]
    total, each = None, []
    if table.answers is not None:
        right = [table.answers[i] for i in scored]
        total, *each = (score([given[i] for i in scored], right) for given in [predictions, *answers])
    all_sure = [each for each in how_sure if each]
    return Evaluation(
        table.questions,
        predictions,
        table.answers,
        scored,
        total,
        each,
        seconds,
        all_sure if len(all_sure) == len(how_sure) else None,
        made,
        told,
    )


def warn_if_never_asked(run: Run):
    """Logs a note if a run was pretrained on documents alone: it cannot know how to answer."""
    if run.facts["stage"] != "pretrain":
        return
    if "question_answer" not in weights(recipe_of(run.config, "pretrain")):
        log.info(f"note: {run.folder} was never finetuned on questions: do not expect answers")
