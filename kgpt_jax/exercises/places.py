"""Questions about the order of words, measured on our own modules.

Axes: `S` draws, `B` batch, `T` position of a query, `N` of a key, `D` channels, `P` = D / 2 pairs of
channels, `C` channels of a module, `G` gaps between positions, `F` hidden channels, `H` heads, `1` size one.
"""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from kgpt_jax.config import ModelConfig
from kgpt_jax.exercises.figures import (
    Bars,
    Findings,
    Line,
    Lines,
    Matrix,
    Settings,
    rms,
)
from kgpt_jax.exercises.judge import relative
from kgpt_jax.exercises.judge_places import drawn_order, rates, sinusoids
from kgpt_jax.model.attention import CausalAttention, MemoryAttention
from kgpt_jax.model.blocks import MemoryBlock, Mlp
from kgpt_jax.model.encoder_decoder import Encoder, SourceAttention
from kgpt_jax.model.rope import rotate

CFG = ModelConfig(n_layer=2, n_head=2, n_embd=16, seq_len=8, block_size=8, dropout=0.0)
TEXTS = 20  # texts that the modules are tried on, each with its own permutation


def permutation(settings: Settings) -> Findings:
    """2a i: Z(P X) = P Z(X): attention without positions cannot tell the order of words."""
    found = Findings("permutation", settings)
    rng = settings.rng(1)
    T, C = CFG.seq_len, CFG.n_embd
    order_ST = np.stack([drawn_order(rng, T) for _ in range(TEXTS)])
    x_STC = rng.standard_normal((TEXTS, T, C))
    plain, causal, moved = [], [], []
    for x_TC, order_T in zip(x_STC, order_ST):
        layer = HandoutLayer(C, rng)
        pos_TC = sinusoids(np.arange(T), C)
        plain.append(relative(layer(x_TC[order_T]), layer(x_TC)[order_T]))
        causal.append(relative(layer(x_TC[order_T], causal=True), layer(x_TC, causal=True)[order_T]))
        moved.append(relative(layer(x_TC[order_T] + pos_TC), layer(x_TC + pos_TC)[order_T]))
    place = {"n": T, "d": C, "draws": TEXTS}
    found.add("residual", max(plain), 0.0, **place)
    found.add("residual_causal_mask", min(causal), **place)
    found.add("residual_sinusoids", min(moved), **place)
    bars = {
        "the question's layer": max(plain),
        "with a causal mask": min(causal),
        "with sinusoids": min(moved),
    }
    for name, module in non_causal(rng).items():
        y_BTC, moved_BTC = (np.asarray(module(x_BTC)) for x_BTC in _both(x_STC, order_ST))
        residual = max(relative(*pair) for pair in zip(moved_BTC, _reordered(y_BTC, order_ST)))
        found.add(f"residual_{name}", residual, 0.0, **place)
        bars[f"our {name}"] = residual
    module = with_random_params(CausalAttention(CFG), rng, jnp.zeros((1, T, C)), jnp.arange(T)[None])
    y_BTC, moved_BTC = (np.asarray(module(x_BTC, jnp.arange(T)[None])) for x_BTC in _both(x_STC, order_ST))
    least = min(relative(*pair) for pair in zip(moved_BTC, _reordered(y_BTC, order_ST)))
    found.add("residual_CausalAttention", least, **place)
    bars["our CausalAttention"] = least
    found.picture(
        "Without a mask or positions, permuted words give permuted outputs",
        Bars(
            f"{TEXTS} texts of {T} words; green: equal up to rounding",
            "|Z(PX) - P Z(X)| / |Z(X)|, the largest (orange: the least) of all texts",
            list(bars),
            list(bars.values()),
            [value < 1e-5 for value in bars.values()],
            1e-17,
        ),
    )
    return found


class HandoutLayer:
    """softmax(Q K^T / sqrt(d)) V, then ReLU and a linear layer with biases, in float64 NumPy."""

    def __init__(self, d: int, rng: np.random.Generator):
        self.q_DD, self.k_DD, self.v_DD, self.w1_DF, self.w2_FD = rng.standard_normal((5, d, d)) / math.sqrt(
            d
        )
        self.b1_F, self.b2_D = rng.standard_normal((2, d))

    def __call__(self, x_TD: np.ndarray, causal: bool = False) -> np.ndarray:
        scores_TN = (x_TD @ self.q_DD) @ (x_TD @ self.k_DD).T / math.sqrt(x_TD.shape[1])
        if causal:
            scores_TN[np.triu_indices(len(x_TD), 1)] = -np.inf
        h_TD = special.softmax(scores_TN, axis=1) @ (x_TD @ self.v_DD)
        return np.maximum(h_TD @ self.w1_DF + self.b1_F, 0) @ self.w2_FD + self.b2_D


