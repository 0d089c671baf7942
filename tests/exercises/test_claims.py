import math
from functools import partial

import jax
import numpy as np
import pytest

from kgpt_jax.exercises import claims, draws, theory, word_claims
from kgpt_jax.exercises.claims import ONE_HEAD, TWO_HEADS
from kgpt_jax.exercises.figures import Settings, mean
from kgpt_jax.model.attention import CausalAttention, MemoryAttention

SMALL = {"draws": 500, "sizes": (8,)}


def figure(found, quantity, **place):
    """Returns the only figure of a quantity at this place."""
    (one,) = [
        row
        for row in found.figures
        if row.quantity == quantity and all(getattr(row, name) == value for name, value in place.items())
    ]
    return one


def test_closed_forms_by_hand():
    assert theory.margin(8, 0.99) == pytest.approx(math.log(99 * 7))
    assert theory.leak(4, 0, 3.0) == pytest.approx(1 / (1 + math.exp(3)))
    assert theory.leak(4, -3, 3.0) == pytest.approx(1 / (1 + math.exp(6)))
    # With two words, the weight is logistic(beta (eps - 1)), and so between 0.1 and 0.9 if it is below ln 9.
    for beta in (5.0, 20.0, 100.0):
        middle = theory.below_one(0.9, 2, beta) - theory.below_one(0.1, 2, beta)
        assert middle == pytest.approx(math.erf(math.log(9) / beta))
    assert theory.variance(theory.weight_one, 2, 1e5) == pytest.approx(0.25, abs=1e-5)
    assert theory.variance(theory.weight_two, 2, 1e5, positive=True) == pytest.approx(0, abs=1e-6)
    negative = math.erfc(1) / 2  # P(eps < 0): head 1 then misses v_a, and the weight is 0 instead of 1/2
    limit = theory.variance(theory.weight_two, 8, 1e5)
    assert limit == pytest.approx(negative * (1 - negative) / 4, abs=1e-5)
    assert theory.share_above(0.5, 2, 20.0) == pytest.approx(1)
    assert theory.share_above(1 / (1 + 1 / math.e), 2, 1.0) == pytest.approx(0.5 / (1 - negative))


def test_quadratures_for_eight_words():
    """The expected numbers come from simulations by another program."""
    found = [theory.variance(theory.weight_one, 8, beta) for beta in (5.0, 10.0, 20.0, 50.0, 100.0)]
    assert found == pytest.approx([0.149, 0.195, 0.222, 0.239, 0.244], abs=6e-4)
    assert theory.variance(theory.weight_two, 8, 20.0) == pytest.approx(0.0199, abs=1e-4)
    assert theory.variance(theory.weight_two, 8, 20.0, positive=True) == pytest.approx(0.00359, abs=2e-5)
    right = [theory.share_above(claims.RIGHT, *place) for place in ((8, 20.0), (8, 100.0), (512, 20.0))]
    assert right == pytest.approx([0.931, 0.988, 0.844], abs=6e-4)
    errors = [theory.one_head(8, *place, 16).weights for place in ((3.0, 1e-2), (5.0, 1e-4), (7.25, 1e-6))]
    assert errors == pytest.approx([0.209, 0.038, 0.0054], rel=0.01)


@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_moments_are_expectations_of_a_softmax(sigma):
    """Without noise by hand; with noise against a sum over a grid of the scores of three words."""
    m = theory.moments(4, 2, 2.0, 0.0)
    lead = math.exp(2) / (2 * math.exp(2) + 2)
    assert (m.a, m.aa, m.ab) == pytest.approx((lead, lead**2, lead**2))
    assert (m.o, m.ao, m.o2, m.oo) == pytest.approx(
        (0.5 - lead, lead * (0.5 - lead), (0.5 - lead) ** 2, (0.5 - lead) ** 2)
    )
    z_Z, p_Z = np.polynomial.hermite_e.hermegauss(20)
    p_Z = p_Z / p_Z.sum()
    s_3Z = np.stack(np.meshgrid(2 + sigma * z_Z, sigma * z_Z, sigma * z_Z, indexing="ij"))
    p_ZZZ = p_Z[:, None, None] * p_Z[None, :, None] * p_Z[None, None, :]
    w_3ZZZ = np.exp(s_3Z) / np.exp(s_3Z).sum(axis=0)
    m = theory.moments(3, 1, 2.0, sigma)
    expected = [(p_ZZZ * w_3ZZZ[0] ** 2).sum(), (p_ZZZ * w_3ZZZ[1] * w_3ZZZ[2]).sum()]
    assert [m.aa, m.oo] == pytest.approx(expected)


