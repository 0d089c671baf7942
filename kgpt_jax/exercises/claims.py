"""Measures when the claims of questions 1a to 1d hold, with keys and queries from `draws.py`.

Axes: `S` draws, `N` words, `D` channels, `B` sizes of beta, `A` sizes of alpha, `H` heads, or the two
directions mu_a and mu_b.
"""

import math
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import special
from scipy.optimize import brentq

from kgpt_jax.exercises import theory
from kgpt_jax.exercises.draws import FULL, channels, frame, means, noise, products, simulate
from kgpt_jax.exercises.figures import (
    Findings,
    Histogram,
    Line,
    Lines,
    Settings,
    lowest,
    mean,
    ratio_of_variances,
    rms,
    variance,
)


def copying(settings: Settings) -> Findings:
    """1a: when c is a copy of v_j: the lead of the score s_j over the others, and a bound on 1 - w_j."""
    found = Findings("copying", settings)
    margins = {}
    for n in sorted({2, 8, 128, *settings.sizes}):
        # The others' scores are equal, which is the worst case.
        margins[n] = brentq(
            lambda lead, n: special.softmax(np.r_[lead, np.zeros(n - 1)])[0] - 0.99, 0, 40, (n,)
        )
        found.add("margin_99", margins[n], theory.margin(n, 0.99), n=n)
    draw = partial(lost_by_lead, sizes=tuple(margins))
    drawn = dict(zip(margins, simulate(draw, settings.draws, settings.seed, "copying")))
    for n, (lost_S, lead_S) in drawn.items():
        bound_S = (n - 1) * np.exp(-lead_S) / (1 + (n - 1) * np.exp(-lead_S))
        excess = max(0.0, float((lost_S - bound_S).max()))
        found.add("bound_violation", excess, 0.0, n=n, draws=settings.draws)
    shown_lost_S, shown_lead_S = (each_S[:600] for each_S in drawn[8])
    lead_X = np.linspace(-2, 15, 100)
    curves = [
        Line(f"n = {n}: the bound", lead_X, (n - 1) / (np.exp(lead_X) + n - 1), "-", i)
        for i, n in enumerate((8, 64, 512))
    ]
    found.picture(
        "A word is copied once its score leads by ln 99(n-1)",
        Lines(
            "600 draws of 8 words lie on or below their bound",
            "lead of the score over the next best",
            "1 - weight of the word",
            [*curves, Line("n = 8: draws", shown_lead_S, shown_lost_S, ".", 0)],
            yscale="log",
            ylim=(1e-7, 2),
        ),
        Lines(
            "The lead that 99 % need",
            "words n",
            "lead of the score",
            [
                Line("computed", list(margins), list(margins.values()), "o", 0),
                Line("ln 99(n-1)", list(margins), [theory.margin(n, 0.99) for n in margins], "-", 3),
            ],
            xscale="log",
        ),
    )
    return found


def lost_by_lead(key: jax.Array, sizes: tuple[int, ...]) -> list[tuple[jax.Array, jax.Array]]:
    """Draws scores; returns for each n 1 - w of the first of n words, and its lead over the best other."""
    noise_key, scale_key, lead_key, tie_key = jax.random.split(key, 4)
    scale = 10.0 ** jax.random.uniform(scale_key, minval=-1, maxval=1)
    scale *= jax.random.bernoulli(tie_key, 0.9)  # one draw in ten has all others equal, the worst case
    all_N = scale * jax.random.normal(noise_key, (max(sizes) - 1,))
    lead = jax.random.uniform(lead_key, minval=-2, maxval=15)
    found = []
    for n in sizes:
        others_N = all_N[: n - 1]
        scores_N = jnp.concatenate([others_N.max()[None] + lead, others_N])
        found.append((1 - jax.nn.softmax(scores_N)[0], scores_N[0] - others_N.max()))
    return found


