import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kgpt_jax.exercises.expression import Budget, Language, Unreadable, parse, shape_name

LANGUAGE = Language(
    names={"u", "v", "A", "L", "lambda", "eps", "i", "k_a"},
    families={"k"},
    functions={"exp", "norm", "outer", "dot", "softmax", "max", "sigmoid", "sqrt"},
    own={"turn": 1},
)
GIVEN = {
    "u": np.array([[3.0], [4.0]]),
    "v": np.array([[1.0], [0.0]]),
    "A": np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
    "L": 10,
    "lambda": 7.0,
    "eps": np.array([1.0, 2.0]).reshape(2, 1, 1),  # two draws
    "i": 1j,
    "k_a": np.array([[1.0], [2.0]]),
    "total(k)": np.array([[5.0], [6.0]]),
    "others(k)": np.array([[4.0], [4.0]]),
    "turn()": lambda x: -x,
}


def value(text):
    return parse(text, LANGUAGE).value(GIVEN)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("2 * u - v / L", [[5.9], [8.0]]),
        ("  u\n+ v", [[4.0], [4.0]]),
        ("u.T @ v", [[3.0]]),
        ("u @ v.T", [[3.0, 0.0], [4.0, 0.0]]),
        ("outer(u, v)", [[3.0, 0.0], [4.0, 0.0]]),
        ("A @ u", [[11.0], [25.0], [39.0]]),
        ("norm(u) * dot(u, v)", [[15.0]]),
        ("-L**2 + +L**-1", [[-99.9]]),
        ("L**0", [[1.0]]),
        ("L**8 * L**8 * L**8", [[1e24]]),
        ("λ + lambda", [[14.0]]),
        ("max(u) - sqrt(4)", [[2.0]]),
        ("total(k) - others(k) - k_a", [[0.0], [0.0]]),
        ("softmax(0 * u)", [[0.5], [0.5]]),
        ("turn(u)", [[-3.0], [-4.0]]),
        ("1_000 * 1e-3", [[1.0]]),
        ("i * i", [[-1.0]]),
        ("sigmoid(-1e9) + sigmoid(1e9)", [[1.0]]),
    ],
)
def test_computes(text, expected):
    np.testing.assert_allclose(value(text)[0], expected, rtol=1e-12)


def test_computes_all_draws_at_once():
    np.testing.assert_array_equal(value("eps * u")[:, :, 0], [[3, 4], [6, 8]])
    np.testing.assert_array_equal(value("epsilon + ε")[:, 0, 0], [2, 4])


@pytest.mark.parametrize(
    "text, why",
    [
        ("u^2", "column 2: write ** for a power"),
        ("  (L) ^ (2)", "column 7: write ** for a power"),
        ("L * (u", "column 5: this is not an expression"),
        (
            "u * v",
            "column 1: * needs a number on one side, and these are a column of 2 and a column of 2: write @",
        ),
        ("L + u", "column 1: this adds a number and a column of 2"),
        ("u / v", "column 1: this divides by a column of 2"),
        ("A @ A", "column 1: @ does not fit a 3 x 2 matrix and a 3 x 2 matrix"),
        ("A**2", "column 1: ** needs a number on its left, and this is a 3 x 2 matrix"),
        ("L**9", "column 4: a power must be a whole number from -8 to 8"),
        ("L**0.5", "column 4: a power must be a whole number from -8 to 8"),
        ("2**2**2", "column 4: a power must be a whole number from -8 to 8"),
        ("1e13 * L", "column 1: numbers go up to 1e+12"),
        ("9" * 400, "column 1: numbers go up to 1e+12"),
        ("1" * 1_990 + "1" * 11, "it has 2,001 characters: give at most 2,000"),
        ("-" * 70 + "L", "it has more than 400 parts, or is nested more than 60 deep"),
        ("+".join(["L"] * 201), "it has more than 400 parts, or is nested more than 60 deep"),
        ("2j", "column 1: only whole and decimal numbers have a meaning here"),
        ("True", "column 1: only whole and decimal numbers have a meaning here"),
        ("'u'", 'column 1: "\'" has no meaning here'),
        ("u # v", "column 3: '#' has no meaning here"),
        ("u\0", r"column 2: '\x00' has no meaning here"),
        ("u, v", "column 1: an answer is one expression, without commas"),
        ("u == v", "column 1: an answer is one expression, without = or <"),
        ("k[1]", "column 1: write an underscore, as in v_a"),
        ("u.real", "column 1: only .T, the transpose, may follow a dot, not .real"),
        ("exp(L, L)", "column 1: exp takes 1 argument"),
        ("exp(x=L)", "column 1: exp takes plain arguments"),
        ("exp(*u)", "column 1: exp takes plain arguments"),
        ("total(u)", "column 1: write total(k)"),
        ("exp", "column 1: exp is a function: write exp(...)"),
        ("L(u)", "column 1: L is no function: write L * (...)"),
        ("k", "column 1: k alone is no vector: write k_a, or total(k)"),
        ("norm(A)", "column 1: norm needs a vector, and this is a 3 x 2 matrix"),
        ("é + w", "column 1: there is no name é: this question gives A, L, eps, i, k_a, lambda, u, v"),
        ("ééé", "column 1: there is no name ééé: this question gives A, L, eps, i, k_a, lambda, u, v"),
        (
            "__import__",
            "column 1: there is no name __import__: this question gives A, L, eps, i, k_a, lambda, u, v",
        ),
        (
            "eval(u)",
            "column 1: there is no function eval: this question gives "
            "dot, exp, max, norm, others, outer, sigmoid, softmax, sqrt, total, turn",
        ),
        ("(lambda: u)()", "column 8: this is not an expression"),
        ("[u for u in v]", "column 1: use + - * / @ **, .T, names, numbers and functions"),
        ("u if v else L", "column 1: use + - * / @ **, .T, names, numbers and functions"),
        ("L % 2", "column 3: use + - * / @ **, .T, names, numbers and functions"),
        ("", "it is empty"),
    ],
)
def test_refuses(text, why):
    with pytest.raises(Unreadable) as error:
        value(text)
    assert str(error.value) == why


def test_infinite_values_are_values():
    assert np.isinf(value("exp(exp(L))")).all()


def test_products_are_limited():
    wide = GIVEN | {"u": np.ones((4_000, 1))}
    for text in ("u @ u.T", "outer(u, u)"):
        with pytest.raises(Unreadable, match="too large"):
            parse(text, LANGUAGE).value(wide)


def test_an_answer_has_a_budget():
    matrix = {"A": np.ones((512, 512))}
    chain = "@".join(["A"] * 8)
    with pytest.raises(Unreadable, match="takes too long to compute"):
        parse(chain, LANGUAGE._replace(budget=Budget(5e8))).value(matrix)
    assert parse(chain, LANGUAGE._replace(budget=Budget(2e9))).value(matrix).shape == (1, 512, 512)


PARTS = "u v.T A L 2 + - * / @ ** ( ) exp( total(k) , ^ . é".split()


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=40), st.lists(st.sampled_from(PARTS), max_size=12).map(" ".join)))
def test_any_text_is_a_value_or_one_line(text):
    try:
        assert shape_name(value(text))
    except Unreadable as error:
        assert len(str(error).splitlines()) == 1
