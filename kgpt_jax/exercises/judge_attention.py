"""Judges answers about attention: copying, averages, noise in the keys, two heads, key-query-value.

A judge is a function `(answer) -> Verdict`. It states what must hold, and measures it on drawn vectors.

Axes: `N` draws or keys, `D` channels, `X` scores of a draw, or directions.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from kgpt_jax.exercises.answer import Answer
from kgpt_jax.exercises.expression import Unreadable, shape_name
from kgpt_jax.exercises.judge import (
    NOT_FINITE,
    OVERFLOW,
    TOLERANCE,
    Measured,
    combination,
    frame,
    relative,
    softmax,
    sweep,
)
from kgpt_jax.exercises.verdict import Verdict, right, wrong

# Numbers of keys and channels. With two keys alone, every query with equal scores would pass.
SIZES = ((3, 4), (3, 64), (8, 8), (8, 64), (64, 64), (128, 128), (512, 512))
TOO_LONG = 1e11  # lengths of a query from which on float64's rounding of the scores decides the weights
THRESHOLDS = (1e6, 1e5, 1e4, 1e3, 100.0)  # a condition is large from one of these on
VANISHING = 1e-8  # sqrt(alpha), times the length of the query


def keys(answer: Answer, name: str, sizes: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Draws orthonormal keys (or their means) and any values, for each number of keys and channels.

    Returns:
      A dict for each size: "n", "d", "keys_ND", "values_ND", "noise_ND", and "given" for expressions.
    """
    cases = []
    for n, d in sizes:
        keys_ND, values_ND = frame(answer.rng, n, d), answer.rng.normal(size=(n, d))
        given: dict[str, object] = {"n": n, "d": d}
        for letter, rows_ND in ((name, keys_ND), ("v", values_ND)):
            given |= {
                f"{letter}_a": rows_ND[0][:, None],
                f"{letter}_b": rows_ND[1][:, None],
                f"total({letter})": rows_ND.sum(0)[:, None],
                f"others({letter})": rows_ND[2:].sum(0)[:, None],
            }
        noise_ND = answer.rng.normal(size=(n, d))
        cases.append(dict(n=n, d=d, keys_ND=keys_ND, values_ND=values_ND, noise_ND=noise_ND, given=given))
    return cases


def halves(answer: Answer, fields: Sequence[str], name: str, noisy: bool) -> Verdict:
    """Says whether the mean output of one or two queries is the mean of v_a and v_b.

    Args:
      answer: with one field per query.
      fields: names of the queries.
      name: of the keys, `k`, or of their means, `mu`.
      noisy: whether keys are means plus Gaussian noise of a vanishing variance alpha.
    """
    queries = {field: answer.expression(field) for field in fields}
    fixed = any("alpha" in query.names for query in queries.values())

    def measure(case: Mapping[str, Any], scalars: dict[str, float]) -> Measured:
        spread = VANISHING / max(scalars.values())
        given, d = case["given"] | {"alpha": spread**2} | scalars, case["d"]
        weights_N, longest = 0.0, 0.0
        for field, query in queries.items():
            q_D = answer.value(field, query, given, d, 1)[0]
            if not np.isfinite(q_D).all():
                return NOT_FINITE
            length = float(np.linalg.norm(q_D))
            longest = max(longest, length)
            scores_N = case["keys_ND"] @ q_D
            if noisy:
                sigma = spread if fixed else VANISHING / max(length, 1.0)
                scores_N = scores_N + sigma * (case["noise_ND"] @ q_D)
            weights_N = weights_N + softmax(scores_N) / len(queries)
        target_D = case["values_ND"][:2].mean(0)
        residual = relative(weights_N @ case["values_ND"], target_D)
        weights = [*weights_N[:2], weights_N[2:].sum()]
        found = "c = " + combination(weights, ["v_a", "v_b", "of the others"])
        return Measured(residual, found, weights, longest < TOO_LONG)

    return sweep(answer, answer.large, keys(answer, name, SIZES), measure)


def average(answer: Answer) -> Verdict:
    """c is near the mean of v_a and v_b for orthonormal keys and any values."""
    return halves(answer, ["q"], "k", noisy=False)


