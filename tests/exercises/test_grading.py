import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kgpt_jax.config import ModelConfig, UserError
from kgpt_jax.exercises import check, judge, judge_attention, judge_places
from kgpt_jax.exercises.grading import Graded, Report, grade, read_answers, table, template
from kgpt_jax.exercises.questions import TOPICS, YEARS
from kgpt_jax.exercises.verdict import right
from kgpt_jax.model.costs import multiplications, paper_flops

V = "(u_b @ u_b.T - u_c @ u_c.T) / beta**2"
Q = "(u_d @ u_a.T + u_c @ u_d.T) / beta**2"
WORDS = {"c_2": "u_a", "c_2_plus_u_d": "u_a + u_d", "c_2_plus_u_c": "u_a + u_c", "can_be_u_b": False}
BLOCK = "(x_1*cos(t*theta) - x_2*sin(t*theta)) + i*(x_1*sin(t*theta) + x_2*cos(t*theta))"
WRITTEN_OUT = "x_1*cos(t*theta) - x_2*sin(t*theta) + i*x_1*sin(t*theta) + i*x_2*cos(t*theta)"
REAL = "re(z)*cos(t*theta) - re(-i*z)*sin(t*theta) + i*re(z)*sin(t*theta) + i*re(-i*z)*cos(t*theta)"
BOTH = "dot(rope(z_1, t_1), rope(z_2, t_2))"
BETWEEN = "re(conj(z_1 * exp(i*(t_1 - t_2)*theta)) * z_2)"
DIFFERENCE = "dot(rope(z_1, t_1 - t_2), rope(z_2, 0))"
LAYER = "relu({} @ W_1 + ones @ b_1) @ W_2 + ones @ b_2"
RIGHT = [
    ("copying", {"condition": "s_j - max(s_others)"}),
    ("copying", {"condition": ["s_j", "-max(s_others)"]}),
    ("copying", {"condition": "dot(k_j, q) - max(s_others)"}),
    ("copying", {"condition": "exp(s_j) / sum(exp(s_others))"}),
    ("copying", {"condition": "exp(s_j - max(s_others))"}),
    ("extract", {"M": "A @ A.T"}),
    ("extract", {"M": "I - B @ B.T"}),
    ("average", {"q": "beta * (k_a + k_b)"}),
    ("average", {"large": "L", "q": "3 * L * (k_a + k_b) + total(k)"}),
    ("average", {"large": "lambda", "q": "λ * (k_a + k_b) - λ * others(k)"}),
    ("average", {"large": ["L", "M"], "q": "(L + M) * (k_a + k_b)"}),
    ("average", {"q": "beta**4 * (k_a + k_b)"}),
    ("average", {"large": "α", "q": "alpha * (k_a + k_b)"}),
    ("average", {"large": "\u00b5", "q": "\u00b5 * (k_a + k_b)"}),  # the micro sign
    ("noisy_average", {"q": "β * (μ_a + μ_b)"}),
    ("noisy_average", {"q": "(mu_a + mu_b) / sqrt(sqrt(alpha))"}),
    ("scaled_key", {"c": "sigmoid(beta * (eps - 1)) * v_a + sigmoid(beta * (1 - eps)) * v_b"}),
    ("scaled_key", {"c": "(exp(beta*eps) * v_a + exp(beta) * v_b) / (exp(beta*eps) + exp(beta))"}),
    ("two_heads", {"q_1": "beta * mu_a", "q_2": "beta * mu_b"}),
    ("two_heads_scaled_key", {"c": "(v_a + v_b) / 2"}),
    ("two_heads_scaled_key", {"c": "sigmoid(beta * eps - log(n - 1)) * v_a / 2 + v_b / 2"}),
    ("same_vectors", WORDS),
    ("same_vectors", WORDS | {"c_2": "x_2", "can_be_u_b": "no"}),
    ("same_vectors", WORDS | {"c_2": "u_a + sigmoid(-beta**2) * x_1"}),
    ("key_query_value", {"V": V, "K": "I", "Q": Q}),
    (
        "key_query_value",
        {
            "V": {"x_1": "u_b", "x_2": "0", "x_3": "u_b - u_c"},
            "K": "I",
            "Q": {"x_1": "u_c", "x_2": "u_d", "x_3": 0},
        },
    ),
    ("permutation", {"steps": ["Z(P @ X)", LAYER.format("H(P @ X)"), LAYER.format("P @ H"), "P @ Z"]}),
    ("permutation", {"steps": ["P @ Z(X)", LAYER.format("P @ H(X)"), "Z(X_perm)"]}),
    (
        "permutation",
        {
            "steps": [
                "Z(X_perm)",
                LAYER.format("H(X_perm)"),
                "P @ relu(H @ W_1 + ones @ b_1) @ W_2 + ones @ b_2",
            ]
        },
    ),
    ("positions", {"breaks_the_symmetry": True, "can_coincide": False}),
    ("perceiver_cost", {"vanilla": "L * l**2", "perceiver": "L * m**2 + l * m"}),
    ("perceiver_cost", {"vanilla": "L*l**2*d", "perceiver": "(L - 2) * m**2 * h * (d / h) + 2*l*m*d"}),
    (
        "rope_complex",
        {"steps": [BLOCK, "(x_1 + i*x_2) * (cos(t*theta) + i*sin(t*theta))", "z * exp(i*t*theta)"]},
    ),
    ("rope_complex", {"steps": ["rope(z, t)", "z * exp(i*t*theta)"]}),
    ("rope_complex", {"steps": [WRITTEN_OUT, "z / exp(-i*t*theta)"]}),
    ("rope_complex", {"steps": [REAL, "z * exp(i*t*theta)"]}),
    ("rope_complex", {"steps": ["R @ x", "(re(z) + i*re(-i*z)) * cos(t*theta) + i*z*sin(t*theta)"]}),
    ("rope_relative", {"steps": [BOTH, BETWEEN, DIFFERENCE]}),
    ("rope_relative", {"steps": [BOTH, BETWEEN, "dot(rope(z_1, 0), rope(z_2, t_2 - t_1))"]}),
    ("rope_relative", {"steps": [BOTH, BETWEEN, "re(conj(z_1 * exp(i*(t_1*theta - t_2*theta))) * z_2)"]}),
    ("rope_complex", {"steps": ["R @ x", "cos(t*theta) * z + i * sin(t*theta) * z"]}),
    ("baseline", {"correct": 25, "total": 500, "percent": 5.0}),
    ("baseline", {"correct": np.int64(25), "total": np.int64(500), "percent": np.float64(5.0)}),
    ("same_vectors", WORDS | {"can_be_u_b": np.False_}),
    ("average", {"large": ("L", "M"), "q": "(L + M) * (k_a + k_b)"}),
    ("rope_relative", {"steps": (BOTH, BETWEEN, DIFFERENCE)}),
]
WRONG = [
    ("copying", {"condition": "s_j"}, "the weight of v_j is 0.000"),
    ("copying", {"condition": "norm(q)"}, "the weight of v_j is"),
    ("copying", {"condition": "s_j - sum(s_others) / (n - 1)"}, "the weight of v_j is"),
    ("copying", {"condition": "s_j / max(s_others)"}, "the weight of v_j is"),
    ("copying", {"condition": "s_j - min(s_others)"}, "the weight of v_j is"),
    ("copying", {"condition": ["norm(k_j) * norm(q) - max(s_others)", "s_j"]}, "the weight of v_j is"),
    ("copying", {"condition": "(s_j - max(s_others)) / norm(q)"}, "the weight of v_j is"),
    ("copying", {"condition": "1"}, "never large together"),
    ("copying", {"condition": "log(-1)"}, "not finite"),
    ("extract", {"M": "A.T"}, "this M gives the 1 coordinates of v_a"),
    ("extract", {"M": "A @ A.T / 0"}, "M is not finite (d 4"),
    ("extract", {"M": "I"}, "M (v_a + v_b) is not v_a (d 4, m 1, p 2, seed 0)"),
    ("average", {"q": "k_a + k_b"}, "c = 0.422 v_a + 0.422 v_b + 0.155 of the others"),
    (
        "average",
        {"q": "beta * k_a"},
        "c = 1.000 v_a, looks at 1.000 0.000 0.000 (n 3, d 4, beta 10000, seed 0)",
    ),
    ("average", {"q": "log(beta) * (k_a + k_b)"}, "of the others"),  # right for few keys only
    ("average", {"large": ["L", "M"], "q": "L * k_a + M * k_b"}, "(n 3, d 4, L 30000, M 10000, seed 0)"),
    (
        "average",
        {"q": "exp(beta) * (k_a + k_b)"},
        "not finite: exp of a large number overflows; divide by it",
    ),
    ("noisy_average", {"q": "(mu_a + mu_b) / sqrt(alpha)"}, "c = "),
    ("scaled_key", {"c": "(v_a + v_b) / 2"}, "of the draws are within 0.001"),
    ("scaled_key", {"c": "v_a"}, "of the draws are within 0.001"),
    ("two_heads_scaled_key", {"c": "beta / 1000 * (v_a + v_b) / 2"}, "of the draws are within 0.05"),
    ("two_heads", {"q_1": "beta * (mu_a + mu_b)", "q_2": "beta * (mu_a + mu_b)"}, "q_1 and q_2 are equal"),
    ("two_heads", {"q_1": "beta * mu_a", "q_2": "beta * mu_a"}, "c = 1.000 v_a"),
    ("two_heads_scaled_key", {"c": "v_a"}, "of the draws are within 0.05"),
    ("two_heads_scaled_key", {"c": "eps * v_a / 2 + v_b / 2"}, "of the draws are within 0.05"),
    ("two_heads_scaled_key", {"c": "exp(beta * eps) * v_a / exp(beta * eps)"}, "write sigmoid(x); "),
    ("same_vectors", WORDS | {"c_2_plus_u_d": "u_b"}, "c_2_plus_u_d is 1.732 beta away"),
    ("same_vectors", WORDS | {"c_2": "u_a / 0"}, "c_2 is not finite: exp of a large number overflows"),
    ("same_vectors", WORDS | {"can_be_u_b": True}, "can_be_u_b: the opposite holds"),
    (
        "key_query_value",
        {"V": V, "K": "I", "Q": "0 * I"},
        "looks at 0.333 0.333 0.333 (d 4, beta 64, seed 0)",
    ),
    ("key_query_value", {"V": V, "K": "exp(10*beta) * I", "Q": "exp(10*beta) * I"}, "not finite"),
    ("key_query_value", {"V": "u_b @ u_b.T / beta**2", "K": "I", "Q": Q}, "c_1 = 1.000 u_b"),
    ("permutation", {"steps": ["Z(P @ X)", "P.T @ Z(X)"]}, "step 2 differs from step 1 (T 3, d 4, seed 0)"),
    ("permutation", {"steps": ["Z(P @ X)", "Z(X_perm)", "P @ Z(X)"]}, "write at least one step without Z"),
    ("permutation", {"steps": ["P @ Z", "P @ Z(X)"]}, "the first and the last are not Z(P X) and P Z(X)"),
    ("positions", {"breaks_the_symmetry": False, "can_coincide": False}, "the opposite holds for a layer"),
    ("positions", {"breaks_the_symmetry": True, "can_coincide": True}, "give t_1, t_2 and d"),
    (
        "positions",
        {"breaks_the_symmetry": True, "can_coincide": True, "t_1": "", "t_2": "", "d": ""},
        "give t_1, t_2 and d",
    ),
    (
        "positions",
        {"breaks_the_symmetry": True, "can_coincide": True, "t_1": 3, "t_2": 713, "d": 2},
        "the sinusoids of 3 and 713 are 6.03e-05 apart (d 2)",
    ),
    (
        "positions",
        {"breaks_the_symmetry": True, "can_coincide": True, "t_1": 0, "t_2": 207_986, "d": 2},
        "the sinusoids of 0 and 207986 are",
    ),
    ("perceiver_cost", {"vanilla": "L * l**2", "perceiver": "L * m**2"}, "perceiver / counted is"),
    ("perceiver_cost", {"vanilla": "L * l**2", "perceiver": "L * l * m"}, "perceiver / counted is"),
    ("perceiver_cost", {"vanilla": "L * l**2 * d * h", "perceiver": "L*m**2 + l*m"}, "depends on h"),
    ("perceiver_cost", {"vanilla": "-L * l**2", "perceiver": "L*m**2 + l*m"}, "positive"),
    ("perceiver_cost", {"vanilla": "L / 0", "perceiver": "L*m**2 + l*m"}, "not finite"),
    ("rope_complex", {"steps": ["R @ x", "z * exp(-i*t*theta)"]}, "step 2 differs"),
    ("rope_complex", {"steps": ["R.T @ x", "z * exp(-i*t*theta)"]}, "not what the question asks about"),
    ("rope_complex", {"steps": ["rope(z, t)", "R @ x"]}, "one end must rotate"),
    ("rope_complex", {"steps": ["rope(z, t)", "rope(z, t) * exp(0)"]}, "one end must rotate"),
    ("rope_complex", {"steps": ["R @ x", WRITTEN_OUT]}, "one end must rotate"),
    (
        "rope_complex",
        {"steps": ["(cos(t*theta) + i*sin(t*theta)) * z", "z * exp(i*t*theta)"]},
        "one end must rotate",
    ),
    ("rope_complex", {"steps": ["R @ x", BLOCK]}, "one end must rotate"),
    ("rope_complex", {"steps": ["R @ x", REAL]}, "one end must rotate"),
    ("rope_complex", {"steps": ["rope(z, t)", "rope(x, t)"]}, "one end must rotate"),
    ("rope_complex", {"steps": ["exp(i*t*theta) * z", "z * exp(i*t*theta)"]}, "one end must rotate"),
    ("rope_relative", {"steps": [BOTH, DIFFERENCE]}, "write at least one step without rope"),
    ("rope_relative", {"steps": [BOTH, BOTH]}, "one end must have t_1 and t_2"),
    ("rope_relative", {"steps": [f"{DIFFERENCE} + 0*t_1", DIFFERENCE]}, "one end must have t_1 and t_2"),
    ("rope_relative", {"steps": [BOTH, "dot(rope(z_1, t_2 - t_1), rope(z_2, 0))"]}, "step 2 differs"),
    ("rope_relative", {"steps": [f"{BOTH} * t_1 / t_1", DIFFERENCE]}, "not finite"),
    ("baseline", {"correct": 24, "total": 500, "percent": 4.8}, "run the baseline again"),
    ("baseline", {"correct": 25, "total": 500, "percent": 6}, "25 of 500 is not 6 %"),
]
UNREADABLE = [
    ("average", {}, "q is missing: the question has the fields q, large"),
    ("average", {"p": "1"}, "there is no field 'p': the fields are q, large"),
    ("average", {"q": 3}, "q is a number, and must be a column of 4"),
    ("average", {"q": True}, 'q: write the expression in quotes, as in q = "..."'),
    ("average", {"q": "k_a.T"}, "q is a row of 4, and must be a column of 4"),
    ("average", {"q": "k_a^2"}, "q: column 4: write ** for a power"),
    (
        "average",
        {"q": "k_a", "large": 3},
        'large: give names of scalars, as in large = "L" or large = ["L", "M"]',
    ),
    (
        "average",
        {"q": "k_a", "large": "k_a"},
        "large: k_a has a meaning already: choose another name",
    ),
    ("average", {"q": "k_a", "large": "if"}, "large: if has a meaning already: choose another name"),
    ("average", {"q": "k_a", "large": ["a", "a"]}, "large: give at most 3 names, each once"),
    ("average", {"q": "k_a", "large": False}, "large: give names of scalars"),
    ("scaled_key", {"c": "v_a", "large": ["L", "M"]}, "large: give one name"),
    ("average", {"q": 10**5_000}, "q: numbers go up to 1e+12"),
    ("average", {"q": float("nan")}, "q: numbers go up to 1e+12"),
    ("average", None, "give a section with q"),
    ("average", {"q": np.ones(4)}, "q: write the expression in quotes"),
    ("average", {"q": ("", "")}, "q is missing"),
    ("permutation", {"steps": [np.ones(4), np.ones(4)]}, "steps 1: write the expression in quotes"),
    (
        "average",
        {"q": "1e12 * beta * (2 * k_a + k_b)"},
        "the scores are too large for float64",
    ),
    ("noisy_average", {"q": "(mu_a + mu_b) / alpha"}, "the scores are too large for float64"),
    (
        "key_query_value",
        {"V": "@".join(["I"] * 190), "K": "@".join(["I"] * 190), "Q": "I"},
        "V: it has more than 400 parts",
    ),
    (
        "key_query_value",
        {"V": "(I@I@I@I@I@I@I@I)@" * 20 + "I", "K": "(I@I@I@I@I@I@I@I)@" * 20 + "I", "Q": "I"},
        "V: it takes too long to compute",
    ),
    (
        "perceiver_cost",
        {"vanilla": "L*l**2*log(l)", "perceiver": "1"},
        "vanilla: column 8: there is no function",
    ),
    (
        "noisy_average",
        {"q": "beta * k_a"},
        "q: column 8: there is no name k_a: did you mean v_a? this question gives alpha, beta, d, ",
    ),
    ("copying", {"condition": ["s_j"] * 51}, "condition: give a list of 1 to 50 expressions"),
    ("copying", {"condition": [None]}, "condition 1: write the expression in quotes"),
    ("copying", {"condition": "s_others"}, "condition 1 is a column of 2, and must be a number"),
    ("extract", {"M": "A"}, "M is a column of 4, and must be a 4 x 4 matrix"),
    ("same_vectors", WORDS | {"can_be_u_b": "perhaps"}, "can_be_u_b: write true or false"),
    ("key_query_value", {"V": "2", "K": "I", "Q": "I"}, "V is a number, and must be a 4 x 4 matrix"),
    (
        "key_query_value",
        {"V": {"x_1": None, "x_2": "0", "x_3": "0"}, "K": "I", "Q": "I"},
        "V.x_1: write the expression in quotes",
    ),
    (
        "key_query_value",
        {"V": {1: "0", "x_2": "0", "x_3": "0"}, "K": "I", "Q": "I"},
        "V: give a matrix, or the images of x_1, x_2 and x_3",
    ),
    ("permutation", {"steps": ["Z(X)"]}, "steps: give a list of 2 to 50 expressions"),
    ("permutation", {"steps": ["Z(W_Q)", "Z"]}, "steps 1: column 1: Z needs 3 words of 4 channels"),
    (
        "positions",
        {"breaks_the_symmetry": True, "can_coincide": True, "t_1": 1, "t_2": 2, "d": 3},
        "d: give an even number up to 10,000",
    ),
    ("baseline", {"correct": 2.5, "total": 500, "percent": 5}, "correct: write a whole number of at least 0"),
]


