"""What the checker says about one answer."""

import math
from typing import Any, NamedTuple

RIGHT, WRONG, UNREADABLE = "right", "wrong", "unreadable"


class Verdict(NamedTuple):
    """What the checker says about one answer.

    Attributes:
      verdict: "right", "wrong" or "unreadable".
      residual: how far the answer is off, relative to what it should give; for `perceiver_cost`, how much the
        ratio to the count varies, as a factor. None if nothing was measured, or if it was not finite.
      reason: one line; empty where there is nothing to add.
      holds_from: the least value of the large scalar from which on the answer holds, as in "beta 20"; None if
        it does not hold, or if nothing is large in this question.
      counterexample: sizes, scalars, seed and result of a case in which the answer is wrong.
    """

    verdict: str
    residual: float | None = None
    reason: str = ""
    holds_from: str | None = None
    counterexample: dict[str, Any] | None = None

    @property
    def right(self) -> bool:
        return self.verdict == RIGHT


def right(residual: float | None, reason: str = "", holds_from: str | None = None) -> Verdict:
    """Returns the verdict on a right answer."""
    return Verdict(RIGHT, rounded(residual), reason, holds_from)


def wrong(reason: str, residual: float | None = None, **case: Any) -> Verdict:
    """Returns the verdict on a wrong answer. The case's numbers are rounded, so that reports are short."""
    counterexample = {name: rounded(value) for name, value in case.items()}
    return Verdict(WRONG, rounded(residual), reason, None, counterexample or None)


def rounded(value: Any) -> Any:
    """Returns numbers with three digits, and None for those that are not finite, which JSON lacks."""
    if isinstance(value, list | tuple):
        return [rounded(each) for each in value]
    if isinstance(value, bool | str | None):
        return value
    if not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.2e}")
