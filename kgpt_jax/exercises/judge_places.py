"""Judges answers about order and position (permutation, sinusoids, rotary embeddings), cost, and London.

A judge is a function `(answer) -> Verdict`, as in judge_attention.py.

Axes: `N` draws or positions, `D` channels, `X` pairs of channels.
"""

import ast
import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kgpt_jax.exercises.answer import Answer, is_blank
from kgpt_jax.exercises.expression import Expression, Misfit, Unreadable, latin, shape_name
from kgpt_jax.exercises.judge import TOLERANCE, relative, softmax, unequal
from kgpt_jax.exercises.verdict import Verdict, right, wrong

# The evaluation questions are not part of this package, so it keeps only a digest of London's count.
LONDON = "9f38377991803f98d94c6e3e8b05cbd6d74411579d6a58f99340d5ab2144ba50"


def permutation(answer: Answer) -> Verdict:
    """All steps are equal for permutations P, and the first and last are Z(P X) and P Z(X)."""
    steps = answer.expressions("steps", least=2)
    residual = 0.0

    def values_of(given: dict[str, Any]) -> list[np.ndarray]:
        given["X_perm"] = given["P"] @ given["X"]
        return [
            answer.value(f"steps {i}", step, given, given["T"], given["d"])[0]
            for i, step in enumerate(steps, 1)
        ]

    for draw in range(12):
        sizes = {"T": 3 + draw % 6, "d": (4, 8)[draw % 2]}
        given, _ = drawn_layer(answer.rng, **sizes)
        verdict, off = unequal(answer, values_of(given), relative, sizes)
        if verdict:
            return verdict
        residual = max(residual, off)
    given, layer = drawn_layer(answer.rng, 3, 4)
    mixing = answer.rng.uniform(0.1, 1, size=(3, 3))
    given["P"] = mixing / mixing.sum(1, keepdims=True)  # no permutation, so Z(P X) and P Z(X) differ
    first, *_, last = values_of(given)
    ends = [layer(given["X_perm"]), given["P"] @ layer(given["X"])]
    if {_nearest(first, ends), _nearest(last, ends)} != {0, 1}:
        return wrong("the steps are equal, but the first and the last are not Z(P X) and P Z(X)")
    return ends_alone(steps, "Z") or right(residual)


def ends_alone(steps: Sequence[Expression], name: str) -> Verdict | None:
    """Returns the verdict on steps that only state the claim, in that none does without `name`."""
    if any({name, f"{name}()"}.isdisjoint(step.names) for step in steps):
        return None
    return wrong(f"the two sides are the claim itself: write at least one step without {name}")


def drawn_order(rng: np.random.Generator, T: int) -> np.ndarray:
    """Draws a permutation that is not its own inverse, (T,): with P^T = P, wrong steps would pass."""
    while np.array_equal((order_T := rng.permutation(T))[order_T], np.arange(T)):
        pass
    return order_T


def drawn_layer(rng: np.random.Generator, T: int, d: int) -> tuple[dict[str, Any], Callable]:
    """Draws words X, a permutation P with P P != I, and a layer. Returns what is given, and the layer."""
    order = drawn_order(rng, T)
    given: dict[str, Any] = {name: rng.normal(size=(d, d)) for name in ("W_Q", "W_K", "W_V", "W_1", "W_2")}
    given |= {"b_1": rng.normal(size=(1, d)), "b_2": rng.normal(size=(1, d)), "T": T, "d": d}
    given |= {"X": rng.normal(size=(T, d)), "P": np.eye(T)[order], "ones": np.ones((T, 1)), "I": np.eye(T)}

    def projected(name: str) -> Callable[[np.ndarray], np.ndarray]:
        return lambda x: x @ given[name]

    def attention(x: np.ndarray) -> np.ndarray:
        q, k, v = (x @ given[name] for name in ("W_Q", "W_K", "W_V"))
        return softmax(q @ np.swapaxes(k, -1, -2) / math.sqrt(d)) @ v

    def layer(x: np.ndarray) -> np.ndarray:
        inner = np.maximum(attention(x) @ given["W_1"] + given["ones"] @ given["b_1"], 0)
        return inner @ given["W_2"] + given["ones"] @ given["b_2"]

    functions = {
        "Q": projected("W_Q"),
        "K": projected("W_K"),
        "V": projected("W_V"),
        "H": attention,
        "Z": layer,
    }
    for name, function in functions.items():
        given[name] = function(given["X"])
        given[f"{name}()"] = _of_words(function, T, d)
    return given, layer