@pytest.mark.parametrize("topic, fields", RIGHT)
def test_right(topic, fields):
    verdict = check(topic, fields)
    assert verdict.right and verdict.counterexample is None, verdict


@pytest.mark.parametrize("topic, fields, why", WRONG)
def test_wrong(topic, fields, why):
    verdict = check(topic, fields)
    assert verdict.verdict == "wrong" and why in verdict.reason, verdict


@pytest.mark.parametrize("topic, fields, why", UNREADABLE)
def test_unreadable(topic, fields, why):
    verdict = check(topic, fields)
    assert verdict.verdict == "unreadable" and verdict.reason.startswith(why), verdict


def test_verdicts_are_the_same_for_all_seeds_and_reports_for_one():
    for number, (topic, fields, *_) in enumerate((RIGHT + WRONG)[::2]):
        verdicts = [check(topic, fields, seed=seed) for seed in (0, 1 + number % 5)]
        assert len({verdict.verdict for verdict in verdicts}) == 1, (topic, fields)
        if number % 5 == 0:
            assert str(check(topic, fields, seed=0)) == str(verdicts[0])


@pytest.mark.parametrize(
    "condition, remark",
    [
        ("s_j - max(s_others)", "sufficient and necessary"),
        ("(s_j - max(s_others)) / 1000", "sufficient and necessary"),
        ("s_j - log(sum(exp(s_others)))", "sufficient"),
        ("s_j - norm(s_others)", "sufficient, but v_j is copied in other cases too"),
        (["s_j", "-max(s_others)"], "sufficient, but v_j is copied in other cases too"),
        ("sqrt(s_j - max(s_others))", "sufficient"),
        ("1000 + 0 * sqrt(s_j - max(s_others) - 20)", "sufficient"),
    ],
)
def test_a_condition_is_called_necessary_only_if_it_is_finite_in_all_draws(condition, remark):
    verdict = check("copying", {"condition": condition})
    assert verdict.right and verdict.reason == remark