def average(settings: Settings) -> Findings:
    """1b: two queries that average v_a and v_b, and what leaks to other words."""
    found = Findings("average", settings)
    sizes = sorted({128, *settings.sizes})

    def plain_query(n: int, beta: float) -> np.ndarray:
        frame_ND = frame(n, channels(n), settings.seed)
        return beta * (frame_ND[0] + frame_ND[1])

    def minus_others(n: int, beta: float) -> np.ndarray:
        frame_ND = frame(n, channels(n), settings.seed)
        return 2 * plain_query(n, beta) - beta * frame_ND.sum(axis=0)

    def leaked(q_D: np.ndarray, n: int) -> float:
        scores_N = frame(n, channels(n), settings.seed) @ q_D
        w_N = np.exp(scores_N - scores_N.max())
        return float(w_N[2:].sum() / w_N.sum())

    for n in sizes:
        for beta in (5.0, 10.0, 20.0):
            place = {"n": n, "d": channels(n), "beta": beta}
            found.add("leak", leaked(plain_query(n, beta), n), theory.leak(n, 0, beta), **place)
            other = leaked(minus_others(n, beta), n)
            found.add("leak_minus_others", other, theory.leak(n, -beta, beta), **place)
    for n in sizes:
        least = brentq(lambda beta, n: leaked(plain_query(n, beta), n) - 0.01, 0.01, 40.0, args=(n,))
        found.add("beta_1_percent", least, math.log(99 * (n - 2) / 2), n=n, d=channels(n))
    length = 20.0  # of both queries

    def at_length(n: int) -> tuple[float, float]:
        both = (plain_query(n, 1.0), minus_others(n, 1.0))
        return tuple(leaked(length * q_D / np.linalg.norm(q_D), n) for q_D in both)

    counts = range(3, 65)
    pairs = [at_length(n) for n in counts]
    # From this n on the second query leaks as much as the first or more; at n = 8 they differ by rounding.
    crossing = next(n for n, (first, second) in zip(counts, pairs) if second > first * (1 - 1e-9))
    found.add("crossing_n", crossing, 8.0)
    for n in (8, 64):
        first, second = at_length(n)
        beta_1, beta_2 = length / math.sqrt(2), length / math.sqrt(n)
        found.add("leak_at_length_20", first, theory.leak(n, 0, beta_1), n=n, d=channels(n), beta=beta_1)
        found.add(
            "leak_minus_others_at_length_20",
            second,
            theory.leak(n, -beta_2, beta_2),
            n=n,
            d=channels(n),
            beta=beta_2,
        )
    n, d = 8, FULL
    shown_B, lines = np.linspace(1, 130, 130), []
    for i, dtype in enumerate(("float64", "float32", "bfloat16")):
        for beta in (5.0, 20.0, 100.0):
            in_type = leak_in(dtype, n, d, beta, settings.seed)
            found.add(f"leak_{dtype}", in_type, theory.leak(n, 0, beta), n=n, d=d, beta=beta)
        leak_B = np.array([leak_in(dtype, n, d, beta, settings.seed) for beta in shown_B])
        lines.append(Line(dtype, shown_B, np.where(leak_B > 0, leak_B, np.nan), ("-", "--", ".")[i], i))
    found.picture(
        "What leaks to other words falls as exp(-beta), in every precision, and then is exactly 0",
        Lines(
            f"{n} words; a curve ends where the leak is 0",
            "beta",
            "weight that leaks to other words",
            lines,
            yscale="log",
        ),
        Lines(
            "Subtracting the other keys pays below 8 words only",
            "words n",
            "weight that leaks, if q has length 20",
            [
                Line("toward a and b", counts, [first for first, _ in pairs], "-", 0),
                Line("and away from the others", counts, [second for _, second in pairs], "-", 1),
            ],
            yscale="log",
        ),
    )
    return found


def leak_in(dtype: str, n: int, d: int, beta: float, seed: int) -> float:
    """Returns what leaks to other words if keys, scores and weights all have this type."""
    with jax.enable_x64(True):
        k_ND = jnp.asarray(frame(n, d, seed), dtype)
        q_D = jnp.asarray(beta, dtype) * (k_ND[0] + k_ND[1])
        return float(jax.nn.softmax(k_ND @ q_D)[2:].sum())


