"""Says how sure each answer of a calibrated run is.

made, answers = sureness(loaded, questions, given)     # the runs, and each model's answers
answers[0].label, answers[0].probability, answers[0].interval
"""

import logging
import math
from collections.abc import Sequence
from functools import cache

import numpy as np

from kgpt_jax.answer.calibrated import CANDIDATES, Calibrated, of_runs
from kgpt_jax.answer.confidence import FEATURES, WORST, evidence
from kgpt_jax.answer.label import label
from kgpt_jax.answer.predict import ROWS, candidates
from kgpt_jax.answer.record import Sure
from kgpt_jax.config import Config, DataConfig, UserError
from kgpt_jax.data.holdout import learned_rows
from kgpt_jax.data.names import Frame, did_you_mean
from kgpt_jax.data.people import everyone
from kgpt_jax.model.gpt import GPT
from kgpt_jax.store.folder import Run
from kgpt_jax.store.params import models

log = logging.getLogger(__name__)

FAMILIARITY = list(FEATURES).index("familiarity")


def sureness(
    loaded: Sequence[tuple[Run, Config, object]],
    questions: Sequence[str],
    given: Sequence[list[str]],
    one_of: float | None = None,
) -> tuple[Calibrated | None, list[Sure | None]]:
    """Returns the runs' calibration, and how sure each answer is: None where nothing can be said.

    Nothing can be said if the runs are not calibrated, if the calibration belongs to other runs, or if it
    used the question. In the latter two cases the function logs a note.

    Args:
      loaded: the runs with their fitting configs and parameters.
      questions: the questions.
      given: each model's answers.
      one_of: the level of sets of answers; None makes no sets.

    Raises:
      UserError: the clean pairs do not allow for sets at this level.
    """
    nothing: list[Sure | None] = [None] * len(questions)
    try:
        made = of_runs(loaded)
    except UserError as error:
        log.info(f"note: the answers have no confidence, because {error}")
        return None, nothing
    if made is None:
        return None, nothing
    used = set(learned_rows(questions, set(made.pairs)))
    if used:
        log.info(
            f"note: {len(used)} of the {len(questions)} questions were used for the calibration, the first "
            f"{questions[min(used)]!r}: their answers have no confidence"
        )
    found: list[Sure | None] = [*sure(made, loaded, questions, given, one_of)]
    return made, [None if i in used else each for i, each in enumerate(found)]


def sure(
    made: Calibrated,
    asked: Sequence[tuple[Run, Config, object]],
    questions: Sequence[str],
    given: Sequence[list[str]] = (),
    one_of: float | None = None,
) -> list[Sure]:
    """Answers questions, and says how sure each answer is.

    Args:
      made: the calibration of the runs.
      asked: the runs with their fitting configs and parameters.
      questions: the questions. A question of another form than the training questions has no known name.
      given: each model's answers, if they were asked already.
      one_of: the level of sets of answers; None makes no sets.

    Raises:
      UserError: the clean pairs do not allow for sets at this level.
    """
    sets: list[tuple[str, ...]] = [()] * len(questions)
    if one_of is not None:
        least = made.least_probability(one_of)
        sets = [
            tuple(answer for i, (answer, p) in enumerate(each.items()) if p >= least or i == 0)
            for each in probabilities(asked, questions)
        ]
    found = evidence(asked, made.asks, questions, given)
    confidences = [float(confidence) for confidence in made.calibration.confidence(found.table_NF)]
    known = are_known(found.table_NF, made.least_familiarity)
    right = made.calibration.probability(confidences)
    names = [] if all(known) else _names(asked[0][1].data, made.asks.where)
    answers = []
    for i, (probability, low, high) in enumerate(right):
        of_answer = {name: float(value) for name, value in zip(FEATURES, found.table_NF[i])}
        answers.append(
            Sure(
                found.answers[i],
                label(known[i], confidences[i], of_answer["strangers"]),
                known[i],
                confidences[i],
                probability,
                (low, high),
                "" if known[i] else did_you_mean(made.asks.where.name(questions[i]) or "", names),
                of_answer,
                sets[i],
            )
        )
    return answers


def probabilities(
    asked: Sequence[tuple[Run, Config, object]], questions: Sequence[str], rows: int = ROWS
) -> list[dict[str, float]]:
    """Returns the likeliest answers to each question with their mean probabilities, the likeliest first.

    `rows` questions are searched at once.
    """
    found: list[dict[str, float]] = [{} for _ in questions]
    each = [
        candidates(GPT(config.model), one, run.vocab, questions, CANDIDATES, rows)
        for run, config, params in asked
        for one in models(run, params)
    ]
    for of_model in each:
        for there, logs in zip(found, of_model):
            for answer, log in logs.items():
                there[answer] = there.get(answer, 0.0) + math.exp(log) / len(each)
    return [dict(sorted(there.items(), key=lambda item: -item[1])) for there in found]


def are_known(table_NF: np.ndarray, least: float) -> list[bool]:
    """Returns whether each name counts as known: whether its familiarity, among the evidence, is high enough.

    Names with unknown letters never are.
    """
    return [bool(value >= least and value > WORST) for value in table_NF[:, FAMILIARITY]]


@cache
def _names(data: DataConfig, where: Frame) -> list[str]:
    """Returns the names of everyone in the corpus; none if the corpus cannot be read."""
    try:
        return everyone(data, where)
    except UserError:
        return []
