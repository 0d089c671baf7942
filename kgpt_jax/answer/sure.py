"""Says how sure each answer of a calibrated run is.

judge = Judge(voters)  # reads the calibration of the runs
sure = judge.sure(questions, ask(voters, questions))
sure[0].label, sure[0].probability, sure[0].interval
"""

import logging
import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from kgpt_jax.answer.calibrated import CANDIDATES, Calibrated, of_runs
from kgpt_jax.answer.evidence import FEATURES, evidence
from kgpt_jax.answer.label import label
from kgpt_jax.answer.predict import likeliest_answers
from kgpt_jax.answer.record import NEVER, Sure
from kgpt_jax.answer.voters import Answers, Voter
from kgpt_jax.config import UserError
from kgpt_jax.data.holdout import learned_rows
from kgpt_jax.data.names import did_you_mean
from kgpt_jax.data.people import everyone
from kgpt_jax.model.gpt import GPT

log = logging.getLogger(__name__)

UNKNOWN_SHARE = 0.02  # of the names in the pairs of the fit: the least familiar ones count as unknown


class Judge:
    """Says how sure each answer of some runs is, if they are calibrated.

    Args:
      voters: the runs.
      made: their calibration; None reads it from the folder of the first. If it cannot be used, the judge
        logs why.

    Attributes:
      made: their calibration; None if there is none that can be used.
      problem: why there is none; "" if there is one.
    """

    def __init__(self, voters: Sequence[Voter], made: Calibrated | None = None):
        self.voters, self.made, self.problem = voters, made, ""
        if made is None:
            try:
                self.made = of_runs(voters)
                self.problem = "" if self.made else "This run is not calibrated."
            except UserError as error:
                self.problem = "The calibration of this run cannot be used."
                log.info(f"note: the answers have no confidence, because {error}")

    def check(
        self,
        recites: bool,
        wrong_at_most: float | None = None,
        surely: float = 0.9,
        look_up: str = NEVER,
        one_of: float | None = None,
    ):
        """Checks that answers can get a confidence and, if a promise is given, that it can be made.

        Args:
          recites: whether the models recite before they answer.
          wrong_at_most, surely, look_up: as in `Calibrated.threshold`.
          one_of: the level of sets of answers; None makes no sets.

        Raises:
          UserError: there is no calibration that fits, or its clean pairs do not allow for the promise.
        """
        if self.problem:
            raise UserError(f"{self.problem} Run --mode=calibrate first")
        if why_not := self.other_way(recites):
            raise UserError(f"{why_not} Do the same here, or calibrate it again")
        assert self.made is not None
        self.made.threshold(wrong_at_most, surely, look_up)
        if one_of is not None:
            self.made.least_probability(one_of)

    def used(self, questions: Sequence[str]) -> list[int]:
        """Returns the indices of the questions that the calibration used, whose figures would flatter."""
        return learned_rows(questions, set(self.made.pairs)) if self.made else []

    def other_way(self, recites: bool) -> str:
        """Returns why the calibration does not fit, if the answers were found in another way; "" if it fits.

        Args:
          recites: whether the models recite before they answer.
        """
        if self.made is None or recites == self.made.recites:
            return ""
        return f"This run was calibrated {'with' if self.made.recites else 'without'} --recite."

    def sure(
        self, questions: Sequence[str], given: Answers, one_of: float | None = None
    ) -> list[Sure | None]:
        """Says how sure each answer is: None if there is no fitting calibration, or it used the question.

        Args:
          questions: the questions. A question of another form than the training questions has no known name.
          given: the answers of all models.
          one_of: the level of sets of answers; None makes no sets.

        Raises:
          UserError: the clean pairs do not allow for sets at this level.
        """
        made, used = self.made, self.used(questions)
        if made is None:
            return [None] * len(questions)
        if why_not := self.other_way(bool(given.recited)):
            log.info(f"note: the answers have no confidence. {why_not}")
            return [None] * len(questions)
        if used:
            log.info(
                f"note: {len(used)} of the {len(questions)} questions were used for the calibration, the "
                f"first {questions[used[0]]!r}: their answers have no confidence"
            )
        sets: list[tuple[str, ...]] = [()] * len(questions)
        if one_of is not None:
            least = made.least_probability(one_of)
            sets = [
                tuple(answer for i, (answer, p) in enumerate(each.items()) if p >= least or i == 0)
                for each in probabilities(self.voters, questions)
            ]
        found = evidence(self.voters, made.asks, questions, given)
        confidences = [float(confidence) for confidence in made.calibration.confidence(found.table_NF)]
        known = are_known(found.familiarity_N, made.least_familiarity)
        right = made.calibration.probability(confidences)
        answers: list[Sure | None] = []
        for i, (probability, low, high) in enumerate(right):
            of_answer = {name: float(value) for name, value in zip(FEATURES, found.table_NF[i])}
            hint = "" if known[i] else did_you_mean(made.asks.where.name(questions[i]) or "", self._names)
            answers.append(
                Sure(
                    found.answers[i],
                    label(known[i], confidences[i], of_answer["strangers"]),
                    known[i],
                    confidences[i],
                    probability,
                    (low, high),
                    hint,
                    of_answer,
                    sets[i],
                )
            )
        for i in used:
            answers[i] = None
        return answers

    @cached_property
    def _names(self) -> list[str]:
        """The names of everyone in the corpus; none if the corpus cannot be read."""
        assert self.made is not None
        try:
            return everyone(self.voters[0].config.data, self.made.asks.where)
        except UserError:
            return []


def probabilities(voters: Sequence[Voter], questions: Sequence[str]) -> list[dict[str, float]]:
    """Returns the likeliest answers to each question with their mean probabilities, the likeliest first."""
    found: list[dict[str, float]] = [{} for _ in questions]
    each = [
        likeliest_answers(GPT(voter.config.model), params, voter.run.vocab, questions, CANDIDATES)
        for voter in voters
        for params in voter.models
    ]
    for of_model in each:
        for there, logs in zip(found, of_model):
            for answer, log_probability in logs.items():
                there[answer] = there.get(answer, 0.0) + math.exp(log_probability) / len(each)
    return [dict(sorted(there.items(), key=lambda item: -item[1])) for there in found]


def least_familiarity(familiarity_N: np.ndarray) -> float:
    """Returns the familiarity below which a name counts as unknown.

    Args:
      familiarity_N: of the names in the pairs of the fit, in nats.
    """
    finite_N = np.maximum(familiarity_N, np.finfo(np.float32).min)  # a quantile beside -inf would be NaN
    return float(np.quantile(finite_N, UNKNOWN_SHARE))


def are_known(familiarity_N: np.ndarray, least: float) -> list[bool]:
    """Returns whether each name counts as known: a familiarity of -inf, as of unknown letters, never does.

    >>> are_known(np.array([-60.0, -120.0, -np.inf]), least=-103.0)
    [True, False, False]
    """
    return [bool(value >= least and value > -np.inf) for value in familiarity_N]
