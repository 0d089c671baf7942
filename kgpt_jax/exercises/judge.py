"""What the judges of all questions share: a sweep over large scalars, random frames, distances.

Axes: `N` draws or keys, `D` channels.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kgpt_jax.exercises.answer import Answer
from kgpt_jax.exercises.expression import Unreadable
from kgpt_jax.exercises.verdict import Verdict, right, wrong

TOLERANCE = 1e-3  # of the target's length
SWEEP = (5.0, 10.0, 20.0, 40.0, 100.0, 1e3, 1e4)  # values of a large scalar


class Measured(NamedTuple):
    """How far an answer is off in one case.

    Attributes:
      residual: relative to the target; infinite if the answer is not finite.
      found: what came out, in words.
      weights: the attention weights to report.
      conclusive: False if float64 is too coarse to say.
    """

    residual: float
    found: str
    weights: Sequence[float] = ()
    conclusive: bool = True


OVERFLOW = "not finite: exp of a large number overflows; divide by it first, or write sigmoid(x)"
NOT_FINITE = Measured(math.inf, f"the answer is {OVERFLOW}")


def sweep(
    answer: Answer,
    large: Sequence[str],
    cases: Sequence[Mapping[str, Any]],
    measure: Callable[[Mapping[str, Any], dict[str, float]], Measured],
    values: Sequence[float] | None = None,
) -> Verdict:
    """Says whether an answer holds in all cases from some value of its large scalars on.

    Args:
      answer: for its seed.
      large: names of the large scalars.
      cases: what was drawn, with "n" and "d" where they apply.
      measure: `(case, scalars) -> Measured`.
      values: of the scalars; default: SWEEP. All have the same value or, if there are several, one of them is
        three times the others.

    Returns:
      The verdict, with the largest residual at the least value from which the answer holds.
    """
    least, residual = None, 0.0
    for value in reversed(SWEEP if values is None else values):
        at_value = [
            (case, scalars, measured)
            for scalars in (dict.fromkeys(large, value), *one_tripled(large, value))
            for case in cases
            if (measured := measure(case, scalars)).conclusive
        ]
        failed = [each for each in at_value if not each[2].residual <= TOLERANCE]
        if failed and least is None:
            case, scalars, measured = failed[0]
            sizes = {name: case[name] for name in ("n", "d") if name in case} | scalars
            at = ", ".join(f"{name} {number:g}" for name, number in sizes.items())
            looks = " ".join(f"{weight:.3f}" for weight in measured.weights)
            found = f"{measured.found}, looks at {looks}" if looks else measured.found
            more = {"found": measured.found} | ({"weights": measured.weights} if looks else {})
            return wrong(
                f"{found} ({at}, seed {answer.seed})", measured.residual, **sizes, seed=answer.seed, **more
            )
        if failed:
            break
        if at_value:
            least, residual = value, max(measured.residual for *_, measured in at_value)
    if least is None:
        raise Unreadable("the scores are too large for float64: use a smaller factor")
    return right(residual, holds_from=f"{' and '.join(large)} {least:g}")


def one_tripled(large: Sequence[str], value: float) -> list[dict[str, float]]:
    """Returns the cases in which one of several large scalars is three times the others."""
    return [dict.fromkeys(large, value) | {name: 3 * value} for name in large] if len(large) > 1 else []


def frame(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    """Draws n orthonormal vectors of d channels, as rows, from the Haar distribution."""
    q_DN, r_NN = np.linalg.qr(rng.normal(size=(d, n)))
    return (q_DN * np.sign(np.diag(r_NN))).T


def softmax(scores: np.ndarray) -> np.ndarray:
    """Returns the softmax over the last axis."""
    raised = np.exp(scores - scores.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def relative(found: np.ndarray, target: np.ndarray) -> float:
    """Returns the distance of two arrays, relative to the target's length."""
    return float(np.linalg.norm(found - target) / np.linalg.norm(target))


def combination(coefficients: Sequence[float], names: Sequence[str]) -> str:
    """Returns a sum in words: "0.667 u_b - 0.333 u_c"."""
    terms = [(c, name) for c, name in zip(coefficients, names) if abs(c) >= 5e-4]
    text = "".join(f" {'-' if c < 0 else '+'} {abs(c):.3f} {name}" for c, name in terms)
    return text[3:] if text.startswith(" + ") else text[1:] or "0"


def unequal(
    answer: Answer, values: Sequence[np.ndarray], distance: Callable, sizes: Mapping[str, Any]
) -> tuple[Verdict | None, float]:
    """Compares each step with the one before it.

    Args:
      answer: for its seed.
      values: the value of each step.
      distance: `(value, value before) -> float`.
      sizes: of the draw, for the counterexample.

    Returns:
      (verdict, distance). The verdict is None if all neighbours agree within TOLERANCE; otherwise it names
      the first two that differ. The distance is the largest one.
    """
    residual = 0.0
    for i, (before, after) in enumerate(zip(values, values[1:]), 2):
        off = distance(after, before)
        if not off <= TOLERANCE:
            at = ", ".join(f"{name} {number:.4g}" for name, number in sizes.items())
            finite = np.isfinite(after).all() and np.isfinite(before).all()
            what = f"step {i} differs from step {i - 1}" if finite else f"step {i} or {i - 1} is not finite"
            off = off if finite else math.inf
            return wrong(f"{what} ({at}, seed {answer.seed})", off, **sizes, step=i, seed=answer.seed), off
        residual = max(residual, off)
    return None, residual