ONE_HEAD = ((1.0, 1.0),)  # the parts of mu_a and mu_b in each head's query, times beta
TWO_HEADS = ((1.0, 0.0), (0.0, 1.0))
ALPHAS = (1e-2, 1e-4, 1e-6)
VANISHING = 1e-12  # alpha where the question says that it vanishes: 1e-6 already shows at beta 1,000
FINE = np.arange(1, 12.25, 0.25)  # betas to find the best among: at 12, the leak of 512 words is 0.002
COARSE = np.geomspace(1, 1000, 61)  # betas of the picture
VALUES = 16  # channels, where values are drawn, too


def weights_of_heads(products_HN: jax.Array, queries, beta) -> jax.Array:
    """Returns each head's weights, (heads, N), given the keys' products with mu_a and mu_b."""
    return jax.nn.softmax(beta * (jnp.asarray(queries) @ products_HN))


def noisy_average(settings: Settings) -> Findings:
    """1c i: keys with noise. One head has a best beta and fails beyond it; two heads have none."""
    found = Findings("noisy_average", settings)
    draws, seed = settings.draws, settings.seed
    for n in settings.sizes:
        d = channels(n)
        draw = partial(weight_errors, queries=ONE_HEAD, beta_B=FINE, n=n, d=d, frame_ND=means(n, d, seed))
        square_SAB = simulate(draw, draws, seed, f"noisy_average {n}")
        for i, alpha in enumerate(ALPHAS):
            square_SB = square_SAB[:, i]
            expected_B = np.square([theory.one_head(n, beta, alpha, d).weights for beta in FINE])
            best = int(square_SB.mean(axis=0).argmin())
            place = {"n": n, "d": d, "alpha": alpha, "draws": draws}
            least, expected = rms(square_SB[:, best]), math.sqrt(expected_B[best])
            found.add("least_weight_error", least, expected, beta=FINE[best], **place)
            found.add("best_beta", lowest(FINE, square_SB), FINE[expected_B.argmin()], **place)
    n, alpha, betas = 8, ALPHAS[-1], (20.0, 1000.0)
    frame_ND = frame(n, VALUES, seed)
    for name, queries, errors in (
        ("output_error", ONE_HEAD, theory.one_head),
        ("output_error_two_heads", TWO_HEADS, theory.two_heads),
    ):
        draw = partial(output_errors, queries=queries, beta_B=betas, alpha=alpha, frame_ND=frame_ND)
        square_SB = simulate(draw, draws, seed, "noisy_average outputs")
        for i, beta in enumerate(betas):
            expected = errors(n, beta, alpha, VALUES).output
            place = {"n": n, "d": VALUES, "beta": beta, "alpha": alpha, "draws": draws}
            found.add(name, rms(square_SB[:, i]), expected, **place)
    lines = []
    for name, queries, styles in (
        ("one head", ONE_HEAD, ("-", "-", "-")),
        ("two heads", TWO_HEADS, ("--", "--", ":")),  # the last two curves lie on each other
    ):
        draw = partial(weight_errors, queries=queries, beta_B=COARSE, n=n, d=n, frame_ND=means(n, n, seed))
        square_SAB = simulate(draw, min(draws, 4000), seed, "noisy_average curves")
        error_AB = np.sqrt(square_SAB.mean(axis=0))
        for i, alpha in enumerate(ALPHAS):
            label = f"{name}, alpha = {alpha:g}"
            lines.append(Line(label, COARSE, np.maximum(error_AB[i], 1e-17), styles[i], i))
    found.picture(
        "Noisy keys: one head fails beyond a best beta, two heads do not",
        Lines(
            f"{n} words with keys N(mu, alpha I)",
            "beta",
            "error of the weights (1/2, 1/2, 0, ...), rms",
            lines,
            xscale="log",
            yscale="log",
            ylim=(1e-9, 2),
        ),
    )
    return found


