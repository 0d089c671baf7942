"""Closed forms and quadratures for the claims of questions 1a to 1d, without a draw.

Axes: `X` points in log u, `Z` points of a normal variable, `E` edges of bins.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import integrate, special


def leak(n: int, others: float, beta: float) -> float:
    """Returns the weight of all words but a and b, if a and b score `beta` and the rest score `others`."""
    rest = (n - 2) * math.exp(others - beta)
    return rest / (2 + rest)


def margin(n: int, weight: float) -> float:
    """Returns the lead in scores that gives a word at least this weight among n."""
    return math.log(weight / (1 - weight) * (n - 1))


class Moments(NamedTuple):
    """Expectations of softmax weights: of words a and b, and of another word o. `oo` is of two others."""

    a: float
    o: float
    aa: float
    ab: float
    ao: float
    oo: float
    o2: float


def moments(n: int, leading: int, gap: float, sigma: float) -> Moments:
    """Returns moments of softmax(s), s_i ~ N(m_i, sigma^2), where the first `leading` words have m = `gap`.

    With D the sum of e^s, 1 / D is the integral of e^(-u D) over u, and 1 / D^2 that of u e^(-u D). Under the
    integral, words are independent, so each contributes one factor.

    Args:
      n: words.
      leading: how many words lead, 1 or 2. If it is 1, `ab` is nan.
      gap: how far the leading words' mean scores are above the others', which are 0.
      sigma: standard deviation of each score.
    """
    step = min(0.2, 0.4 / sigma) if sigma else 0.2
    z_Z = np.arange(-9, 9 + step, step)
    p_Z = np.exp(-(z_Z**2) / 2)
    p_Z /= p_Z.sum()
    x_X = np.arange(-gap - 9 * sigma - 42, 9 * sigma + 6, 0.125)

    def factors(mean: float) -> list[np.ndarray]:
        """Returns E[y^k e^(-y)] for k = 0, 1, 2 and y = u e^s, at each log u."""
        log_XZ = np.minimum(x_X[:, None] + mean + sigma * z_Z, 50.0)  # beyond, e^(-y) is 0
        y_XZ = np.exp(log_XZ)
        return [np.exp(k * log_XZ - y_XZ) @ p_Z for k in range(3)]

    (a0, a1, a2), (o0, o1, o2) = factors(gap), factors(0.0)

    def integral(*chosen: np.ndarray) -> float:
        """Integrates these words' factors times those of the other words, which have k = 0."""
        leads = sum(each is a1 or each is a2 for each in chosen)
        left_a, left_o = leading - leads, n - leading - (len(chosen) - leads)
        return float(math.prod(chosen, start=a0**left_a * o0**left_o).sum() * 0.125)

    return Moments(
        a=integral(a1),
        o=integral(o1),
        aa=integral(a2),
        ab=integral(a1, a1) if leading == 2 else math.nan,
        ao=integral(a1, o1),
        oo=integral(o1, o1) if n - leading > 1 else 0.0,
        o2=integral(o2),
    )


class Errors(NamedTuple):
    """Root mean square errors: of the weights (1/2, 1/2, 0, ...), and of the output by its length."""

    weights: float
    output: float


def one_head(n: int, beta: float, alpha: float, d: int) -> Errors:
    """Returns the errors of one head with noisy keys, and Gaussian values of d channels."""
    m = moments(n, 2, beta, beta * math.sqrt(2 * alpha))
    rest = (n - 2) * m.o2
    together = 2 * m.aa + 2 * m.ab - 4 * m.a + 1  # E (e_a + e_b)^2, the leak squared
    apart = 2 * m.aa - 2 * m.ab  # E (e_a - e_b)^2
    return _errors(together, apart, rest, d)


def two_heads(n: int, beta: float, alpha: float, d: int) -> Errors:
    """Returns the errors of the mean of two heads, one for each word, with noisy keys."""
    m, rest = moments(n, 1, beta, beta * math.sqrt(alpha)), n - 2
    # Each head's error is written with the weights of its other words, so that no digits are lost in 1 - w.
    leaked, leaked2 = rest * m.o, rest * m.o2 + rest * (rest - 1) * m.oo
    lost, lost2 = leaked + 2 * m.o, leaked2 + 4 * rest * m.oo + 4 * m.o2
    together = (leaked2 + leaked**2) / 2
    apart = (lost2 - lost**2) / 2
    return _errors(together, apart, rest * (m.o2 + m.o**2) / 2, d)


