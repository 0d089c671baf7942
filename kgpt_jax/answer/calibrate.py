"""Calibrates a run on held-out pairs.

    made = calibrate(voters, config.data)

The last held-out pairs fit the logistic regression. The first ones, the clean pairs, measure it, give its
probabilities, and set the thresholds of promises (`answer/guarantee.py`). Do not choose a recipe by its
accuracy on the clean pairs: promises would no longer hold.
"""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from kgpt_jax.answer.calibrated import Calibrated, Quality
from kgpt_jax.answer.confidence import (
    calibration_error,
    fit,
    logistic_regression,
    perfect_error,
    risk_and_coverage,
)
from kgpt_jax.answer.evidence import Asks, evidence
from kgpt_jax.answer.open_book import OpenBook, open_book
from kgpt_jax.answer.score import auroc
from kgpt_jax.answer.sure import are_known, least_familiarity, probabilities
from kgpt_jax.answer.voters import Voter, ask, unlearned
from kgpt_jax.config import DataConfig, UserError
from kgpt_jax.data import corpus
from kgpt_jax.data.holdout import fingerprints, parts
from kgpt_jax.data.lookup import NAME
from kgpt_jax.data.names import divided, frame
from kgpt_jax.store.params import params_digest

log = logging.getLogger(__name__)

LEAST_PAIRS = 20  # pairs of each part
N_STRANGERS = 16  # so many strangers share the last part of a name, and so many others the first


def calibrate(voters: Sequence[Voter], data: DataConfig, n_fit: int = 0, recites: bool = False) -> Calibrated:
    """Calibrates runs on questions with answers that they have not learned, such as held-out training pairs.

    Args:
      voters: the runs; all of their models vote.
      data: names the questions, as for an evaluation.
      n_fit: how many of them, the last ones, fit the regression; 0 takes a third.
      recites: whether the runs recite before they answer (`answer/recite.py`).

    Raises:
      UserError: the questions have no answers, there are too few, none of the answers is right, or a run has
        learned them.
    """
    logistic_regression()  # an error before all questions are asked
    table = corpus.load_questions(data)
    if table.answers is None:
        raise UserError("calibration needs questions with answers, as by --config.data.n_validation=600")
    rows = unlearned([voter.run for voter in voters], table.questions, data)
    questions, targets = [table.questions[i] for i in rows], [table.answers[i] for i in rows]
    clean, last = parts(questions, n_fit or len(rows) // 3)
    if min(len(clean), len(last)) < LEAST_PAIRS:
        raise UserError(
            f"{len(rows)} held-out pairs, {len(last)} of them for the fit: calibration needs {LEAST_PAIRS} "
            f"for the fit and {LEAST_PAIRS} clean ones"
        )
    asks = what_they_ask([question for question, _ in corpus.load_pairs(data).pairs])
    book = there = None
    try:
        book = open_book(data, without=set(questions))
        there = ask_documents(book, questions, targets)
    except UserError as error:
        if recites and not book:
            raise
        log.info(f"note: promises will not cover answers that are looked up, because {error}")
    found = evidence(voters, asks, questions, ask(voters, questions, book=book if recites else None))
    right_N = np.array([is_right(answer, target) for answer, target in zip(found.answers, targets)])
    if right_N[last].all():
        log.info(
            f"note: all {len(last)} answers of the fit are right, so the weakest evidence stands for a wrong "
            "one: give more pairs, by --n_fit or --config.data.n_validation"
        )
    fitted = fit(found.table_NF[last], right_N[last])
    confidence_N = fitted.confidence(found.table_NF)
    sets = [] if recites else probabilities(voters, [questions[i] for i in clean])
    of_fit = [pair and pair[0] for pair in (there[i] for i in last)] if there else None
    pairs = tuple((float(c), bool(r)) for c, r in zip(confidence_N[clean], right_N[clean]))
    least = least_familiarity(found.familiarity_N[last])
    return Calibrated(
        dataclasses.replace(fitted, clean=pairs),
        asks,
        sorted(params_digest(voter.params) for voter in voters),
        fingerprints(questions),
        recites,
        [float(confidence) for confidence in confidence_N[last]],
        least,
        are_known(found.familiarity_N[clean], least),
        there and [there[i] for i in clean],
        of_fit,
        [each.get(targets[i], 0.0) for i, each in zip(clean, sets)],
        quality(confidence_N[clean], right_N[clean]),
    )


def ask_documents(
    book: OpenBook, questions: Sequence[str], targets: Sequence[str]
) -> list[tuple[float, bool] | None]:
    """Returns the probability of the documents' answer to each question, and whether it is right.

    It is None for a question without a line about its name.

    Raises:
      UserError: a package that looks for similar names is not installed.
    """
    return [
        (each.probability, is_right(each.answer, target)) if each and each.how == NAME else None
        for each, target in zip(map(book.answer, questions), targets)
    ]


def what_they_ask(questions: Sequence[str]) -> Asks:
    """Returns what training questions have in common, with the parts of a few of their names."""
    where = frame(questions)
    named = [where.name(question) or "" for question in dict.fromkeys(questions)]
    each = [own for name in named if (own := divided(name))]
    chosen = np.linspace(0, len(each) - 1, N_STRANGERS if each else 0).astype(int)
    return Asks(where, [each[i] for i in chosen])


def is_right(answer: str, target: str) -> bool:
    """Returns whether an answer is right: an exact match, as in evaluation."""
    return answer == target


def quality(confidences: ArrayLike, right: ArrayLike) -> Quality:
    """Measures confidences against the truth."""
    confidence_N, right_N = np.asarray(confidences, float), np.asarray(right, bool)
    both = right_N.any() and not right_N.all()
    wrong = 1 - right_N.mean()
    best_N = risk_and_coverage(right_N, right_N)
    return Quality(
        len(right_N),
        float(1 - wrong),
        auroc(confidence_N[right_N], confidence_N[~right_N]) if both else None,
        calibration_error(confidence_N, right_N),
        perfect_error(confidence_N, np.random.default_rng(0)),
        float(np.mean((confidence_N - right_N) ** 2)),
        float(risk_and_coverage(confidence_N, right_N).mean()),
        float(best_N.mean()),
    )
