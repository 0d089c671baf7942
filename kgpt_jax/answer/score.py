"""Exact match with its interval, the vote of several models, and constant baselines."""

import statistics
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class Score(NamedTuple):
    """How many answers equal the right answers exactly.

    >>> Score(correct=3, total=4).accuracy
    0.75

    Attributes:
      correct: the number of right answers.
      total: the number of answers, 1 or more.
    """

    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        """The share of right answers, from 0 to 1."""
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval for the accuracy."""
        return wilson_interval(self.correct, self.total)

    def __str__(self) -> str:
        """Returns the accuracy with its interval.

        >>> str(Score(correct=12, total=100))
        '12.0%, 95% interval 7.0% to 19.8%'
        """
        return f"{self.accuracy:.1%}, 95% interval {percent(self.interval)}"


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """Returns Wilson's 95 % score interval for a proportion (JASA 22, 1927, p. 209).

    >>> [round(end, 4) for end in wilson_interval(12, 100)]
    [0.07, 0.1981]
    """
    from scipy.stats import binomtest  # here: the import takes up to a second

    low, high = binomtest(correct, total).proportion_ci(method="wilson")
    return float(low), float(high)


def mean_interval(shares: list[float]) -> tuple[float, float]:
    """Returns Student's 95 % interval for the mean accuracy of several seeds, clipped to 0 .. 1.

    A single seed gives no estimate: its interval is 0 .. 1.

    >>> [round(end, 4) for end in mean_interval([0.7, 0.8, 0.9])]
    [0.5516, 1.0]
    """
    if len(shares) < 2:
        return 0.0, 1.0
    from scipy.stats import t  # here: the import takes up to a second

    mean, n = statistics.mean(shares), len(shares)
    half = float(t.ppf(0.975, n - 1)) * statistics.stdev(shares) / n**0.5
    return max(mean - half, 0.0), min(mean + half, 1.0)


def paired_interval(differences: list[float]) -> tuple[float, float]:
    """Returns the normal 95 % interval for a mean difference, given the difference for each question.

    It is narrower than two separate intervals, because questions that are hard for both sides cancel. A
    single question gives no estimate: its interval is -1 .. 1.

    Args:
      differences: for each question, one side's score minus the other's.

    >>> [round(end, 4) for end in paired_interval([1, 0, 0, 1])]
    [-0.0658, 1.0658]
    """
    if len(differences) < 2:
        return -1.0, 1.0
    half = 1.959964 * statistics.stdev(differences) / len(differences) ** 0.5
    return statistics.mean(differences) - half, statistics.mean(differences) + half


def vote(answers: list[list[str]]) -> list[str]:
    """Returns the most frequent answer to each question. In a tie, the answer of the earliest model wins.

    Args:
      answers: a list of answers for each model, in the order of the questions.

    >>> vote([["Rome", "Oslo"], ["Paris", "Bonn"], ["Rome", "Cork"]])
    ['Rome', 'Oslo']
    """
    return [Counter(given).most_common(1)[0][0] for given in zip(*answers, strict=True)]


def score(predictions: list[str], answers: list[str]) -> Score:
    """Counts exact matches. Raises a ValueError if there are not as many predictions as answers."""
    return Score(sum(p == a for p, a in zip(predictions, answers, strict=True)), len(answers))


def constants(right: list[str], *answers: str) -> list[tuple[str, Score]]:
    """Returns baselines (answer, score) that always give the same answer: London, and each of `answers`.

    Args:
      right: the right answers.
      *answers: further constant answers to score; repetitions are left out.
    """
    return [(answer, score([answer] * len(right), right)) for answer in dict.fromkeys(["London", *answers])]


def percent(interval: tuple[float, float]) -> str:
    """Returns an interval of fractions as text.

    >>> percent((0.018, 0.094))
    '1.8% to 9.4%'
    """
    return f"{interval[0]:.1%} to {interval[1]:.1%}"


def auroc(positives: "ArrayLike", negatives: "ArrayLike") -> float:
    """Returns the area under the ROC curve: the chance that a positive scores higher; ties count half.

    >>> auroc([2, 3], [1, 2])
    0.875
    """
    import numpy as np  # here: --help must not wait for these imports
    from scipy.stats import rankdata

    high, low = np.asarray(positives, float), np.asarray(negatives, float)
    n = len(high)
    ranks = rankdata(np.concatenate([high, low]))[:n]
    return float((ranks.sum() - n * (n + 1) / 2) / (n * len(low)))