def noisy_average(answer: Answer) -> Verdict:
    """c is near that mean if keys have noise of vanishing variance and only their means are known."""
    return halves(answer, ["q"], "mu", noisy=True)


def two_heads(answer: Answer) -> Verdict:
    """The mean output of two queries is near the mean of v_a and v_b. From 2023 on they must differ."""
    verdict = halves(answer, ["q_1", "q_2"], "mu", noisy=True)
    if not verdict.right:
        return verdict
    queries = {field: answer.expression(field) for field in ("q_1", "q_2")}
    (case,) = keys(answer, "mu", [(8, 8)])
    given = case["given"] | {"alpha": (VANISHING / 50) ** 2} | dict.fromkeys(answer.large, 50.0)
    q_1_D, q_2_D = (answer.value(field, query, given, 8, 1)[0] for field, query in queries.items())
    if answer.year >= 2023 and relative(q_2_D, q_1_D) < 1e-9:
        return wrong("q_1 and q_2 are equal; from 2023 on they must differ")
    eps_N = answer.rng.normal(1, math.sqrt(0.5), size=10_000)
    eps_N = eps_N[eps_N > 0]

    def variance(scores: Sequence[np.ndarray]) -> float:
        """Returns the variance of v_a's weight, given the scores (N, n) of each head."""
        return float(np.var(sum(softmax(scores_NX)[:, 0] for scores_NX in scores) / len(scores)))

    def with_scaled_key(scores_X: np.ndarray) -> np.ndarray:
        """Returns the scores for each draw of k_a = eps mu_a."""
        return np.where(np.arange(8) == 0, eps_N[:, None], 1.0) * scores_X

    even_X = 50.0 * (np.arange(8) < 2)  # the scores of one head that averages
    two = [with_scaled_key(case["keys_ND"] @ q_D) for q_D in (q_1_D, q_2_D)]
    steadier = variance([with_scaled_key(even_X)]) / max(variance(two), 1e-12)
    if steadier >= 10:
        return verdict
    times = f"one head's variance is {steadier:.1f} times as large"
    return verdict._replace(reason=f"hardly steadier than one head if k_a varies in length: {times}")


def scaled(answer: Answer, n_heads: int, betas: Sequence[float], tolerance: float, share: float) -> Verdict:
    """Says whether c is described rightly when k_a = eps mu_a with eps ~ N(1, 1/2).

    Args:
      answer: with the field c.
      n_heads: 1 or, with draws of positive eps only, 2.
      betas: values of beta.
      tolerance: of each draw, relative to the length of c.
      share: the fraction of draws that must be within the tolerance.
    """
    expression, residual = answer.expression("c"), 0.0
    for case in keys(answer, "mu", [size for size in SIZES if size[1] <= 64]):
        eps_N = answer.rng.normal(1, math.sqrt(0.5), size=2_000)
        eps_N = eps_N[eps_N > 0] if n_heads == 2 else eps_N
        for beta in betas:
            aims = [(beta, beta)] if n_heads == 1 else [(beta, 0.0), (0.0, beta)]
            weights_NX = 0.0
            for at_a, at_b in aims:
                scores_NX = np.zeros((len(eps_N), case["n"]))
                scores_NX[:, 0], scores_NX[:, 1] = at_a * eps_N, at_b
                weights_NX = weights_NX + softmax(scores_NX) / n_heads
            target_ND = weights_NX @ case["values_ND"]
            given = case["given"] | dict.fromkeys(answer.large, beta) | {"eps": eps_N[:, None, None]}
            c_ND = np.broadcast_to(answer.value("c", expression, given, case["d"], 1), target_ND.shape)
            off_N = np.linalg.norm(c_ND - target_ND, axis=1) / np.linalg.norm(target_ND, axis=1)
            off_N = np.where(np.isfinite(off_N), off_N, np.inf)
            at_share = float(np.sort(off_N)[math.ceil(share * len(off_N)) - 1])
            if not at_share <= tolerance:
                worst = int(np.argmax(off_N))
                sizes = {"n": case["n"], "d": case["d"], answer.large[0]: beta, "eps": float(eps_N[worst])}
                at = ", ".join(f"{name} {number:.4g}" for name, number in sizes.items())
                within = f"{np.mean(off_N <= tolerance):.1%} of the draws are within {tolerance:g}"
                if not np.isfinite(c_ND[worst]).all():
                    within = f"{NOT_FINITE.found}; {within}"
                return wrong(f"{within} ({at}, seed {answer.seed})", at_share, **sizes, seed=answer.seed)
            residual = max(residual, at_share)
    return right(residual, holds_from=f"{' and '.join(answer.large)} {betas[0]:g}")


