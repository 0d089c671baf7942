import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kgpt_jax.config import ModelConfig
from kgpt_jax.exercises import layers, places
from kgpt_jax.exercises.draws import simulate
from kgpt_jax.exercises.figures import Settings
from kgpt_jax.model.attention import CausalAttention
from tests.exercises.test_claims import figure

FEW = Settings(draws=250)


def test_sinusoids_by_hand():
    expected = [[0, 1, 0, 1], [math.sin(1), math.cos(1), math.sin(0.01), math.cos(0.01)]]
    np.testing.assert_allclose(places.sinusoids(np.arange(2), 4), expected)


def test_permuted_words_give_permuted_outputs():
    found = places.permutation(FEW)
    assert figure(found, "residual").value < 1e-15
    for name in ("MemoryAttention", "MemoryBlock", "Encoder", "SourceAttention", "Mlp"):
        assert figure(found, f"residual_{name}").value < 1e-5, name
    for name in ("causal_mask", "sinusoids", "CausalAttention"):
        assert figure(found, f"residual_{name}").value > 0.05, name


def test_permutations_tell_p_from_its_transpose():
    rng = np.random.default_rng(0)
    for order_T in (places.drawn_order(rng, 4) for _ in range(20)):
        assert sorted(order_T) == [0, 1, 2, 3] and (np.argsort(order_T) != order_T).any()


def test_two_positions_nearly_meet_in_two_channels():
    found = places.positions(FEW)
    assert figure(found, "least_distance", d=2).value == pytest.approx(
        2 * abs(math.sin(355))
    )  # 355 is near 113 pi
    assert figure(found, "least_distance_gap", d=2).value == 710
    for row in found.figures:
        if row.theory is not None:
            assert row.value == pytest.approx(row.theory, rel=1e-6)
    distinct = {row.d: row.value for row in found.figures if row.quantity == "distinct_bfloat16"}
    assert distinct[2] < 1000 and all(distinct[d] == 1000 for d in (8, 64, 512))


def test_rotations_by_hand_by_matrix_and_by_our_module():
    rate_P = np.array([1.0, 0.01])
    z_SD = np.array([[1.0, 0.0, 0.0, 2.0]])
    expected = [math.cos(3), math.sin(3), -2 * math.sin(0.03), 2 * math.cos(0.03)]
    np.testing.assert_allclose(places.turned(z_SD, np.array([3]), rate_P)[0], expected)
    np.testing.assert_allclose(places.block_rotation(3, 4) @ z_SD[0], expected)
    found = places.rope(FEW)
    assert figure(found, "matrix_minus_complex").value < 5e-12
    assert figure(found, "relative_residual").value < 1e-13
    wrong = figure(found, "wrong_sign")
    assert abs(wrong.value - wrong.theory) < 4 * wrong.standard_error
    assert figure(found, "rotate_float32_first_8").value < 1e-6
    assert 0 < figure(found, "rotate_float32").value < 2e-5


def test_costs_by_hand():
    found = layers.costs(Settings(draws=50))
    layer = {T: 12 * T * 256**2 + 2 * T * T * 256 for T in (64, 128)}  # multiplications
    assert figure(found, "percent_saved", n=128).value == pytest.approx(100 * (1 - layer[64] / layer[128]))
    for name in ("vanilla", "perceiver"):
        assert 1 <= figure(found, f"answer_over_counted_{name}").value < 2.8
    assert ModelConfig().vocab_size == 0  # so the head, which has no part in the question, costs nothing


def test_a_synthesizers_weights_ignore_other_words():
    found = layers.synthesizer(FEW)
    assert figure(found, "jacobian_synthesizer").value == 0
    assert figure(found, "jacobian_synthesizer_own_word").value > 0.01
    assert figure(found, "jacobian_vanilla").value > 0.05


def test_slopes_are_differences():
    """Word 5's weights, by a change of word 2."""
    rng = np.random.default_rng(0)
    x_1TC = jnp.asarray(rng.standard_normal((1, 8, 16)), jnp.float32)
    slope_TT = layers.weight_slopes(CausalAttention, x_1TC, np.random.default_rng(1))
    assert not np.triu(slope_TT, 1).any()  # no later word counts
    weights = layers.weights_of(CausalAttention, np.random.default_rng(1))
    steps = [
        np.abs(weights(x_1TC.at[0, 2, c].add(0.01)) - weights(x_1TC.at[0, 2, c].add(-0.01))).max(axis=(0, 2))[
            5
        ]
        for c in range(16)
    ]
    assert slope_TT[5, 2] == pytest.approx(max(steps) / 0.02, rel=0.02)


def test_scores_of_whole_and_of_projected_keys(monkeypatch):
    """A Jacobian is diag(w) - w w^T, and both ways to draw scores of 16 channels have the same spread."""
    run = partial(layers.score_spread, n=4, d=16)
    whole_S2, _ = simulate(run, 2000, 0, "whole")
    monkeypatch.setattr(layers, "FULL", 8)
    alone_S2, slope_S2 = simulate(run, 2000, 0, "alone")
    for column, expected in ((0, 16.0), (1, 1.0)):
        for square_S2 in (whole_S2, alone_S2):
            error = square_S2[:, column].std() / 2000**0.5
            assert abs(square_S2[:, column].mean() - expected) < 4 * error
    q_key, k_key = jax.random.split(jax.random.key(5))
    scores_N = np.linalg.norm(jax.random.normal(q_key, (16,))) * np.asarray(jax.random.normal(k_key, (4,)))
    w_N = np.exp(scores_N / 4) / np.exp(scores_N / 4).sum()
    expected = np.linalg.norm(np.diag(w_N) - np.outer(w_N, w_N))
    assert run(jax.random.key(5))[1][1] == pytest.approx(expected, rel=1e-4)
