"""A promise about errors: of the answers given, at most this share is wrong, with this certainty.

    thresholds = grid(confidences_of_other_pairs, n_pairs=400, wrong_at_most=0.1, surely=0.9)
    found = promise(confidences, right, thresholds, wrong_at_most=0.1, surely=0.9)
    found.threshold        # answer if the confidence is at least this

Answers below a threshold are withheld. To set it, a promise needs pairs whose answers nobody has looked at.
The thresholds to try are fixed before, from other pairs, and are tested in a fixed order, from the strictest
to the most lenient one. Each is tested with the exact binomial tail, and the first that fails ends the search
(fixed-sequence testing, as in Learn then Test, arXiv 2110.01052). Then the promise fails with a probability
of at most 1 - `surely`, over the draw of the pairs.

A set of answers makes another promise: the right answer is in it with a stated probability (split conformal
prediction, arXiv 2107.07511, section 1).

    least = least_probability(probabilities_of_the_right_answers, level=0.9)
    [answer for answer, probability in candidates.items() if probability >= least]

Both are void for questions that are unlike these pairs, such as those about people whom no document mentions.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kgpt_jax.config import UserError

STEPS = 20  # thresholds to try


class Promise(NamedTuple):
    """What can be promised.

    Attributes:
      threshold: the least confidence of an answer that is given; None if nothing can be promised.
      answered: how many of the pairs reach the threshold or, if it is None, the strictest one.
      wrong: how many of these answers are wrong.
      needed: how many answers in a row would have to be right to make the promise.
    """

    threshold: float | None
    answered: int
    wrong: int
    needed: int


def needed(wrong_at_most: float, surely: float) -> int:
    """Returns how many answers without an error it takes to promise anything.

    >>> needed(0.1, 0.9), needed(0.02, 0.9)
    (22, 114)
    """
    return math.ceil(math.log1p(-surely) / math.log1p(-wrong_at_most))


def check_shares(**shares: float):
    """Raises a UserError if a share is not between 0 and 1; `shares` are by the names of their flags."""
    for name, value in shares.items():
        if not 0 < value < 1:
            raise UserError(f"--{name}={value}: give a share between 0 and 1")


def grid(others: Sequence[float], n_pairs: int, wrong_at_most: float, surely: float) -> list[float]:
    """Returns the thresholds to try, from the strictest to the most lenient one.

    Args:
      others: confidences of other pairs than those that will test the thresholds.
      n_pairs: how many pairs will test the thresholds.
      wrong_at_most, surely: the promise. The strictest threshold is expected to answer 1.5 times as many of
        the pairs as the promise needs, and a tenth of all, so that an error or two do not end the search at
        its start.
    """
    least = min(1.0, max(0.1, 1.5 * needed(wrong_at_most, surely) / n_pairs))
    shares = np.linspace(least, 1, STEPS)
    return [float(value) for value in np.quantile(others, 1 - shares, method="lower")]


def promise(
    confidences: Sequence[float],
    right: Sequence[bool],
    thresholds: Sequence[float],
    wrong_at_most: float,
    surely: float,
) -> Promise:
    """Returns the most lenient threshold that keeps the promise.

    Args:
      confidences: of the answers to the pairs.
      right: whether each answer is right.
      thresholds: as `grid` returns them.
      wrong_at_most, surely: the promise.
    """
    from scipy.stats import binom  # here: the import takes up to a second

    confidence_N, wrong_N = np.asarray(confidences), ~np.asarray(right, bool)
    least = needed(wrong_at_most, surely)
    found = Promise(None, 0, 0, least)
    for i, threshold in enumerate(thresholds):
        answered = confidence_N >= threshold
        counts = int(answered.sum()), int(wrong_N[answered].sum())
        kept = counts[0] and binom.cdf(counts[1], counts[0], wrong_at_most) <= 1 - surely
        if kept or i == 0:
            found = Promise(threshold if kept else None, *counts, least)
        if not kept:
            break
    return found


def least_probability(of_right: Sequence[float], level: float) -> float | None:
    """Returns the least probability of an answer in a set; None if no such set keeps its level.

    Args:
      of_right: the probability that the model gives to the right answer, for each of the pairs; 0 for an
        answer that the model did not find.
      level: the probability that the right answer to a further question is in its set.

    >>> least_probability([0.9, 0.2, 0.7, 0.5], level=0.8), least_probability([0.9, 0.2, 0.7, 0.5], level=0.9)
    (0.2, None)
    """
    rank = math.ceil(round((len(of_right) + 1) * level, 9))
    found = sorted(of_right, reverse=True)[rank - 1] if rank <= len(of_right) else 0.0
    return found or None