def weight_errors(key, queries, beta_B, n: int, d: int, frame_ND) -> jax.Array:
    """Draws noisy keys; returns |w - (1/2, 1/2, 0, ...)|^2 for each alpha and beta, (A, B)."""
    target_N = jnp.zeros(n).at[:2].set(0.5)

    def error(products_HN, beta):
        w_N = weights_of_heads(products_HN, queries, beta).mean(axis=0)
        return ((w_N - target_N) ** 2).sum()

    same = noise(key, n, d)  # for every alpha
    drawn = [products(same, alpha, 1.0, frame_ND) for alpha in ALPHAS]
    return jnp.stack([lax.map(partial(error, each_HN), jnp.asarray(beta_B)) for each_HN in drawn])


def output_errors(key, queries, beta_B, alpha: float, frame_ND) -> jax.Array:
    """Draws noisy keys and values; returns |c - t|^2 / |t|^2 by beta, (B,); t is the mean of v_a and v_b."""
    n, d = frame_ND.shape
    keys_key, values_key = jax.random.split(key)
    products_HN = products(noise(keys_key, n, d), alpha, 1.0, frame_ND)
    v_ND = jax.random.normal(values_key, (n, d))
    target_D = (v_ND[0] + v_ND[1]) / 2

    def error(beta):
        w_N = weights_of_heads(products_HN, queries, beta).mean(axis=0)
        off_D = w_N.at[:2].add(-0.5) @ v_ND
        return (off_D**2).sum() / (target_D**2).sum()

    return lax.map(error, jnp.asarray(beta_B))


BETAS = (5.0, 10.0, 20.0, 50.0, 100.0, 1000.0)
CURVE = (1.0, 2.0, 3.0, *BETAS, 200.0, 500.0)


class Steadiness(NamedTuple):
    """Draws of k_a = eps mu_a: eps, the weights of v_a and v_b by beta, and v_a's weight in head 1."""

    eps_S: np.ndarray
    one_SB2: np.ndarray
    two_SB2: np.ndarray
    head_1_SB: np.ndarray


@cache
def steadiness(n: int, draws: int, seed: int) -> Steadiness:
    """Draws keys with k_a ~ N(mu_a, alpha I + mu_a mu_a^T / 2); returns weights of one and of two heads."""
    d = channels(n)
    frame_ND = means(n, d, seed)

    def draw(key):
        length_key, noise_key = jax.random.split(key)
        eps = 1 + math.sqrt(0.5) * jax.random.normal(length_key)
        products_HN = products(noise(noise_key, n, d), VANISHING, eps, frame_ND)

        def weights(beta):
            (one_N,) = weights_of_heads(products_HN, ONE_HEAD, beta)
            head_1_N, head_2_N = weights_of_heads(products_HN, TWO_HEADS, beta)
            return one_N[:2], (head_1_N[:2] + head_2_N[:2]) / 2, head_1_N[0]

        return Steadiness(eps, *lax.map(weights, jnp.asarray(CURVE)))

    return simulate(draw, draws, seed, f"steadiness {n}")


