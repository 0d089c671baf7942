"""Predictions for questions, exact match with its interval, and constant baselines."""

import statistics
from collections import Counter
from typing import NamedTuple


class Score(NamedTuple):
    """How many answers are right to the letter."""

    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.correct, self.total)


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """Returns Wilson's 95 % score interval for a proportion (JASA 22, 1927, p. 209).

    >>> [round(end, 4) for end in wilson_interval(25, 500)]
    [0.0341, 0.0728]
    """
    from scipy.stats import binomtest  # not above: it takes up to a second, and most commands score nothing

    low, high = binomtest(correct, total).proportion_ci(method="wilson")
    return float(low), float(high)


def mean_interval(shares: list[float]) -> tuple[float, float]:
    """Returns Student's 95 % interval for the mean of shares, one of each seed, cut to 0 .. 1.

    >>> [round(end, 4) for end in mean_interval([0.7, 0.8, 0.9])]
    [0.5516, 1.0]
    """
    if len(shares) < 2:
        return 0.0, 1.0
    from scipy.stats import t  # not above: it takes a second to import

    mean, n = statistics.mean(shares), len(shares)
    half = float(t.ppf(0.975, n - 1)) * statistics.stdev(shares) / n**0.5
    return max(mean - half, 0.0), min(mean + half, 1.0)


def paired_interval(differences: list[float], z: float = 1.959964) -> tuple[float, float]:
    """Returns the normal 95 % interval for a mean difference, of one difference for each question.

    What makes a question hard for both sides cancels, which makes it narrower than two separate intervals.
    A single question says nothing.

    >>> [round(end, 4) for end in paired_interval([1, 0, 0, 1])]
    [-0.0658, 1.0658]
    """
    if len(differences) < 2:
        return -1.0, 1.0
    half = z * statistics.stdev(differences) / len(differences) ** 0.5
    return statistics.mean(differences) - half, statistics.mean(differences) + half


def vote(answers: list[list[str]]) -> list[str]:
    """Returns what most models say to each question; among equals, what the first of them says.

    >>> vote([["Rome", "Oslo"], ["Paris", "Bonn"], ["Rome", "Cork"]])
    ['Rome', 'Oslo']
    """
    return [Counter(said).most_common(1)[0][0] for said in zip(*answers, strict=True)]


def score(predictions: list[str], answers: list[str]) -> Score:
    """Counts exact matches, predictions and answers one to one."""
    return Score(sum(p == a for p, a in zip(predictions, answers, strict=True)), len(answers))


def constants(right: list[str], *answers: str) -> list[tuple[str, Score]]:
    """Returns (answer, score) of always answering London, and of always giving each of the other answers."""
    return [(answer, score([answer] * len(right), right)) for answer in dict.fromkeys(["London", *answers])]


def percent(interval: tuple[float, float]) -> str:
    """Returns an interval as text.

    >>> percent((0.018, 0.094))
    '1.8% to 9.4%'
    """
    return f"{interval[0]:.1%} to {interval[1]:.1%}"