def _of_words(function: Callable, T: int, d: int) -> Callable:
    def checked(x: np.ndarray) -> np.ndarray:
        if x.shape[1:] != (T, d):
            raise Misfit(f"needs {T} words of {d} channels, and this is {shape_name(x)}")
        return function(x)

    return checked


def _nearest(value: np.ndarray, ends: Sequence[np.ndarray]) -> int | None:
    """Returns which end a value equals, None if neither."""
    return next((i for i, end in enumerate(ends) if relative(value, end) <= TOLERANCE), None)


def drawn_points(answer: Answer) -> dict[str, Any]:
    """Draws 12 points in the plane with positions, the first of them 0. Returns all that is given."""
    rng = answer.rng
    theta_N, pair_NX = rng.uniform(0.2, 2, size=(12, 1, 1)), rng.normal(size=(12, 2, 1))
    t_N = rng.integers(1, 50, size=(2, 12, 1, 1)).astype(float)
    t_N[0, 0] = 0.0  # rotates nothing, and no step may divide by it
    cos, sin = np.cos(t_N[0] * theta_N), np.sin(t_N[0] * theta_N)
    z_N = rng.normal(size=(2, 2, 12, 1, 1))
    return {
        "i": 1j,
        "theta": theta_N,
        "t": t_N[0],
        "t_1": t_N[0],
        "t_2": t_N[1],
        "x": pair_NX,
        "x_1": pair_NX[:, :1],
        "x_2": pair_NX[:, 1:],
        "z": pair_NX[:, :1] + 1j * pair_NX[:, 1:],
        "z_1": z_N[0, 0] + 1j * z_N[0, 1],
        "z_2": z_N[1, 0] + 1j * z_N[1, 1],
        "R": np.concatenate([np.concatenate([cos, -sin], 2), np.concatenate([sin, cos], 2)], 1),
        "rope()": lambda z, t: _rotated(z, t, theta_N),
    }


