import json

import numpy as np
import pytest

from kgpt_jax.exercises import figures
from kgpt_jax.exercises.claims_page import TOPICS, chosen, json_line, table
from kgpt_jax.exercises.figures import Findings, Settings

FIELDS = "topic quantity n d beta alpha value standard_error theory draws seed".split()


@pytest.mark.parametrize(
    "estimate, truth",
    [
        (lambda x_S, y_S: figures.mean(x_S), 1.0),
        (lambda x_S, y_S: figures.rms(x_S**2), 2**0.5),
        (lambda x_S, y_S: figures.variance(x_S), 1.0),
        (figures.ratio_of_variances, 0.2),
        (lambda x_S, y_S: figures.median(x_S), 1.0),
    ],
)
def test_a_standard_error_is_the_spread_over_repetitions(estimate, truth):
    """x is N(1, 1), and y is 2 x plus another unit of noise."""
    rng, found = np.random.default_rng(0), []
    for _ in range(300):
        x_S = 1 + rng.standard_normal(400)
        found.append(estimate(x_S, 2 * x_S + rng.standard_normal(400)))
    values, errors = np.array(found).T
    assert values.mean() == pytest.approx(truth, abs=4 * values.std() / 300**0.5 + 0.005)
    assert errors.mean() == pytest.approx(values.std(), rel=0.15)


def test_lowest_finds_the_least_mean():
    y_SB = np.array([[3.0, 1.0, 2.0]] * 30 + [[3.0, 2.0, 1.0]] * 10)
    found = figures.lowest(np.array([10.0, 20.0, 30.0]), y_SB)
    # 15 of the 20 blocks of two draws are lowest at 20, and 5 at 30.
    assert found.value == 20 and found.standard_error == pytest.approx(10 * (0.25 * 0.75 / 19) ** 0.5)


def test_a_line_of_json_has_every_field():
    found = Findings("average", Settings(seed=7))
    found.add("leak", np.float32(0.25), n=8, beta=np.float64(5))
    found.add("leak", figures.Estimate(1 / 3, 0.01), 0.3, n=8, d=64, alpha=1e-6, draws=100)
    first, second = (json.loads(json_line(figure)) for figure in found.figures)
    assert list(first) == list(second) == FIELDS
    assert list(first.values()) == ["average", "leak", 8, None, 5, None, 0.25, None, None, None, 7]
    assert second["value"] == 0.333333333333 and second["standard_error"] == 0.01


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_figure_is_a_number(number):
    with pytest.raises(ValueError, match="is not finite"):
        Findings("average", Settings()).add("leak", number)


def test_a_long_table_shows_eight_words_only():
    found = Findings("average", Settings())
    for n in (4, 8, 64):
        for beta in range(1, 11):
            found.add("leak", figures.Estimate(0.25, 0.0123), 0.5, n=n, beta=beta)
    lines = table(found).splitlines()
    assert len(lines) == 12 and lines[-1] == "and 20 figures of other n"
    assert lines[0].split() == ["quantity", "n", "d", "beta", "alpha", "value", "standard", "error", "theory"]
    assert lines[1].split() == ["leak", "8", "1", "0.25", "±", "0.012", "0.5"]


def test_names_of_questions_choose_their_topics():
    assert chosen(["perceiver_cost", "two_heads_scaled_key", "average", "costs"]) == [
        "average",
        "two_heads",
        "costs",
    ]
    assert chosen(["rope_relative", "rope_complex"]) == ["rope"]
    names = "copying average noisy_average scaled_key two_heads same_vectors key_query_value permutation"
    assert list(TOPICS) == f"{names} positions rope costs synthesizer scaling".split()