def _errors(together: float, apart: float, rest: float, d: int) -> Errors:
    # The target (v_a + v_b) / 2 and (v_a - v_b) / 2 are independent, and E 1 / |target|^2 = 2 / (d - 2).
    relative = together + (apart + 2 * rest) * d / (d - 2)
    return Errors(math.sqrt((together + apart) / 2 + rest), math.sqrt(relative))


def below_one(weight: float, n: int, beta: float) -> float:
    """Returns P(w_a < weight) for one head, where k_a = eps mu_a and the other keys have no noise.

    The odds of w_a are e^(beta eps) / D, where D is the sum of the other words' exponentials.
    """
    eps = (special.logit(weight) + _log_rest(n, beta)) / beta
    return float(special.ndtr((eps - 1) * math.sqrt(2)))


def share_above(weight: float, n: int, beta: float) -> float:
    """Returns P(w_a > weight | eps > 0) for the head that looks at a."""
    eps = max(0.0, (special.logit(weight) + math.log(n - 1)) / beta)
    return float(special.ndtr((1 - eps) * math.sqrt(2)) / special.ndtr(math.sqrt(2)))


def weight_one(eps, n: int, beta: float):
    """Returns v_a's weight in one head that looks at a and b, where k_a = eps mu_a."""
    return special.expit(beta * eps - _log_rest(n, beta))


def weight_two(eps, n: int, beta: float):
    """Returns v_a's weight in the mean of two heads, one for a and one for b."""
    return (special.expit(beta * eps - math.log(n - 1)) + special.expit(-_log_rest(n, beta))) / 2


def _log_rest(n: int, beta: float) -> float:
    """Returns log(e^beta + n - 2), where b scores `beta` and n - 2 words score 0."""
    return float(np.logaddexp(beta, math.log(n - 2))) if n > 2 else beta


def variance(weight, n: int, beta: float, positive: bool = False) -> float:
    """Returns the variance of `weight(eps, n, beta)` over eps ~ N(1, 1/2), by quadrature.

    Args:
      weight: `weight_one` or `weight_two`.
      n: words.
      beta: the length of the queries' parts.
      positive: whether to condition on eps > 0.
    """
    low = 0.0 if positive else -6.0
    turns = sorted({min(max(turn, low), 8.0) for turn in (0.0, 1.0, math.log(n) / beta)})

    def integral(power: int) -> float:
        def integrand(eps: float) -> float:
            return float(weight(eps, n, beta)) ** power * math.exp(-((eps - 1) ** 2)) / math.sqrt(math.pi)

        ends = [low, *(turn + k * 40 / beta for turn in turns for k in (-1, -0.1, 0, 0.1, 1)), 8.0]
        ends = sorted(end for end in ends if low <= end <= 8.0)
        parts = (integrate.quad(integrand, *pair, epsabs=1e-15) for pair in zip(ends, ends[1:]))
        return sum(part for part, _ in parts)

    share = integral(0)
    mean = integral(1) / share
    return integral(2) / share - mean**2


def shares_one(edges_E: np.ndarray, n: int, beta: float) -> np.ndarray:
    """Returns how often v_a's weight in one head lies between neighbouring edges: the logit-normal law."""
    return np.diff([below_one(edge, n, beta) for edge in edges_E])


def shares_two(edges_E: np.ndarray, n: int, beta: float) -> np.ndarray:
    """Returns how often v_a's weight in the mean of two heads lies between neighbouring edges."""
    of_head_2 = float(weight_two(-math.inf, n, beta))  # all that is left if head 1 misses v_a
    weights_E = np.clip(2 * (edges_E - of_head_2), 0, 1)
    eps_E = (special.logit(weights_E) + math.log(n - 1)) / beta
    return np.diff(special.ndtr((eps_E - 1) * math.sqrt(2)))