def test_an_answer_to_the_older_question_may_have_equal_queries():
    equal = {"q_1": "beta * (mu_a + mu_b)", "q_2": "beta * (mu_a + mu_b)"}
    assert check("two_heads", equal, year=2022).reason.endswith("variance is 1.0 times as large")
    assert check("two_heads", equal, year=2023).verdict == "wrong"
    near = {"q_1": "beta * (2*mu_a + mu_b)", "q_2": "beta * (mu_a + 2*mu_b)"}
    assert "hardly steadier" in check("two_heads", near, year=2024).reason


def test_the_least_large_scalar_is_named():
    verdict = check("average", {"large": "L", "q": "L * (k_a + k_b)"})
    # At 10, 510 other keys take 510 / (2 e^10 + 510) = 1.2 % of the weight.
    assert verdict.holds_from == "L 20"
    assert verdict.residual == pytest.approx(510 / (2 * np.exp(20)), rel=0.1)


@settings(max_examples=15, deadline=None)
@given(
    st.floats(0.5, 50),
    st.floats(-3, 3),
    st.sampled_from(["L", "M_1", "gamma"]),
    st.sampled_from([("k_a + k_b", True), ("k_a", False), ("k_a - k_b", False), ("2 * k_a + k_b", False)]),
)
def test_scale_name_and_a_sum_of_all_keys_do_not_matter(factor, all_keys, large, answer):
    direction, is_right = answer
    q = f"{factor!r} * {large} * ({direction}) + {all_keys!r} * total(k)"
    assert check("average", {"large": large, "q": q}).right is is_right