def scaled_key(answer: Answer) -> Verdict:
    """c for the query of `noisy_average`, when k_a = eps mu_a."""
    return scaled(answer, 1, betas=(20.0, 30.0, 40.0), tolerance=TOLERANCE, share=1.0)


def two_heads_scaled_key(answer: Answer) -> Verdict:
    """c for the queries of `two_heads`, when k_a = eps mu_a and eps > 0."""
    return scaled(answer, 2, betas=(1e3, 1e4), tolerance=0.05, share=0.99)


def copying(answer: Answer) -> Verdict:
    """Whenever all conditions are large, the weight of v_j is near 1."""
    conditions = answer.expressions("condition", least=1)
    found: list[tuple[float, np.ndarray, np.ndarray, np.ndarray]] = []
    for n in (3, 8, 64):
        scores_NX = drawn_scores(answer.rng, 10_000, n)
        q_ND = answer.rng.normal(size=(10_000, 3)) * 10 ** answer.rng.uniform(-6, 5, size=(10_000, 1))
        aside_ND = np.cross(answer.rng.normal(size=(10_000, 3)), q_ND)  # k_j need not point as q does
        aside_ND *= 10 ** answer.rng.uniform(-3, 10, size=(10_000, 1)) / np.sum(
            q_ND**2, axis=1, keepdims=True
        )
        k_ND = scores_NX[:, :1] * q_ND / np.sum(q_ND**2, axis=1, keepdims=True) + aside_ND
        given = {
            "s_j": scores_NX[:, :1, None],
            "s_others": scores_NX[:, 1:, None],
            "k_j": k_ND[:, :, None],
            "q": q_ND[:, :, None],
            "n": n,
        }
        values_N = np.full(10_000, np.inf)  # of the least condition
        for number, condition in enumerate(conditions, 1):
            value_N = answer.value(f"condition {number}", condition, given, 1, 1)
            values_N = np.minimum(values_N, value_N)  # NaN stays NaN
        off_N = 1 - softmax(scores_NX)[:, 0]
        margins_N = scores_NX[:, 0] - scores_NX[:, 1:].max(1)
        found.append((n, values_N, off_N, margins_N))
    usable = [np.isfinite(values_N) for _, values_N, *_ in found]
    if not any(mask.any() for mask in usable):
        return wrong("the conditions are not finite in any draw")
    least, residual = None, 0.0
    for threshold in THRESHOLDS:
        off, count, counterexample = 0.0, 0, None
        for (n, values_N, off_N, margins_N), mask in zip(found, usable):
            chosen = np.flatnonzero(mask & (values_N >= threshold))
            count += len(chosen)
            if len(chosen) and off_N[chosen].max() >= off:
                worst = chosen[off_N[chosen].argmax()]
                off = float(off_N[worst])
                counterexample = dict(n=n, condition=float(values_N[worst]), margin=float(margins_N[worst]))
        if count < 30:
            if least is None and threshold == THRESHOLDS[-1]:
                return wrong("the conditions are never large together, in 30,000 draws of scores")
            continue
        if off > TOLERANCE:
            if least is None:
                weight = f"the weight of v_j is {1 - off:.3f} although the least condition is"
                more = f"{counterexample['condition']:.3g} (n {counterexample['n']}, seed {answer.seed})"
                return wrong(f"{weight} {more}", off, **counterexample, seed=answer.seed)
            break
        least, residual = threshold, off
    copies = all(
        (values_N[mask & (margins_N >= 1e6)] >= 100).all()  # its root, too, would be above 100
        for (_, values_N, _, margins_N), mask in zip(found, usable)
    )
    reason = "sufficient"
    if not copies:
        reason += ", but v_j is copied in other cases too"
    elif all(mask.all() for mask in usable):  # we cannot say whether conditions that are not finite are large
        reason += " and necessary"
    return right(residual, reason, f"condition {least:g}")