def test_heads_weights_by_hand():
    products_HN = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    (one_N,) = claims.weights_of_heads(products_HN, ONE_HEAD, 2.0)
    e = math.exp(2)
    np.testing.assert_allclose(one_N, np.array([e, e, 1]) / (2 * e + 1), rtol=1e-6)
    two_HN = claims.weights_of_heads(products_HN, TWO_HEADS, 2.0)
    np.testing.assert_allclose(two_HN, np.array([[e, 1, 1], [1, e, 1]]) / (e + 2), rtol=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("topic", [claims.noisy_average, claims.scaled_key, claims.two_heads])
def test_simulations_agree_with_quadrature(topic, seed):
    found = topic(Settings(seed=seed, **SMALL))
    compared = [row for row in found.figures if row.standard_error]
    assert len(compared) >= 5
    for row in compared:
        # Few of 500 draws have a small eps, on which variances at a large beta depend.
        if row.beta is None or row.beta <= 20:
            assert abs(row.value - row.theory) < 4 * row.standard_error, row


def test_a_seed_decides_the_draws():
    def figures(seed):
        claims.steadiness.cache_clear()
        return claims.scaled_key(Settings(draws=250, sizes=(8,), seed=seed)).figures

    first, again, other = map(figures, (5, 5, 6))
    assert first == again
    for row, drawn in zip(first, other):
        if row.quantity == "weight_variance":
            assert 0.01 * row.standard_error < abs(row.value - drawn.value) < 6 * row.standard_error


def test_whole_keys_and_their_products_alone_have_the_same_law():
    """The products of k_a with mu_a and mu_b, and of another key with mu_a: means and products agree."""
    n, d, alpha = 4, 16, 0.09

    def draw(key, frame_ND):
        eps_key, key = jax.random.split(key)
        eps = 1 + 0.5 * jax.random.normal(eps_key)
        noise = draws.noise(key, n, d) if frame_ND is not None else jax.random.normal(key, (2, n))
        products_HN = draws.products(noise, alpha, eps, frame_ND)
        return products_HN[0, 0], products_HN[1, 0], products_HN[0, 2], products_HN[1, 1]

    frame_ND = draws.frame(n, d, 3)
    np.testing.assert_allclose(frame_ND @ frame_ND.T, np.eye(n), atol=1e-12)
    whole, alone = (
        np.stack(draws.simulate(partial(draw, frame_ND=each), 2000, 0, f"test {each is None}"))
        for each in (frame_ND, None)
    )
    for first in range(4):
        for second in [*range(first, 4), None]:
            ours, theirs = (mean(x[first] * (1 if second is None else x[second])) for x in (whole, alone))
            error = math.hypot(ours.standard_error, theirs.standard_error)
            assert abs(ours.value - theirs.value) < 4 * error, (first, second)
    assert whole[2].std() == pytest.approx(0.3, rel=0.1)


def test_copying_and_its_bound():
    found = claims.copying(Settings(draws=250, sizes=(8,)))
    assert figure(found, "margin_99", n=8).value == pytest.approx(math.log(693))
    assert all(row.value < 1e-15 for row in found.figures if row.quantity == "bound_violation")
    ((lost_S, lead_S),) = draws.simulate(partial(claims.lost_by_lead, sizes=(2,)), 250, 0, "test")
    np.testing.assert_allclose(lost_S, 1 / (1 + np.exp(lead_S)), atol=1e-15)  # two words reach the bound


def test_average_leaks_as_its_formula_says():
    found = claims.average(Settings(sizes=(4, 8)))
    for row in found.figures:
        if row.theory is not None and row.quantity not in ("leak_float32", "leak_bfloat16"):
            assert row.value == pytest.approx(row.theory, rel=1e-9), row
    assert figure(found, "crossing_n").value == 8
    assert figure(found, "beta_1_percent", n=8).value == pytest.approx(math.log(297))
    assert figure(found, "leak_minus_others_at_length_20", n=64).value == pytest.approx(0.17, abs=0.005)
    assert claims.leak_in("float32", 8, 64, 200.0, 0) == 0 < claims.leak_in("float64", 8, 64, 200.0, 0)
    leaks = [claims.leak_in(dtype, 8, 64, 5.0, 0) for dtype in ("float32", "bfloat16")]
    assert leaks == [
        pytest.approx(theory.leak(8, 0, 5), rel=1e-5),
        pytest.approx(theory.leak(8, 0, 5), rel=0.1),
    ]


@pytest.mark.parametrize("beta", [1.0, 2.0, 4.0])
def test_words_that_ask_for_themselves(beta):
    found = word_claims.same_vectors(Settings())
    e = math.exp(beta**2)
    assert figure(found, "self_weight", beta=beta).value == pytest.approx(e / (e + 2))
    if beta == 4:
        assert figure(found, "distance_to_u_b_plus_u_d", beta=beta).value == pytest.approx(3**0.5, rel=1e-6)
    for row in found.figures:
        assert row.value == pytest.approx(row.theory)


def test_matrices_answer_by_formula_and_through_our_modules():
    found = word_claims.key_query_value(Settings())
    e = math.exp(4)
    assert figure(found, "residual_c2", beta=2.0).value == pytest.approx(math.sqrt(2) / (e + 2))
    assert figure(found, "residual_c1", beta=2.0).value == pytest.approx(math.sqrt(5) / (e + 2))
    assert figure(found, "residual_memory_attention").value < 1e-6
    # Only in the order 3, 1, 2 can word 1 see word 3, and word 2 word 1.
    for order in ("123", "132", "213", "231", "321"):
        assert figure(found, f"residual_causal_attention_{order}").value > 0.5
    assert figure(found, "residual_causal_attention_312").value < 1e-6


@pytest.mark.parametrize("beta", [0.5, 1.0])  # so small that no weight is near 0 or 1
def test_our_modules_compute_the_formula(beta):
    u_4D, x_ND = word_claims.given_vectors(beta, 0)
    c_ND, w_NN = word_claims.attend(*(x_ND @ matrix.T for matrix in word_claims.matrices(u_4D)))
    _, module_w_NN, parts_N4 = word_claims.through_module(MemoryAttention, beta, (2, 1, 3), 0)
    np.testing.assert_allclose(module_w_NN, w_NN, atol=1e-6)
    np.testing.assert_allclose(parts_N4, c_ND @ u_4D.T / beta**2, atol=1e-6)
    _, causal_w_NN, _ = word_claims.through_module(CausalAttention, beta, (2, 1, 3), 0)
    assert causal_w_NN[1, 1] == 1 and causal_w_NN[0, 2] == 0  # word 2 is first, and word 3 is last
