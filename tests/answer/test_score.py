import numpy as np
import pytest
import scipy.stats

from kgpt_jax.answer.score import Score, mean_interval, score, wilson_interval
from kgpt_jax.data.corpus import most_frequent


def test_score_counts_exact_matches():
    result = score(["Rome", "oslo", "Bern ", "Bern"], ["Rome", "Oslo", "Bern", "Bern"])
    assert result == Score(2, 4) and result.accuracy == 0.5
    with pytest.raises(ValueError):
        score(["Rome"], ["Rome", "Oslo"])


@pytest.mark.parametrize(
    "correct, total, low, high",  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_interval_equals_published_values(correct, total, low, high):
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("total", [1, 5, 6, 500])
def test_interval_holds_the_share_and_ends_at_0_and_1(total):
    """And that of the wrong answers is its mirror image."""
    for correct in {0, 1, total - 1, total}:
        low, high = wilson_interval(correct, total)
        assert (low == 0.0) == (correct == 0) and (high == 1.0) == (correct == total)
        assert 0.0 <= low <= correct / total <= high <= 1.0 and high - low < 1.0
        assert wilson_interval(total - correct, total) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize("freedom, t", [(1, 12.706), (9, 2.262), (10, 2.228), (11, 2.201), (30, 2.042)])
def test_interval_of_a_mean_is_students_at_published_values(freedom, t):
    shares = [0.5 + 0.001 * i for i in range(freedom + 1)]
    low, high = mean_interval(shares)
    assert (low + high) / 2 == pytest.approx(np.mean(shares))
    assert (high - low) / 2 / scipy.stats.sem(shares) == pytest.approx(t, abs=5e-4)


def test_most_frequent_answer():
    assert most_frequent(["Rome", "Oslo", "Rome", "Bern", "Oslo"]) == "Oslo"