@pytest.mark.parametrize(
    "room, name, weaker, fields",
    [
        (judge_attention, "SIZES", ((3, 4), (8, 8)), {"q": "log(beta) * (k_a + k_b)"}),
        (judge_attention, "SIZES", ((2, 4), (2, 64)), {"q": "k_a + k_b"}),
        (judge, "SWEEP", (20.0,), {"q": "20 * (k_a + k_b) + beta * k_a / 1e6"}),
        (judge, "one_tripled", lambda large, value: [], {"large": ["L", "M"], "q": "L * k_a + M * k_b"}),
    ],
)
def test_each_safeguard_is_needed(room, name, weaker, fields, monkeypatch):
    assert check("average", fields).verdict == "wrong"
    monkeypatch.setattr(room, name, weaker)
    assert check("average", fields).right


def test_swapping_two_words_only_would_let_a_wrong_step_pass(monkeypatch):
    steps = ["Z(P @ X)", LAYER.format("P.T @ H"), "P @ Z(X)"]
    assert check("permutation", {"steps": steps}).verdict == "wrong"
    drawn = judge_places.drawn_layer

    def swapping(rng, T, d):
        given, layer = drawn(rng, T, d)
        given["P"] = np.eye(T)[[1, 0, *range(2, T)]]
        return given, layer

    monkeypatch.setattr(judge_places, "drawn_layer", swapping)
    assert check("permutation", {"steps": steps}).right


