"""Turns the evidence for an answer into a confidence, and measures confidences.

    calibration = fit(table_NF, right)                 # logistic regression
    calibration.confidence(table_NF)                   # from 0 to 1
    calibration.probability([0.9])                     # with an interval

`answer/evidence.py` collects the evidence, a row of FEATURES for each answer. Venn-Abers prediction (arXiv
1511.00213) turns the confidence into a probability with an interval.

Axes: `N` answers, `F` features.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from kgpt_jax.answer.evidence import weakest
from kgpt_jax.config import UserError


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Turns evidence into a confidence, and a confidence into a probability.

    Attributes:
      mean_F, spread_F: the mean and the standard deviation of each feature among the pairs of the fit.
      weight_F, bias: of the logistic regression on the standardized features.
      clean: (confidence, right) of other pairs, for the probability.
    """

    mean_F: np.ndarray
    spread_F: np.ndarray
    weight_F: np.ndarray
    bias: float
    clean: tuple[tuple[float, bool], ...] = ()

    def confidence(self, table_NF: np.ndarray) -> np.ndarray:
        """Returns the confidence of each answer, from 0 to 1."""
        score_N = (table_NF - self.mean_F) / self.spread_F @ self.weight_F + self.bias
        return 1 / (1 + np.exp(-np.clip(score_N, -500, 500)))

    def probability(self, confidences: Sequence[float]) -> list[tuple[float, float, float]]:
        """Returns the probability that each answer is right, and its interval: (probability, low, high).

        The two ends are the isotonic regression of the clean pairs and the answer, first taken as wrong, then
        as right. The probability is high / (1 - low + high), as in Venn-Abers prediction.
        """
        found = []
        for confidence in confidences:
            low, high = (_isotonic([*self.clean, (confidence, right)], confidence) for right in (False, True))
            found.append((high / (1 - low + high), low, high))
        return found


def logistic_regression():
    """Returns scikit-learn's logistic regression. Raises a UserError if scikit-learn is not installed."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise UserError("calibration needs scikit-learn: pip install scikit-learn") from None
    return LogisticRegression()


def fit(table_NF: np.ndarray, right: ArrayLike) -> Calibration:
    """Fits a logistic regression.

    Where all answers are right, the weakest evidence of each kind stands for a wrong one: without a wrong
    answer, the evidence would get no weights.

    Raises:
      UserError: scikit-learn is not installed, or no answer is right.
    """
    regression = logistic_regression()
    right_N = np.asarray(right, bool)
    if not right_N.any():
        raise UserError(f"none of {len(right_N)} answers is right: calibration needs right ones")
    if right_N.all():
        table_NF, right_N = np.vstack([table_NF, weakest(table_NF)]), np.append(right_N, False)
    mean_F, spread_F = table_NF.mean(0), table_NF.std(0)
    spread_F = np.where(spread_F > 0, spread_F, 1.0)
    model = regression.fit((table_NF - mean_F) / spread_F, right_N)
    return Calibration(mean_F, spread_F, model.coef_[0], float(model.intercept_[0]))


def _isotonic(pairs: Sequence[tuple[float, bool]], at: float) -> float:
    """Returns the isotonic regression of right on confidence, at one of the confidences.

    It joins neighbours until the share of right answers rises from block to block (pool adjacent violators:
    Barlow et al., Statistical Inference under Order Restrictions, 1972). SciPy takes longer to import.
    """
    blocks: list[tuple[float, int, int]] = []  # the highest confidence, the right answers, all answers
    in_order = sorted(pairs, key=lambda pair: (pair[0], not pair[1]))  # equal ones: right ones first
    for confidence, right in in_order:
        n_right, n = int(right), 1
        while blocks and (blocks[-1][0] == confidence or blocks[-1][1] * n >= n_right * blocks[-1][2]):
            _, more_right, more = blocks.pop()
            n_right, n = n_right + more_right, n + more
        blocks.append((confidence, n_right, n))
    return next(n_right / n for highest, n_right, n in blocks if highest >= at)


def calibration_error(confidences: ArrayLike, right: ArrayLike, bins: int = 10) -> float:
    """Returns the expected calibration error over bins of equal mass.

    It is the mean distance between a bin's mean confidence and its share of right answers, weighted by size.
    """
    order = np.argsort(np.asarray(confidences), kind="stable")
    confidence_N, right_N = np.asarray(confidences, float)[order], np.asarray(right, float)[order]
    parts = [part for part in np.array_split(np.arange(len(order)), bins) if len(part)]
    return sum(abs(confidence_N[p].mean() - right_N[p].mean()) * len(p) for p in parts) / len(order)


def perfect_error(confidences: ArrayLike, rng: np.random.Generator) -> float:
    """Returns the 95 % quantile of the calibration error if each confidence were the exact probability."""
    confidence_N = np.asarray(confidences, float)
    errors = [
        calibration_error(confidence_N, rng.random(len(confidence_N)) < confidence_N) for _ in range(1_000)
    ]
    return float(np.quantile(errors, 0.95))


def risk_and_coverage(confidences: ArrayLike, right: ArrayLike) -> np.ndarray:
    """Returns (N,): the share of wrong answers among the 1, 2, ... N most confident ones."""
    order = np.argsort(-np.asarray(confidences, float), kind="stable")
    return np.cumsum(~np.asarray(right, bool)[order]) / np.arange(1, len(order) + 1)