def scaled_key(settings: Settings) -> Findings:
    """1c ii: k_a = eps mu_a. One head shows v_a or v_b, by chance, and hardly ever their average."""
    found = Findings("scaled_key", settings)
    draws = settings.draws
    for n in settings.sizes:
        drawn = steadiness(n, draws, settings.seed)
        place = {"n": n, "d": channels(n), "alpha": VANISHING, "draws": draws}
        if n == settings.sizes[0]:
            found.add("p_negative", mean(drawn.eps_S < 0), special.ndtr(-math.sqrt(2)), draws=draws)
        for beta in BETAS:
            w_S = drawn.one_SB2[:, CURVE.index(beta), 0]
            expected = theory.variance(theory.weight_one, n, beta)
            found.add("weight_variance", variance(w_S), expected, beta=beta, **place)
        for beta in BETAS:
            w_S = drawn.one_SB2[:, CURVE.index(beta), 0]
            expected = theory.below_one(0.9, n, beta) - theory.below_one(0.1, n, beta)
            found.add("weight_middle", mean((0.1 < w_S) & (w_S < 0.9)), expected, beta=beta, **place)
    n, beta = 8, 20.0
    drawn, column = steadiness(n, draws, settings.seed), CURVE.index(beta)
    edges_E = np.linspace(0, 1, 42)  # 1/2 lies in the middle of a bin
    panels = []
    for i, (title, w_SB2, shares) in enumerate(
        (
            ("one head: nearly always all or nothing", drawn.one_SB2, theory.shares_one),
            ("two heads: mostly 1/2", drawn.two_SB2, theory.shares_two),
        )
    ):
        panels.append(
            Histogram(
                title,
                "weight of v_a",
                f"share of {draws:,} draws, %",
                w_SB2[:, column, 0],
                edges_E,
                100 * shares(edges_E, n, beta),
                "logit-normal law" if not i else "logit-normal law, halved",
                i,
            )
        )
    outputs = [
        Line(name, w_SB2[:500, column, 0], w_SB2[:500, column, 1], ".", i)
        for i, (name, w_SB2) in enumerate((("one head", drawn.one_SB2), ("two heads", drawn.two_SB2)))
    ]
    found.picture(
        f"If k_a varies in length, one head picks v_a or v_b; two heads mix both (n = {n}, beta = {beta:g})",
        *panels,
        Lines("500 outputs", "part of v_a in c", "part of v_b in c", outputs, equal=True),
    )
    return found


def two_heads(settings: Settings) -> Findings:
    """1d ii: k_a = eps mu_a. The mean of two heads varies less than one head, the more so for eps > 0."""
    found = Findings("two_heads", settings)
    draws = settings.draws
    for n in settings.sizes:
        drawn = steadiness(n, draws, settings.seed)
        place = {"n": n, "d": channels(n), "alpha": VANISHING, "draws": draws}
        positive_S = drawn.eps_S > 0
        for beta in BETAS:
            column = CURVE.index(beta)
            one_S, two_S = drawn.one_SB2[:, column, 0], drawn.two_SB2[:, column, 0]
            head_1_S = drawn.head_1_SB[positive_S, column]
            for suffix, kept_S in (("", slice(None)), ("_positive", positive_S)):
                one, two = (
                    theory.variance(weight, n, beta, positive=bool(suffix))
                    for weight in (theory.weight_one, theory.weight_two)
                )
                found.add(f"weight_variance{suffix}", variance(two_S[kept_S]), two, beta=beta, **place)
                ratio = ratio_of_variances(one_S[kept_S], two_S[kept_S])
                found.add(f"variance_ratio{suffix}", ratio, one / two, beta=beta, **place)
            right = theory.share_above(RIGHT, n, beta)
            found.add("head_1_right", mean(head_1_S > RIGHT), right, beta=beta, **place)
    n = 8
    drawn = steadiness(n, draws, settings.seed)
    positive_S = drawn.eps_S > 0
    fine_B = np.geomspace(1, 1000, 40)
    lines = []
    for i, (label, w_SB2, weight, positive) in enumerate(
        (
            ("one head", drawn.one_SB2, theory.weight_one, False),
            ("two heads", drawn.two_SB2, theory.weight_two, False),
            ("two heads, where k_a . q_1 > 0", drawn.two_SB2, theory.weight_two, True),
        )
    ):
        kept_S = positive_S if positive else slice(None)
        lines.append(Line(label, CURVE, w_SB2[kept_S, :, 0].var(axis=0), "o", i))
        lines.append(
            Line("", fine_B, [theory.variance(weight, n, beta, positive) for beta in fine_B], "-", i)
        )
    found.picture(
        "Two heads are steadier, and what is left comes from keys that point backwards",
        Lines(
            f"{n} words, k_a = eps mu_a; points: {draws:,} draws, lines: quadrature",
            "beta",
            "variance of v_a's weight",
            lines,
            xscale="log",
            yscale="log",
        ),
    )
    return found


RIGHT = 0.95  # a head is right if v_a has more weight than this