def test_position_0_is_needed(monkeypatch):
    steps = {"steps": [f"{BOTH} * t_1 / t_1", BETWEEN, DIFFERENCE]}
    assert check("rope_relative", steps).verdict == "wrong"
    drawn = judge_places.drawn_points
    monkeypatch.setattr(
        judge_places,
        "drawn_points",
        lambda answer: drawn(answer) | {"t_1": np.arange(1.0, 13)[:, None, None]},
    )
    assert check("rope_relative", steps).right


def test_cost_is_counted_as_the_package_counts_it():
    sizes = {"T": 127, "C": 256, "L": 4, "L-1": 3, "L-2": 2, "M": 64, "V": 256}
    for variant in ("vanilla", "perceiver"):
        cfg = ModelConfig(variant=variant, vocab_size=256)
        assert 2 * multiplications(cfg, sizes) == paper_flops(cfg, 127)


def test_a_file_is_graded(tmp_path):
    path = tmp_path / "mine.toml"
    text = "\ufeffyear = 2021\r\n[average]\r\nlarge = 'L'\r\nq = 'L * (k_a + k_b)'\r\n[copying]\r\n"
    path.write_text(f"{text}condition = ''\n[extract]\nM = 'A.T'\n[kopying]\n", "utf-8", newline="")
    report = grade(read_answers(path))
    lists = "--mode=check --template=YEAR lists the topics"
    row = "{:<22}{:<8}{:<12}{:<10}{:<14}{}".format
    assert report.text.splitlines() == [
        "topic                 number  verdict     residual  from",
        "average               1(b)    right       5.3e-07   L 20",
        row("extract", "", "wrong", "1.0e+00", "", report.graded[1].verdict.reason),
        row("kopying", "", "unreadable", "", "", f"there is no topic kopying: did you mean copying? {lists}"),
        "1 right, 1 wrong, 1 unreadable; 4 of 21 points",
        "no points, as the handout asks for no formula here: extract",
    ]
    assert report.gradescope()["tests"][0] == {
        "name": "average",
        "number": "1(b)",
        "score": 4,
        "max_score": 4,
        "status": "passed",
        "output": "right",
        "extra_data": {
            "question": "a query with c near the mean of v_a and v_b",
            "verdict": "right",
            "residual": 5.28e-07,
            "reason": "",
            "holds_from": "L 20",
            "counterexample": None,
        },
    }
    json.dumps(report.gradescope(), allow_nan=False)
    wide = Report([Graded("copying", "", "1(a)", 2, right(0, "sufficient", "condition 100000"))], 2)
    assert wide.text.splitlines()[1].endswith("condition 100000 sufficient")
    lines = table({"=mine.toml": report}).splitlines()
    assert lines[1] == "'=mine.toml,4,21,1,1,1,,wrong,right" + "," * 13


