import numpy as np
import pytest
from scipy.stats import binom

from kgpt_jax.answer.guarantee import grid, least_probability, needed, promise
from kgpt_jax.config import UserError


def drawn(rng, n):
    """Draws confidences and whether answers are right: 80 % are, and the confidence is honest."""
    confidence_N = rng.beta(1.6, 0.4, n)
    return confidence_N, rng.random(n) < confidence_N


def broken(thresholds_of, wrong_at_most, draws=300, n=400):
    """Returns how often the threshold's true error is above the promise, and the mean share answered."""
    rng = np.random.default_rng(0)
    truth_N, right_N = drawn(rng, 200_000)
    failures, answered = 0, []
    for _ in range(draws):
        threshold = thresholds_of(rng, *drawn(rng, n))
        chosen = truth_N >= (np.inf if threshold is None else threshold)
        answered.append(chosen.mean())
        failures += bool(chosen.any()) and 1 - right_N[chosen].mean() > wrong_at_most
    return failures / draws, float(np.mean(answered))


@pytest.mark.parametrize("wrong_at_most, least_answered", [(0.1, 0.6), (0.05, 0.35)])
def test_the_promise_is_kept_and_most_questions_are_answered(wrong_at_most, least_answered):
    def by_promise(rng, confidence_N, right_N):
        thresholds = grid(drawn(rng, 200)[0], 400, wrong_at_most, 0.9)
        return promise(confidence_N, right_N, thresholds, wrong_at_most, 0.9).threshold

    failures, answered = broken(by_promise, wrong_at_most)
    assert failures <= 0.1 + 2 * np.sqrt(0.1 * 0.9 / 300)
    assert answered >= least_answered


def test_the_naive_threshold_breaks_it_in_half_of_the_draws():
    """The largest set of answers that has the promised error among the pairs themselves."""

    def naive(rng, confidence_N, right_N):
        order = np.argsort(-confidence_N)
        error_N = np.cumsum(~right_N[order]) / np.arange(1, len(order) + 1)
        good = np.flatnonzero(error_N <= 0.1)
        return confidence_N[order[good[-1]]] if len(good) else None

    assert 0.35 <= broken(naive, 0.1)[0] <= 0.65


def test_the_test_is_the_exact_binomial_tail():
    right = np.arange(60) >= 2  # two wrong answers among the most confident
    confidence = np.linspace(1, 0.5, 60)
    assert binom.cdf(2, 60, 0.1) < 0.1 < binom.cdf(2, 45, 0.1)
    assert promise(confidence, right, [0.5], 0.1, 0.9) == (0.5, 60, 2, 22)
    # At 0.63 there are 45 answers, which is too few, and the search ends there.
    assert promise(confidence, right, [0.63, 0.5], 0.1, 0.9).threshold is None


def test_what_cannot_be_promised_says_how_many_answers_it_takes():
    assert needed(0.02, 0.9) == 114
    assert needed(1e-17, 0.9) == pytest.approx(2.3026e17, rel=1e-4)
    assert promise([0.9] * 100, [True] * 100, [0.5], 0.02, 0.9) == (None, 100, 0, 114)
    assert promise([0.9] * 114, [True] * 114, [0.5], 0.02, 0.9).threshold == 0.5


@pytest.mark.parametrize("right", [True, False])
def test_all_right_all_wrong_ties_and_nothing(right):
    thresholds = grid([0.5] * 10, 100, 0.1, 0.9)
    assert thresholds == [0.5] * 20
    found = promise([0.5] * 100, [right] * 100, thresholds, 0.1, 0.9)
    assert found.threshold == (0.5 if right else None)
    assert promise([], [], thresholds, 0.1, 0.9).threshold is None


def test_thresholds_go_from_strict_to_lenient():
    others = np.linspace(0, 1, 101)
    thresholds = grid(others, 400, 0.1, 0.9)
    assert thresholds == sorted(thresholds, reverse=True) and thresholds[-1] == 0
    assert thresholds[0] == pytest.approx(0.9, abs=0.01)  # a tenth of the pairs
    # 1.5 * 45 of 400 pairs are 16.9 %.
    assert grid(others, 400, 0.05, 0.9)[0] == pytest.approx(0.83, abs=0.01)


def test_a_promise_is_a_share():
    from kgpt_jax.answer.guarantee import check_shares

    with pytest.raises(UserError, match="--surely=1: give a share between 0 and 1"):
        check_shares(wrong_at_most=0.1, surely=1)


def test_sets_hold_the_right_answer_as_often_as_they_say():
    """Three answers have the probabilities p, 0.6 (1 - p), 0.4 (1 - p), and the model knows them exactly."""
    rng = np.random.default_rng(0)

    def pairs(n):
        first_N = rng.beta(3, 1, n)
        p_N3 = np.stack([first_N, 0.6 * (1 - first_N), 0.4 * (1 - first_N)], axis=1)
        right_N = (rng.random(n)[:, None] > p_N3.cumsum(1)).sum(1).clip(max=2)
        return p_N3[np.arange(n), right_N]

    for level in (0.8, 0.9, 0.95):
        held = [np.mean(pairs(200) >= least_probability(pairs(99), level)) for _ in range(400)]
        # The mean over draws of the pairs is at least the level, and at most 1 / 100 more.
        assert level - 3 * np.std(held) / 20 <= np.mean(held) <= level + 0.01 + 3 * np.std(held) / 20


def test_answers_that_the_search_never_found_count_as_missed():
    assert least_probability([0.5] * 89 + [0.0] * 10, 0.9) is None
    assert least_probability([0.5] * 90 + [0.0] * 9, 0.9) == 0.5
    assert least_probability([], 0.5) is None