def _rotated(z: np.ndarray, t: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Rotates a point, as a complex number or as a column of two, by the angle t theta."""
    if t.shape[1:] != (1, 1) or z.shape[1:] not in ((1, 1), (2, 1)):
        raise Misfit(f"needs a point and a position, and these are {shape_name(z)} and {shape_name(t)}")
    turned = as_complex(z) * np.exp(1j * t * theta)
    return turned if z.shape[1] == 1 else np.concatenate([turned.real, turned.imag], axis=1)


def as_complex(value: np.ndarray) -> np.ndarray:
    """Returns points in the plane (N, 2, 1) as complex numbers (N, 1, 1)."""
    return value[:, :1] + 1j * value[:, 1:] if value.shape[1:] == (2, 1) else value


def largest_error(found: np.ndarray, target: np.ndarray) -> float:
    """Returns the largest distance in any draw, relative to the largest target."""
    return float(np.max(np.abs(found - target)) / np.max(np.abs(target)))


def rope_steps(answer: Answer, question: str) -> tuple[list[Expression], Verdict | None, float]:
    """Reads the steps about rotations. Compares them with each other and with what the question asks about.

    Returns:
      The steps, the verdict if they are wrong, and the residual.
    """
    steps = answer.expressions("steps", least=2)
    given, values = drawn_points(answer), []
    for i, step in enumerate(steps, 1):
        value = as_complex(answer.value(f"steps {i}", step, given))
        if value.shape[1:] != (1, 1):
            raise Unreadable(f"steps {i} is {shape_name(value)}, and must be a number or a column of 2")
        values.append(np.broadcast_to(value, (12, 1, 1)))
    verdict, residual = unequal(answer, values, largest_error, {"positions": 12})
    rope = given["rope()"]
    truths = {
        "complex": rope(given["z"], given["t"]),
        "relative": (np.conj(rope(given["z_1"], given["t_1"])) * rope(given["z_2"], given["t_2"])).real,
    }
    if verdict is None and not largest_error(values[0], truths[question]) <= TOLERANCE:
        verdict = wrong("the steps are equal, but they are not what the question asks about")
    return steps, verdict, residual


def rope_complex(answer: Answer) -> Verdict:
    """All steps are equal; one end rotates by cosines and sines, the other multiplies complex numbers."""
    steps, verdict, residual = rope_steps(answer, "complex")

    def multiplies(step: Expression) -> bool:
        """Returns whether the point, or one of its coordinates, is multiplied by a complex number."""
        kinds = ast.Mult | ast.MatMult | ast.Div
        products = [n for n in ast.walk(step.tree) if isinstance(n, ast.BinOp) and isinstance(n.op, kinds)]
        sides = [(names_in(n.left), names_in(n.right)) for n in products]
        return any(
            ("z" in one or {"i", "x_1", "x_2"} <= one)
            and {"cos", "sin"} & other
            or {"z", "x_1", "x_2"} & one
            and ({"i", "cos", "sin"} <= other or {"i", "exp", "t"} <= other)
            for pair in sides
            for one, other in (pair, pair[::-1])
        )

    def rotates(step: Expression) -> bool:
        turns = {"R", "rope()"} & step.names or {"cos()", "sin()"} <= step.names
        return bool(turns) and not multiplies(step)

    first, last = steps[0], steps[-1]
    ends = rotates(first) and multiplies(last) or multiplies(first) and rotates(last)
    if verdict is None and not ends:
        return wrong("one end must rotate by cosines and sines, the other multiply complex numbers")
    return verdict or right(residual)


def names_in(tree: ast.AST) -> set[str]:
    """Returns the names in a part of an expression, of functions too: x_1 for re(z), and x_2 for re(-i*z)."""
    if isinstance(tree, ast.Name):
        return {latin(tree.id)}
    names = set().union(*map(names_in, ast.iter_child_nodes(tree)))
    if isinstance(tree, ast.Call) and tree.func.id == "re":  # real, even if complex numbers are in it
        coordinate = {"x_2" if "i" in names else "x_1"} if "z" in names else set()
        return names - {"z", "i"} | coordinate
    return names


def rope_relative(answer: Answer) -> Verdict:
    """All steps are equal; one end has the two positions, the other depends on their difference alone."""
    steps, verdict, residual = rope_steps(answer, "relative")
    if verdict is None and sorted(by_difference(answer, step) for step in (steps[0], steps[-1])) != [
        False,
        True,
    ]:
        return wrong("one end must have t_1 and t_2, and the other only their difference t_1 - t_2")
    return verdict or ends_alone(steps, "rope") or right(residual)


def by_difference(answer: Answer, step: Expression) -> bool:
    """Returns whether a step depends on t_1 and t_2 through their difference alone.

    All correct steps have the same value, so values cannot tell them apart. We therefore replace exp, cos and
    sin by functions without addition theorems. A step then changes with both positions, unless it uses only
    t_1 - t_2.
    """
    given = drawn_points(answer)

    def bent(function: Callable) -> Callable:
        return lambda x: function(x) + 0.1 * x**2

    given |= {f"{name}()": bent(getattr(np, name)) for name in ("exp", "cos", "sin")}
    given["rope()"] = lambda z, t: as_complex(z) * given["exp()"](1j * t * given["theta"])
    moved = given | {name: given[name] + 0.7 for name in ("t_1", "t_2")}
    here, there = (np.asarray(answer.value("steps", step, each)) for each in (given, moved))
    return largest_error(there, here) <= 1e-9


def perceiver_cost(answer: Answer) -> Verdict:
    """The answers grow as the multiplications of the two models that this package counts."""
    from kgpt_jax.config import ModelConfig
    from kgpt_jax.model.costs import multiplications

    d, rng = 256.0, answer.rng
    expressions = {field: answer.expression(field) for field in ("vanilla", "perceiver")}
    L_N = np.floor(10 ** rng.uniform(math.log10(3), 5, size=4_000))
    l_N = 10 ** rng.uniform(6, 11, size=4_000)
    m_N = 10 ** rng.uniform(5, np.log10(l_N))
    given = dict(L=L_N, l=l_N, m=m_N, d=np.full(4_000, d), f=np.full(4_000, 4 * d))
    letters = {"T": l_N, "C": d, "L": L_N, "L-1": L_N - 1, "L-2": L_N - 2, "M": m_N, "V": 256.0}
    worst = 1.0
    for field, expression in expressions.items():
        counted_N = multiplications(ModelConfig(variant=field, n_layer=2), letters)
        values = []
        for h in (1.0, 8.0, 64.0):  # the heads share the channels, so their number does not change the count
            at = {name: value_N[:, None, None] for name, value_N in given.items()} | {"h": h}
            value_N = np.broadcast_to(answer.value(field, expression, at, 1, 1), (4_000,))
            if not (np.isfinite(value_N).all() and (value_N > 0).all()):
                return wrong(f"{field} is not finite, or not positive, for some sizes")
            values.append(value_N)
        ratios = [value_N / counted_N for value_N in values]
        if np.max(ratios[2] / ratios[0]) > 8 or np.min(ratios[2] / ratios[0]) < 1 / 8:
            return wrong(f"{field} depends on h, so the heads are counted twice: they share the d channels")
        spread = float(max(ratio.max() / ratio.min() for ratio in ratios))
        if spread > 10:
            ratio_N = ratios[1]
            low, high = int(ratio_N.argmin()), int(ratio_N.argmax())
            sizes = {name: float(given[name][high]) for name in ("L", "l", "m")}
            other = {name: float(given[name][low]) for name in ("L", "l", "m")}
            text = ", ".join(f"{name} {value:.2g}" for name, value in sizes.items())
            than = ", ".join(f"{name} {value:.2g}" for name, value in other.items())
            why = f"{field} / counted is {spread:.0e} times as large for {text} as for {than}"
            return wrong(why, spread, **sizes, seed=answer.seed)
        worst = max(worst, spread)
    return right(worst)


def positions(answer: Answer) -> Verdict:
    """Whether sinusoids break the symmetry of `permutation`, and whether two positions can share them."""
    breaks, coincide = answer.truth("breaks_the_symmetry"), answer.truth("can_coincide")
    given, layer = drawn_layer(answer.rng, 6, 8)
    moved = layer(given["P"] @ given["X"] + sinusoids(np.arange(6), 8))
    symmetric = relative(moved, given["P"] @ layer(given["X"] + sinusoids(np.arange(6), 8))) <= TOLERANCE
    if breaks == symmetric:
        return wrong("breaks_the_symmetry: the opposite holds for a layer with sinusoids")
    if not coincide:
        return right(None)
    if any(is_blank(answer.fields.get(name, "")) for name in ("t_1", "t_2", "d")):
        return wrong("can_coincide: give t_1, t_2 and d of two positions that have the same sinusoids")
    t_1, t_2, d = (answer.whole(name, least) for name, least in (("t_1", 0), ("t_2", 0), ("d", 2)))
    if d % 2 or d > 10_000:
        raise Unreadable("d: give an even number up to 10,000")
    if t_1 == t_2:
        return wrong("can_coincide: t_1 and t_2 are the same position")
    apart = float(np.linalg.norm(np.subtract(*sinusoids(np.array([t_1, t_2], float), d))))
    text = f"the sinusoids of {t_1} and {t_2} are {apart:.2e} apart (d {d})"
    # The first two channels turn by one radian per position, and a whole number of radians other than 0 is
    # never a whole number of turns, so no two positions coincide.
    return wrong(text, t_1=t_1, t_2=t_2, d=d, distance=apart)


def rates(d: int) -> np.ndarray:
    """Returns the rates 10000^(-2i/d) of d channels, (D / 2,) (arXiv 1706.03762)."""
    return 10_000.0 ** (-np.arange(0, d, 2) / d)


def sinusoids(t_N: np.ndarray, d: int) -> np.ndarray:
    """Returns sinusoids of positions, (N, D)."""
    angle_NX = np.asarray(t_N)[:, None] * rates(d)
    return np.stack([np.sin(angle_NX), np.cos(angle_NX)], axis=2).reshape(len(angle_NX), d)


def baseline(answer: Answer) -> Verdict:
    """How often London is right about the course's evaluation questions."""
    correct, total = answer.whole("correct", 0), answer.whole("total", 1)
    percent = answer.number("percent")
    if abs(percent - 100 * correct / total) > 0.05:
        return wrong(f"{correct} of {total} is not {percent:g} %", abs(percent - 100 * correct / total))
    if hashlib.sha256(f"London {correct} of {total}".encode()).hexdigest() != LONDON:
        return wrong("these are not London's counts on birth_dev.tsv: run the baseline again")
    return right(None)