@pytest.mark.parametrize(
    "content, why",
    [
        (b"\xe9 = 1", "is not UTF-8 at byte 0: save it as UTF-8"),
        (b"average = [", "is not valid TOML: Invalid value (at end of document)"),
        (
            b"a = " + b"[" * 9_000,
            "is not valid TOML: it is nested too deeply, or has a number of too many digits",
        ),
        (b"#" * 64_001, "is larger than 64 kB: leave out what is not an answer"),
        (b"a." * 30_000 + b"a = 1", "has more than 5,000 dots: leave out what is not an answer"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_line(content, why, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_answers(path)
    assert str(error.value) == f"{path} {why}"


def test_without_a_year_each_question_has_the_points_of_its_latest_year():
    fields = {"average": {"q": "beta * (k_a + k_b)"}, "same_vectors": WORDS, "copying": "s_j"}
    report = grade({"year": 1999} | fields)
    assert (report.score, report.total) == (5, 5)
    assert [each.verdict.reason for each in report.graded if each.verdict.verdict == "unreadable"] == [
        "year is 1999: choose from 2021 to 2026",
        "give a section [copying] with condition",
    ]


HUGE = pytest.param(10**5_000, id="huge")


@pytest.mark.parametrize("year", ["2021", [2021], {}, {"a": 1}, 2021.0, True, HUGE, -1])
def test_a_year_that_is_none_does_not_keep_answers_from_being_graded(year):
    report = grade({"year": year, "average": {"q": "beta * (k_a + k_b)"}, "synthesizer": {"a": "prose"}})
    assert [each.verdict.verdict for each in report.graded] == ["unreadable", "right"]
    assert len(report.text) < 500 and report.gradescope()["extra_data"] == {"unasked": ["synthesizer"]}


@pytest.mark.parametrize("year", YEARS)
def test_template_is_an_unanswered_file_of_all_questions(year, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(template(year), "utf-8")
    answers = read_answers(path)
    assert set(answers) - {"year"} == {name for name, topic in TOPICS.items() if year in topic.asked}
    report = grade(answers)
    assert not report.graded and report.total == {2021: 21, 2022: 20, 2023: 22}.get(year, 18)


def test_a_matrix_of_the_template_is_given_by_its_images_as_the_documentation_shows(tmp_path):
    docs = (Path(__file__).parents[2] / "docs/exercises.md").read_text("utf-8")
    [filled_in] = re.findall(r"```toml\n(.*?)```", docs, re.DOTALL)
    for image in ("u_b", "0", "u_b - u_c"):
        filled_in = filled_in.replace("...", image, 1)
    text = template(2021).replace('K = ""', 'K = "I"').replace('Q = ""', f'Q = "{Q}"')
    path = tmp_path / "mine.toml"
    path.write_text(text.replace('V = ""  # matrix\n', filled_in), "utf-8")
    [graded] = grade(read_answers(path)).graded
    assert graded.topic == "key_query_value" and graded.verdict.right, graded.verdict