def drawn_scores(rng: np.random.Generator, n_draws: int, n: int) -> np.ndarray:
    """Draws scores (N, n) of all scales, with offsets, ties and outliers. The score of v_j comes first."""

    def scale(low: float, high: float) -> np.ndarray:
        return 10 ** rng.uniform(low, high, size=(n_draws, 1))

    def in_a_share(share: float) -> np.ndarray:
        return rng.random((n_draws, 1)) < share

    scores_NX = rng.normal(size=(n_draws, n)) * scale(-9, 7)
    scores_NX += in_a_share(0.5) * rng.choice([-1, 1], size=(n_draws, 1)) * scale(-2, 8)
    first = np.arange(n) == 0
    scores_NX += first * in_a_share(0.6) * scale(-1, 8)
    others = np.arange(n) == rng.integers(1, n, size=(n_draws, 1))
    scores_NX += others * in_a_share(0.3) * scale(0, 8)
    tied = scores_NX[:, 1:].max(1, keepdims=True)
    return np.where(first & in_a_share(0.1), tied, scores_NX)


def extract(answer: Answer) -> Verdict:
    """M (v_a + v_b) = v_a for all v_a in the span of A's columns and all v_b in that of B's."""
    expression, residual = answer.expression("M"), 0.0
    for d, m, p in ((4, 1, 2), (8, 3, 2), (64, 5, 20), (64, 20, 5), (8, 8, 0)):
        rows = frame(answer.rng, m + p, d)
        A, B = rows[:m].T, rows[m:].T if p else np.zeros((d, 1))
        given = {"A": A, "B": B, "I": np.eye(d), "d": d, "m": m, "p": p}
        matrix = answer.value("M", expression, given)[0]
        if matrix.shape == (m, d) and m < d:
            return wrong(
                f"this M gives the {m} coordinates of v_a among the a_i; v_a itself has {d} entries", 1.0
            )
        if matrix.shape != (d, d):
            raise Unreadable(f"M is {shape_name(matrix)}, and must be {shape_name(np.eye(d))}")
        v_a, v_b = A @ answer.rng.normal(size=m), B @ answer.rng.normal(size=B.shape[1])
        off = relative(matrix @ (v_a + v_b), v_a)
        if not off <= TOLERANCE:
            at = {"d": d, "m": m, "p": p}
            text = ", ".join(f"{name} {number}" for name, number in at.items())
            what = "M (v_a + v_b) is not v_a" if math.isfinite(off) else "M is not finite"
            return wrong(f"{what} ({text}, seed {answer.seed})", off, **at, seed=answer.seed)
        residual = max(residual, off)
    return right(residual)


def words(answer: Answer) -> list[dict[str, Any]]:
    """Draws the vectors of the key-query-value questions, for several numbers of channels.

    Returns:
      A dict for each size: "d" and "units_XD", the directions of u_a, u_b, u_c and u_d.
    """
    return [{"d": d, "units_XD": frame(answer.rng, 4, d)} for d in (4, 5, 8, 64, 512)]


def given_words(case: Mapping[str, Any], beta: float) -> tuple[dict[str, object], np.ndarray]:
    """Returns what these questions give, and x_1, x_2, x_3 as the columns of a matrix."""
    u_XD = beta * case["units_XD"]
    given: dict[str, object] = {f"u_{letter}": u_D[:, None] for letter, u_D in zip("abcd", u_XD)}
    x_D3 = np.stack([u_XD[3] + u_XD[1], u_XD[0], u_XD[2] + u_XD[1]], axis=1)
    given |= {f"x_{i}": x_D3[:, [i - 1]] for i in (1, 2, 3)}
    return given | {"beta": beta, "d": case["d"], "I": np.eye(case["d"])}, x_D3