def non_causal(rng: np.random.Generator) -> dict[str, Callable]:
    """Returns each module of ours that has no causal mask, with random parameters, as a function of x_BTC."""
    T, C = CFG.seq_len, CFG.n_embd
    all_B1TS = jnp.ones((1, 1, T, T), bool)
    memory_BSC = jnp.asarray(rng.standard_normal((1, 5, C)), jnp.float32)
    x_BTC = jnp.zeros((1, T, C))

    def on_itself(module) -> Callable:
        run = with_random_params(module, rng, x_BTC, x_BTC, all_B1TS)
        return lambda x_BTC: run(x_BTC, x_BTC, all_B1TS)

    encoder = with_random_params(Encoder(CFG), rng, x_BTC, jnp.full(1, T))
    source = with_random_params(SourceAttention(CFG), rng, x_BTC, memory_BSC, jnp.full(1, 5))
    return {
        "MemoryAttention": on_itself(MemoryAttention(CFG)),
        "MemoryBlock": on_itself(MemoryBlock(CFG)),
        "Encoder": lambda x_BTC: encoder(x_BTC, jnp.full(len(x_BTC), T)),
        "SourceAttention": lambda x_BTC: source(
            x_BTC, jnp.broadcast_to(memory_BSC, (len(x_BTC), 5, C)), jnp.full(len(x_BTC), 5)
        ),
        "Mlp": with_random_params(Mlp(CFG), rng, x_BTC),
    }


def with_random_params(module, rng: np.random.Generator, *inputs) -> Callable:
    """Returns a module with random parameters as a jitted function of its inputs."""
    params = random_params(module, rng, *inputs)
    return jax.jit(lambda *inputs: module.apply({"params": params}, *inputs, train=False))


