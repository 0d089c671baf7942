"""Question 1e: three words that are sums of orthogonal vectors, as queries, keys and values.

Attention is computed by the question's formula, and by our own layers.

Axes: `N` words, `M` words as queries, `D` channels, `B` sizes of beta; of our layers as in `model/`.
"""

import itertools
import math

import jax.numpy as jnp
import numpy as np
from scipy import special

from kgpt_jax.config import ModelConfig
from kgpt_jax.exercises.draws import frame
from kgpt_jax.exercises.figures import Bars, Findings, Line, Lines, Matrix, Settings
from kgpt_jax.model.attention import CausalAttention, MemoryAttention

CHANNELS = 8


def given_vectors(beta: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the orthogonal u_a ... u_d of length beta, (4, D), and the words x_1, x_2, x_3, (N, D)."""
    u_4D = beta * frame(4, CHANNELS, seed)
    u_a, u_b, u_c, u_d = u_4D
    return u_4D, np.stack([u_d + u_b, u_a, u_c + u_b])


def attend(q_MD: np.ndarray, k_ND: np.ndarray, v_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns outputs (M, D) and weights (M, N) of attention without 1/sqrt(d), as in the question."""
    w_MN = special.softmax(q_MD @ k_ND.T, axis=1)
    return w_MN @ v_ND, w_MN


def same_vectors(settings: Settings) -> Findings:
    """1e i: the output c_2 if queries, keys and values are the words themselves, by beta."""
    found = Findings("same_vectors", settings)
    additions = {"": None, "_plus_u_d": 3, "_plus_u_c": 2}

    def output(beta: float, added: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns c_2 in the coordinates of u_a..u_d, its weights, and its distance from u_b over beta."""
        u_4D, x_ND = given_vectors(beta, settings.seed)
        if added is not None:
            x_ND[1] += u_4D[added]
        c_ND, w_NN = attend(x_ND, x_ND, x_ND)
        return u_4D @ c_ND[1] / beta**2, w_NN[1], np.linalg.norm(c_ND[1] - u_4D[1]) / beta

    for beta in (1.0, 2.0, 3.0, 4.0):
        place = {"n": 3, "d": CHANNELS, "beta": beta}
        weight = output(beta, None)[1][1]
        found.add("self_weight", weight, math.exp(beta**2) / (math.exp(beta**2) + 2), **place)
    for beta in (1.0, 2.0, 3.0, 4.0):
        place = {"n": 3, "d": CHANNELS, "beta": beta}
        for suffix, added in additions.items():
            _, _, distance = output(beta, added)
            found.add(f"distance_to_u_b{suffix}", distance, _distance_to_u_b(beta, added), **place)
    betas = np.linspace(0.25, 4, 40)
    panels = []
    for name, added in (("x_2 = u_a", None), ("x_2 = u_a + u_d", 3), ("x_2 = u_a + u_c", 2)):
        parts_B4 = np.stack([output(beta, added)[0] for beta in betas])
        lines = [
            Line(f"u_{letter}", betas, parts_B4[:, i], style, i)
            for i, (letter, style) in enumerate(zip("abcd", ("-", "-", "-", "--")))
        ]
        panels.append(Lines(name, "beta, the length of u_a ... u_d", "part of each in c_2", lines))
    found.picture("Words that ask for themselves find themselves", *panels)
    return found


def _distance_to_u_b(beta: float, added: int | None) -> float:
    """Returns |c_2 - u_b| / beta by hand, from the scores of x_1, x_2 and x_3 over beta^2."""
    scores = {None: (0, 1, 0), 3: (1, 2, 0), 2: (0, 2, 1)}[added]
    w_1, w_2, w_3 = special.softmax(beta**2 * np.array(scores))
    parts = {"a": w_2, "b": w_1 + w_3 - 1, "c": w_3, "d": w_1}
    if added is not None:
        parts["d" if added == 3 else "c"] += w_2
    return math.hypot(*parts.values())


def key_query_value(settings: Settings) -> Findings:
    """1e ii: V, K, Q with c_2 near u_b and c_1 near u_b - u_c, by formula and through our own modules."""
    found = Findings("key_query_value", settings)
    for beta in (1.0, 2.0, 3.0, 4.0):
        u_4D, x_ND = given_vectors(beta, settings.seed)
        c_ND, _ = attend(*(x_ND @ matrix.T for matrix in matrices(u_4D)))
        off = 1 / (math.exp(beta**2) + 2)  # the weight of each word that c_2 should not look at
        place = {"n": 3, "d": CHANNELS, "beta": beta}
        residual = np.linalg.norm(c_ND[1] - u_4D[1]) / beta
        found.add("residual_c2", residual, math.sqrt(2) * off, **place)
        target_D = u_4D[1] - u_4D[2]
        found.add("residual_c1", np.linalg.norm(c_ND[0] - target_D) / beta, math.sqrt(5) * off, **place)
    beta = 4.0
    place = {"n": 3, "d": CHANNELS, "beta": beta}
    residual, w_33, parts_34 = through_module(MemoryAttention, beta, (1, 2, 3), settings.seed)
    found.add("residual_memory_attention", residual, **place)
    bars = {"MemoryAttention": residual}
    for order in itertools.permutations((1, 2, 3)):
        residual, _, _ = through_module(CausalAttention, beta, order, settings.seed)
        name = "".join(map(str, order))
        found.add(f"residual_causal_attention_{name}", residual, **place)
        bars[f"CausalAttention, words {', '.join(map(str, order))}"] = residual
    words = [f"x_{i}" for i in (1, 2, 3)]
    found.picture(
        "One head answers 1(e)ii; with a causal mask only if words 3, 1 and 2 come in this order (beta = 4)",
        Matrix("weights without a mask", "word looked at", "output of word", w_33, words, words, 0, 1),
        Matrix(
            "c_1 and c_2 without a mask",
            "part of",
            "output",
            parts_34[:2],
            [f"u_{letter}" for letter in "abcd"],
            ["c_1", "c_2"],
            -1,
            1,
        ),
        Bars(
            "our own modules; green: equal up to rounding",
            "larger residual of c_1 and c_2, over beta",
            list(bars),
            list(bars.values()),
            [value < 1e-3 for value in bars.values()],
            1e-8,
        ),
    )
    return found


def matrices(u_4D: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns Q, K and V, each (D, D)."""
    u_a, u_b, u_c, u_d = u_4D
    square = u_a @ u_a
    q_DD = (np.outer(u_d, u_a) + np.outer(u_c, u_d)) / square
    return q_DD, np.eye(len(u_a)), (np.outer(u_b, u_b) - np.outer(u_c, u_c)) / square


def through_module(attention, beta: float, order: tuple[int, ...], seed: int):
    """Runs one of our attention layers, in float32, with the matrices of 1e ii.

    Args:
      attention: CausalAttention or MemoryAttention.
      beta: the length of u_a ... u_d.
      order: the numbers of the words in the order in which the layer reads them.
      seed: decides the vectors.

    Returns:
      The larger residual of c_1 and c_2 over beta; the weights, and the outputs in the coordinates of u_a ...
      u_d, with words 1, 2, 3 in rows (and columns).
    """
    u_4D, x_ND = given_vectors(beta, seed)
    q_DD, k_DD, v_DD = matrices(u_4D)
    cfg = ModelConfig(n_layer=1, n_head=1, n_embd=CHANNELS, seq_len=3, block_size=3, dropout=0.0)
    layers = {
        "query": math.sqrt(CHANNELS) * q_DD.T,  # the layer divides by sqrt(d), and the question does not
        "key": k_DD.T,
        "value": v_DD.T,
    }
    params = {name: _linear(kernel) for name, kernel in layers.items()}
    params["readout"] = {"proj": _linear(np.eye(CHANNELS))}
    rows = [number - 1 for number in order]
    x_BTC = jnp.asarray(x_ND[rows][None], jnp.float32)
    if attention is MemoryAttention:
        inputs = (x_BTC, x_BTC, jnp.ones((1, 1, 3, 3), bool))
    else:
        inputs = (x_BTC, jnp.arange(3)[None])
    y_BTC, kept = attention(cfg).apply({"params": params}, *inputs, train=False, mutable=["intermediates"])
    back = np.argsort(rows)
    (w_BHTS,) = kept["intermediates"]["readout"]["weights"]
    c_3D = np.asarray(y_BTC[0], np.float64)[back]
    targets_2D = np.stack([u_4D[1] - u_4D[2], u_4D[1]])
    residual = np.linalg.norm(c_3D[:2] - targets_2D, axis=1).max() / beta
    return residual, np.asarray(w_BHTS)[0, 0][back][:, back], c_3D @ u_4D.T / beta**2


def _linear(kernel_IO: np.ndarray) -> dict:
    return {"kernel": jnp.asarray(kernel_IO, jnp.float32), "bias": jnp.zeros(len(kernel_IO), jnp.float32)}