def same_vectors(answer: Answer) -> Verdict:
    """c_2, when the x_i themselves are queries, keys and values, and something was added to x_2."""
    fields = {"c_2": None, "c_2_plus_u_d": "u_d", "c_2_plus_u_c": "u_c"}
    expressions = {field: answer.expression(field) for field in fields}
    can_be = answer.truth("can_be_u_b")
    nearest = []  # distance of c_2 from u_b, whatever was added, in units of beta

    def measure(case: Mapping[str, Any], scalars: dict[str, float]) -> Measured:
        beta = scalars["beta"]
        given, x_D3 = given_words(case, beta)
        off = {}
        for field, added in fields.items():
            x = x_D3.copy()
            x[:, 1] += given[added][:, 0] if added else 0.0
            c_D = x @ softmax(x[:, 1] @ x)
            answered_D = answer.value(field, expressions[field], given, case["d"], 1)[0]
            if not np.isfinite(answered_D).all():
                return Measured(math.inf, f"{field} is {OVERFLOW}")
            off[field] = float(np.linalg.norm(answered_D - c_D)) / beta
            nearest.append(float(np.linalg.norm(c_D - given["u_b"][:, 0])) / beta)
        worst = max(off, key=off.get)
        return Measured(off[worst], f"{worst} is {off[worst]:.3f} beta away from what attention gives")

    verdict = sweep(answer, ["beta"], words(answer), measure)
    if verdict.right and can_be != (min(nearest) <= TOLERANCE):
        return wrong("can_be_u_b: the opposite holds for what attention gives")
    return verdict


def key_query_value(answer: Answer) -> Verdict:
    """With these V, K and Q, c_2 is near u_b and c_1 is near u_b - u_c."""
    maps = {field: linear_map(answer, field) for field in ("V", "K", "Q")}

    def measure(case: Mapping[str, Any], scalars: dict[str, float]) -> Measured:
        beta, d = scalars["beta"], case["d"]
        given, x_D3 = given_words(case, beta)
        matrices = {field: read(given, x_D3, d) for field, read in maps.items()}
        if not all(np.isfinite(matrix).all() for matrix in matrices.values()):
            return NOT_FINITE
        v_D3, k_D3, q_D3 = (matrices[field] @ x_D3 for field in "VKQ")
        u_XD = beta * case["units_XD"]
        targets = {0: u_XD[1] - u_XD[2], 1: u_XD[1]}
        measured = []
        for i, target_D in targets.items():
            weights_3 = softmax(q_D3[:, i] @ k_D3)
            c_D = v_D3 @ weights_3
            off = float(np.linalg.norm(c_D - target_D)) / beta
            if not math.isfinite(off):
                return NOT_FINITE
            parts_X = c_D @ u_XD.T / beta**2
            found = f"c_{i + 1} = {combination(parts_X, ['u_a', 'u_b', 'u_c', 'u_d'])}"
            rest = float(np.linalg.norm(c_D - parts_X @ u_XD)) / beta
            found += f" and {rest:.3f} beta outside" if rest >= 5e-4 else ""
            measured.append(Measured(off, found, weights_3.tolist()))
        return max(measured, key=lambda each: each.residual)

    return sweep(answer, ["beta"], words(answer), measure, values=(4.0, 8.0, 16.0, 32.0, 64.0))


def linear_map(answer: Answer, field: str) -> Callable[[Mapping[str, object], np.ndarray, int], np.ndarray]:
    """Returns the function `(given, x_D3, d) -> matrix` of a field: a matrix, or images of the x_i."""
    given_field = answer.fields[field]
    if not isinstance(given_field, dict):
        expression = answer.expression(field)
        return lambda given, x_D3, d: answer.value(field, expression, given, d, d)[0]
    names = ["x_1", "x_2", "x_3"]
    if set(given_field) != set(names):
        raise Unreadable(f"{field}: give a matrix, or the images of x_1, x_2 and x_3")
    images = [answer.expression(f"{field}.{name}", given_field[name]) for name in names]

    def least_norm(given: Mapping[str, object], x_D3: np.ndarray, d: int) -> np.ndarray:
        columns = [
            answer.value(f"{field}.{name}", image, given, d, 1)[0] for name, image in zip(names, images)
        ]
        return np.stack(columns, axis=1) @ np.linalg.pinv(x_D3)

    return least_norm
