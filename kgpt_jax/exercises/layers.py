"""Questions about the costs of attention, the synthesizer, and the scale of scores, measured on our modules.

Axes: `T` position of a query, `N` of a key, `D` channels, `C` channels of a module, `H` heads, `1` size one.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from kgpt_jax.config import ModelConfig
from kgpt_jax.exercises.draws import FULL, simulate
from kgpt_jax.exercises.figures import Findings, Line, Lines, Matrix, Settings, median, rms
from kgpt_jax.exercises.places import CFG, random_params
from kgpt_jax.model.attention import CausalAttention
from kgpt_jax.model.costs import paper_flops
from kgpt_jax.model.synthesizer import SynthesizerAttention

# Operations of a model, up to a constant factor, given its layers, the length of the text, and its latents.
CLAIMED = {
    "vanilla": lambda layers, length, latents: layers * length**2,
    "perceiver": lambda layers, length, latents: (layers - 2) * latents**2 + length * latents,
}


def costs(settings: Settings) -> Findings:
    """2g ii: how the costs of vanilla and the perceiver grow, by the formulas of `--mode=costs`."""
    found = Findings("costs", settings)
    C, lengths = ModelConfig().n_embd, (128, 512, 1024, 4096, 16384)

    def saved(T: int) -> float:
        half, whole = (paper_flops(_sized(ModelConfig(), length), length) for length in (T // 2, T))
        return 100 * (1 - half / whole)

    for T in lengths:
        expected = 100 - 50 * (6 * C + T / 2) / (6 * C + T)
        found.add("percent_saved", saved(T), expected, n=T, d=C)
    # One channel makes everything but the scores cheap, and so shows how their number grows.
    thin = dataclasses.replace(ModelConfig(), n_embd=1, n_head=1)
    drawn, draws = settings.rng(3), min(settings.draws, 1000)
    ratios = {name: [] for name in CLAIMED}
    for _ in range(draws):
        layers, length = int(drawn.integers(3, 1000)), int(10 ** drawn.uniform(5, 6))
        latents = int(10 ** drawn.uniform(4, math.log10(length)))
        for name, claimed in CLAIMED.items():
            counted = paper_flops(_sized(_of_variant(thin, name, layers, latents), length), length)
            ratios[name].append(claimed(layers, length, latents) / counted)
    for name, each in ratios.items():
        found.add(f"answer_over_counted_{name}", max(each) / min(each), d=1, draws=draws)
    all_lengths = [2**k for k in range(6, 19)]
    found.picture(
        "Half the length saves three quarters of long texts only",
        Lines(
            f"vanilla with {C} channels, by its formula",
            "length of the text, characters",
            "multiplications saved by half the length, %",
            [
                Line("counted", all_lengths, [saved(T) for T in all_lengths], "o-", 0),
                Line("75 %, the scores alone", all_lengths, [75] * len(all_lengths), "--", 1),
            ],
            xscale="log",
            ylim=(48, 77),
        ),
    )
    return found


def _sized(cfg: ModelConfig, T: int) -> ModelConfig:
    return dataclasses.replace(cfg, seq_len=T, block_size=T)


def _of_variant(cfg: ModelConfig, variant: str, layers: int, latents: int) -> ModelConfig:
    options = f"bottleneck_dim={latents}" if variant == "perceiver" else ""
    return dataclasses.replace(cfg, variant=variant, n_layer=layers, options=options)


def synthesizer(settings: Settings) -> Findings:
    """2g ii: the weights of a synthesizer's row follow from the row's own word; vanilla's from all words."""
    found = Findings("synthesizer", settings)
    rng = settings.rng(4)
    T, C = CFG.seq_len, CFG.n_embd
    x_1TC = jnp.asarray(rng.standard_normal((1, T, C)), jnp.float32)
    matrices = []
    for name, attention in (("vanilla", CausalAttention), ("synthesizer", SynthesizerAttention)):
        slope_TT = weight_slopes(attention, x_1TC, rng)
        others_TT = slope_TT * (1 - np.eye(T))
        found.add(f"jacobian_{name}", others_TT.max(), 0.0 if name == "synthesizer" else None, n=T, d=C)
        found.add(f"jacobian_{name}_own_word", np.diag(slope_TT).max(), n=T, d=C)
        matrices.append((name, slope_TT))
    most = max(slope_TT.max() for _, slope_TT in matrices)
    words = [str(t) for t in range(1, T + 1)]
    panels = [
        Matrix(name, "word that changes", "word whose weights are watched", slope_TT, words, words, 0, most)
        for name, slope_TT in matrices
    ]
    found.picture("A synthesizer's weights depend on a word alone; vanilla's on all words before it", *panels)
    found.remark = "--mode=recall trains both on a task that needs such a comparison"
    return found


