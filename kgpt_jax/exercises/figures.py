"""What a topic hands over: figures with their standard errors, and the panels of its picture.

Axes: `S` draws, `B` places, `E` edges of bins, `W` bins.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Settings(NamedTuple):
    """What every topic is computed with.

    Attributes:
      draws: how many times a random question is drawn.
      seed: decides all draws.
      sizes: numbers of words n, for topics in which n matters.
    """

    draws: int = 20_000
    seed: int = 0
    sizes: tuple[int, ...] = (4, 8, 64, 512)

    def rng(self, purpose: int) -> np.random.Generator:
        """Returns a generator for draws that NumPy makes; another purpose gives other draws."""
        return np.random.default_rng((self.seed, purpose))


class Estimate(NamedTuple):
    """A value, and its standard error over the draws; None if it was not estimated from draws."""

    value: float
    standard_error: float | None = None


class Figure(NamedTuple):
    """One line of figures.jsonl. None stands where a field does not apply.

    Attributes:
      topic: the topic's name.
      quantity: what `value` is.
      n: words, or positions.
      d: channels.
      beta: the large scalar of the question.
      alpha: the variance of the keys' noise.
      value: computed or simulated, never by the formula of `theory`.
      standard_error: of `value` over the draws; None if the value is no estimate.
      theory: a closed form or a quadrature; None if there is none.
      draws: how many draws the value comes from.
      seed: the seed of the draws.
    """

    topic: str
    quantity: str
    n: int | None
    d: int | None
    beta: float | None
    alpha: float | None
    value: float
    standard_error: float | None
    theory: float | None
    draws: int | None
    seed: int


class Line(NamedTuple):
    """A curve or points. `style` is Matplotlib's, such as "-" or "o"; `color` counts the colors."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "-"
    color: int = 0


class Lines(NamedTuple):
    """A panel of curves. `xscale` and `yscale` are "linear" or "log"; None leaves a limit to Matplotlib."""

    title: str
    xlabel: str
    ylabel: str
    lines: list[Line]
    xscale: str = "linear"
    yscale: str = "linear"
    ylim: tuple[float | None, float | None] = (None, None)
    equal: bool = False  # the same length for a unit on both axes


class Histogram(NamedTuple):
    """A panel that shows how values are distributed over [0, 1], and the expected shares in percent."""

    title: str
    xlabel: str
    ylabel: str
    values_S: np.ndarray
    edges_E: np.ndarray  # of the bins
    shares_W: np.ndarray
    label: str  # of the shares
    color: int = 0


class Bars(NamedTuple):
    """A panel of horizontal bars on a logarithmic axis. Bars that are `good` have another color."""

    title: str
    xlabel: str
    names: list[str]
    values: list[float]
    good: list[bool]
    left: float  # where bars begin; a value of 0 has no bar


class Matrix(NamedTuple):
    """A panel of a matrix in colors, with a number in each cell if there are few."""

    title: str
    xlabel: str
    ylabel: str
    values: np.ndarray
    columns: list[str] = []
    rows: list[str] = []
    vmin: float | None = None
    vmax: float | None = None


Panel = Lines | Histogram | Bars | Matrix


class Findings:
    """Collects a topic's figures, and the title and the panels of its picture."""

    def __init__(self, topic: str, settings: Settings):
        self.topic, self.settings = topic, settings
        self.figures: list[Figure] = []
        self.title, self.remark = "", ""
        self.panels: list[Panel] = []

    def add(
        self,
        quantity: str,
        found: Estimate | float,
        theory: float | None = None,
        *,
        n: int | None = None,
        d: int | None = None,
        beta: float | None = None,
        alpha: float | None = None,
        draws: int | None = None,
    ):
        """Adds a figure. `found` is an estimate from draws, or a plain number that was computed.

        Raises:
          ValueError: a number is not finite.
        """
        value, error = found if isinstance(found, Estimate) else (found, None)
        value, error, theory, beta, alpha = map(_plain, (value, error, theory, beta, alpha))
        place = (self.topic, quantity, n, d, beta, alpha)
        self.figures.append(Figure(*place, value, error, theory, draws, self.settings.seed))

    def picture(self, title: str, *panels: Panel):
        """Sets the picture: a title that states the finding, and panels from left to right."""
        self.title, self.panels = title, list(panels)


def _plain(number) -> float | None:
    """Returns a number with 12 digits as a float, so that the last bits do not reach the file."""
    if number is None:
        return None
    if not math.isfinite(number):
        raise ValueError(f"{number} is not finite")
    return float(f"{number:.12g}")


def mean(x_S: np.ndarray) -> Estimate:
    """Estimates an expectation.

    >>> mean(np.array([1.0, 2.0, 3.0]))
    Estimate(value=2.0, standard_error=0.5773502691896258)
    """
    return Estimate(float(x_S.mean()), _error(x_S))


def rms(square_S: np.ndarray) -> Estimate:
    """Estimates the root of an expectation from draws of the square."""
    square = square_S.mean()
    value = math.sqrt(square)
    return Estimate(value, _error(square_S) / (2 * value) if value else 0.0)


def variance(x_S: np.ndarray) -> Estimate:
    """Estimates a variance."""
    square_S = (x_S - x_S.mean()) ** 2
    return Estimate(float(square_S.mean()), _error(square_S))


def ratio_of_variances(x_S: np.ndarray, y_S: np.ndarray) -> Estimate:
    """Estimates var(x) / var(y) from draws of both together."""
    over_S, under_S = ((part_S - part_S.mean()) ** 2 for part_S in (x_S, y_S))
    value = over_S.mean() / under_S.mean()
    # To first order, the ratio's error is the mean of each draw's influence on it.
    return Estimate(float(value), value * _error(over_S / over_S.mean() - under_S / under_S.mean()))


def median(x_S: np.ndarray) -> Estimate:
    """Estimates a median. Its standard error is half the distance of two quantiles, one sigma either side."""
    half = 0.5 / math.sqrt(len(x_S))
    low, value, high = np.quantile(x_S, [max(0.0, 0.5 - half), 0.5, min(1.0, 0.5 + half)])
    return Estimate(float(value), float(high - low) / 2)


def lowest(x_B: np.ndarray, y_SB: np.ndarray) -> Estimate:
    """Estimates at which of the places x the expectation of y is least.

    The standard error follows from the lowest places of 20 blocks of draws; fewer draws are blocks of one.

    Args:
      x_B: the places.
      y_SB: draws of y at each place.
    """
    place = float(x_B[y_SB.mean(axis=0).argmin()])
    parts = np.array_split(y_SB, min(20, len(y_SB)))
    return Estimate(place, _error(np.array([x_B[part_SB.mean(axis=0).argmin()] for part_SB in parts])))


def _error(x_S: np.ndarray) -> float:
    return float(x_S.std(ddof=1)) / math.sqrt(len(x_S)) if len(x_S) > 1 else 0.0