def random_params(module, rng: np.random.Generator, *inputs):
    """Returns parameters for a module that are random everywhere.

    Kernels are drawn so that a layer's outputs are about as large as its inputs. Biases are noise around 0,
    and scales are noise around 1.
    """
    shapes = jax.eval_shape(partial(module.init, train=False), jax.random.key(0), *inputs)["params"]

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape)
        if leaf.ndim > 1:
            return jnp.asarray(noise / math.sqrt(leaf.shape[0]), leaf.dtype)
        return jnp.asarray((path[-1].key == "scale") + 0.3 * noise, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def _both(x_STC: np.ndarray, order_ST: np.ndarray) -> tuple[jax.Array, jax.Array]:
    return tuple(jnp.asarray(each, jnp.float32) for each in (x_STC, _reordered(x_STC, order_ST)))


def _reordered(x_STC: np.ndarray, order_ST: np.ndarray) -> np.ndarray:
    return np.take_along_axis(x_STC, order_ST[:, :, None], axis=1)


def positions(settings: Settings) -> Findings:
    """2b: sinusoids: how near two positions among 1,024 come to each other."""
    found = Findings("positions", settings)
    count, lines = 1024, []
    gaps_G = np.arange(1, count)
    for i, d in enumerate((2, 4, 8, 64, 512)):
        pos_TD = sinusoids(np.arange(count), d)
        nearest_G = np.array([_least_distance(pos_TD, gap) for gap in gaps_G])
        rate_P = rates(d)
        law_G = 2 * np.sqrt((np.sin(gaps_G[:, None] * rate_P / 2) ** 2).sum(axis=1))
        found.add("least_distance", nearest_G.min(), law_G.min(), n=count, d=d)
        found.add(
            "least_distance_gap", int(gaps_G[nearest_G.argmin()]), float(gaps_G[law_G.argmin()]), n=count, d=d
        )
        if d in (2, 4, 8, 64):
            lines.append(Line(f"d = {d}", gaps_G, nearest_G, "-", i))
    for d in (2, 4, 8, 64, 512):
        rounded_TD = np.asarray(jnp.asarray(sinusoids(np.arange(1000), d), jnp.bfloat16), np.float32)
        found.add("distinct_bfloat16", len(np.unique(rounded_TD, axis=0)), n=1000, d=d)
    found.picture(
        "With more than a few channels, no two of 1,024 positions look alike",
        Lines(
            "sinusoids of d channels",
            "gap between two positions",
            "least distance of their vectors",
            lines,
            xscale="log",
            yscale="log",
        ),
    )
    return found


def _least_distance(pos_TD: np.ndarray, gap: int) -> float:
    off_TD = pos_TD[gap:] - pos_TD[:-gap]
    return math.sqrt(np.einsum("TD,TD->T", off_TD, off_TD).min())


def rope(settings: Settings) -> Findings:
    """3g: rotations as complex products, and scores that depend on the distance of two positions only."""
    found = Findings("rope", settings)
    d, T, draws = 64, 128, min(settings.draws, 2000)
    rng = settings.rng(2)
    z_2SD = rng.standard_normal((2, draws, d))
    t_2S = rng.integers(0, 1000, (2, draws))
    rate_P = rates(d)
    q_SD, k_SD = z_2SD
    t_S, s_S = t_2S
    lengths_S = np.linalg.norm(q_SD, axis=1) * np.linalg.norm(k_SD, axis=1)

    by_matrix_SD = np.stack([block_rotation(t, d) @ z_D for t, z_D in zip(t_S[:200], q_SD)])
    by_product_SD = turned(q_SD, t_S, rate_P)[:200]
    place = {"d": d, "draws": 200}
    found.add("matrix_minus_complex", np.abs(by_matrix_SD - by_product_SD).max(), 0.0, **place)

    def score(first_S, second_S) -> np.ndarray:
        return (turned(q_SD, first_S, rate_P) * turned(k_SD, second_S, rate_P)).sum(axis=1) / lengths_S

    place = {"d": d, "draws": draws}
    both_S = score(t_S, s_S)
    found.add("relative_residual", np.abs(both_S - score(t_S - s_S, 0 * s_S)).max(), 0.0, **place)
    # The mean square of the error, if q and k point in random directions: each pair of channels contributes
    # 8 sin^2(gap * rate) / d^2.
    sin2_SP = np.sin((t_S - s_S)[:, None] * rate_P) ** 2
    expected = math.sqrt(8 * sin2_SP.sum(axis=1).mean()) / d
    wrong_S = both_S - score(s_S - t_S, 0 * s_S)
    found.add("wrong_sign", rms(wrong_S**2), expected, **place)

    h_BHTK = rng.standard_normal((1, 1, T, d))
    ours = np.asarray(rotate(jnp.asarray(h_BHTK, jnp.float32), jnp.arange(T)[None]), np.float64)
    exact_TD = turned(np.float64(np.float32(h_BHTK[0, 0])), np.arange(T), rate_P)
    off_T = np.abs(ours[0, 0] - exact_TD).max(axis=1)
    found.add("rotate_float32", off_T.max(), n=T, d=d)
    found.add("rotate_float32_first_8", off_T[:8].max(), n=8, d=d)
    # The angles t * rate lose digits in float32, and the more the larger t is.
    with jax.enable_x64(True):
        ours = np.asarray(rotate(jnp.asarray(h_BHTK, jnp.float32), jnp.arange(T)[None]), np.float64)
    found.add("rotate_float64_angles", np.abs(ours[0, 0] - exact_TD).max(), n=T, d=d)

    shown = np.arange(48)
    rows_TD, columns_TD = (turned(np.repeat(z_2SD[i, :1], 48, axis=0), shown, rate_P) for i in (0, 1))
    found.picture(
        "A rotated score depends on t_1 - t_2 alone: it is the same along each diagonal",
        Matrix(
            "score of one query and one key",
            "t_2, position of the key",
            "t_1, position of the query",
            rows_TD @ columns_TD.T,
        ),
        Lines(
            "the same scores against the distance",
            "t_1 - t_2",
            "score",
            [
                Line(
                    "48 x 48 pairs of positions",
                    (shown[:, None] - shown).ravel(),
                    (rows_TD @ columns_TD.T).ravel(),
                    ".",
                )
            ],
        ),
    )
    return found


def turned(z_SD: np.ndarray, t_S: np.ndarray, rate_P: np.ndarray) -> np.ndarray:
    """Rotates vectors as complex numbers: pair p of channels times e^(i t rate_p), by repeated products."""
    z_SP = z_SD[:, 0::2] + 1j * z_SD[:, 1::2]
    z_SP = z_SP * np.exp(1j * rate_P) ** t_S[:, None]
    return np.stack([z_SP.real, z_SP.imag], axis=-1).reshape(z_SD.shape)


def block_rotation(t: int, d: int) -> np.ndarray:
    """Returns the rotation of position t as a block-diagonal matrix, (D, D)."""
    matrix_DD = np.zeros((d, d))
    for i, angle in zip(range(0, d, 2), t * rates(d)):
        matrix_DD[i, i] = matrix_DD[i + 1, i + 1] = math.cos(angle)
        matrix_DD[i + 1, i] = math.sin(angle)
        matrix_DD[i, i + 1] = -math.sin(angle)
    return matrix_DD