def weight_slopes(attention, x_1TC: jax.Array, rng: np.random.Generator) -> np.ndarray:
    """Returns the largest absolute derivative of word t's weights by a channel of word s, (T, T)."""
    slope_HTN1TC = jax.jit(jax.jacobian(weights_of(attention, rng)))(x_1TC)
    return np.asarray(jnp.abs(slope_HTN1TC[:, :, :, 0]).max(axis=(0, 2, 4)))


def weights_of(attention, rng: np.random.Generator) -> Callable:
    """Returns a function from words, (1, T, C), to the weights that a random layer gives them, (H, T, N)."""
    pos_1T = jnp.arange(CFG.seq_len)[None]
    module = attention(CFG)
    params = random_params(module, rng, jnp.zeros((1, CFG.seq_len, CFG.n_embd)), pos_1T)

    def weights(x_1TC):
        _, kept = module.apply({"params": params}, x_1TC, pos_1T, train=False, mutable=["intermediates"])
        return kept["intermediates"]["readout"]["weights"][0][0]

    return weights


def scaling(settings: Settings) -> Findings:
    """Why scores are divided by sqrt(d): the spread of scores, and the softmax's Jacobian."""
    found = Findings("scaling", settings)
    n, sizes, draws = 64, (8, 64, 512), settings.draws
    kept = {"unscaled": [], "scaled": []}
    for d in sizes:
        square_2S, slope_2S = simulate(partial(score_spread, n=n, d=d), draws, settings.seed, f"scaling {d}")
        for i, (name, std) in enumerate((("unscaled", math.sqrt(d)), ("scaled", 1.0))):
            place = {"n": n, "d": d, "draws": draws}
            found.add(f"score_std_{name}", rms(square_2S[:, i]), std, **place)
            jacobian = median(slope_2S[:, i])
            found.add(f"softmax_jacobian_{name}", jacobian, **place)
            kept[name].append((math.sqrt(square_2S[:, i].mean()), jacobian.value))
    lines = {
        "std": [
            Line(name, sizes, [std for std, _ in pairs], "o-", i)
            for i, (name, pairs) in enumerate(kept.items())
        ],
        "slope": [
            Line(name, sizes, [slope for _, slope in pairs], "o-", i)
            for i, (name, pairs) in enumerate(kept.items())
        ],
    }
    found.picture(
        "Without 1/sqrt(d), scores spread as sqrt(d) and the softmax stops passing gradients",
        Lines(
            f"scores of {n} keys", "channels d", "standard deviation of a score", lines["std"], "log", "log"
        ),
        Lines(
            "softmax of these scores",
            "channels d",
            "median norm of the Jacobian",
            lines["slope"],
            "log",
            "log",
        ),
    )
    return found


def score_spread(key: jax.Array, n: int, d: int) -> tuple[jax.Array, jax.Array]:
    """Draws a normal query and n normal keys.

    Returns:
      The mean square of the scores, and the Frobenius norm of the softmax's Jacobian; each (2,), for scores
      as they are and for scores divided by sqrt(d).
    """
    q_key, k_key = jax.random.split(key)
    q_D = jax.random.normal(q_key, (d,))
    if d <= FULL:
        scores_N = jax.random.normal(k_key, (n, d)) @ q_D
    else:  # the same law
        scores_N = jnp.linalg.norm(q_D) * jax.random.normal(k_key, (n,))
    scores_2N = jnp.stack([scores_N, scores_N / math.sqrt(d)])
    slope_2NN = jax.vmap(jax.jacobian(jax.nn.softmax))(scores_2N)
    return (scores_2N**2).mean(axis=1), jnp.sqrt((slope_2NN**2).sum(axis=(1, 2)))
