"""The list of all questions: where each is asked, what it gives, and which judge judges the answers.

To add a question, write its judge, a function `(answer) -> Verdict`, and an entry here.
"""

from kgpt_jax.exercises import judge_attention, judge_places
from kgpt_jax.exercises.answer import Topic
from kgpt_jax.exercises.expression import Language


def _asked(*years: tuple[range | int, str, float]) -> dict[int, tuple[str, float]]:
    """Returns number and points by year."""
    return {
        year: (number, points)
        for span, number, points in years
        for year in (span if isinstance(span, range) else (span,))
    }


EARLY, LATE, NEW = range(2021, 2022), range(2022, 2024), range(2024, 2027)
YEARS = range(2021, 2027)
NEWEST = YEARS[-1]
VECTORS = ("norm", "outer", "dot", "exp", "log", "sqrt", "sigmoid")
SCALED = Language(("v_a", "v_b", "eps", "n", "d"), ("v",), ("exp", "log", "sigmoid", "sqrt"))
WORDS = ("u_a", "u_b", "u_c", "u_d", "x_1", "x_2", "x_3", "beta", "d")
LAYER = ("X P X_perm W_Q W_K W_V W_1 W_2 b_1 b_2 ones I Z H Q K V T d").split()

TOPICS: dict[str, Topic] = {
    "copying": Topic(
        "which numbers must be large for c to be near v_j",
        _asked((EARLY, "1(a)", 2), (LATE, "1(a)", 5), (NEW, "1(a)", 3)),
        {"condition": "numbers"},
        Language(
            ("s_j", "s_others", "k_j", "q", "n"),
            (),
            ("max", "min", "sum", "exp", "log", "norm", "dot", "sqrt"),
        ),
        judge_attention.copying,
    ),
    "extract": Topic(
        "a matrix M with M (v_a + v_b) = v_a",
        _asked((LATE, "1(b)i", 3)),
        {"M": "matrix"},
        Language(("A", "B", "I", "d", "m", "p")),
        judge_attention.extract,
    ),
    "average": Topic(
        "a query with c near the mean of v_a and v_b",
        _asked((EARLY, "1(b)", 4), (LATE, "1(b)ii", 4), (NEW, "1(b)", 2)),
        {"q": "column"},
        Language(("k_a", "k_b", "v_a", "v_b", "n", "d"), ("k", "v"), VECTORS),
        judge_attention.average,
        large=3,
    ),
    "noisy_average": Topic(
        "a query with c near that mean if keys have a little noise",
        _asked((YEARS, "1(c)i", 2)),
        {"q": "column"},
        Language(("mu_a", "mu_b", "v_a", "v_b", "alpha", "n", "d"), ("mu", "v"), VECTORS),
        judge_attention.noisy_average,
        large=3,
    ),
    "scaled_key": Topic(
        "c for the query of 1(c)i when k_a = eps mu_a, and beta is the large scalar in it",
        _asked((YEARS, "1(c)ii", 3)),
        {"c": "column"},
        SCALED,
        judge_attention.scaled_key,
        large=1,
    ),
    "two_heads": Topic(
        "two queries whose mean output is near the mean of v_a and v_b",
        _asked((YEARS, "1(d)i", 1)),
        {"q_1": "column", "q_2": "column"},
        Language(("mu_a", "mu_b", "v_a", "v_b", "alpha", "n", "d"), ("mu", "v"), VECTORS),
        judge_attention.two_heads,
        large=3,
    ),
    "two_heads_scaled_key": Topic(
        "c for the queries of 1(d)i when k_a = eps mu_a and eps > 0",
        _asked((YEARS, "1(d)ii", 2)),
        {"c": "column"},
        SCALED,
        judge_attention.two_heads_scaled_key,
        large=1,
    ),
    "same_vectors": Topic(
        "c_2 when queries, keys and values are the words themselves",
        _asked((2021, "1(e)i", 3)),
        {"c_2": "column", "c_2_plus_u_d": "column", "c_2_plus_u_c": "column", "can_be_u_b": "true or false"},
        Language(WORDS, (), VECTORS),
        judge_attention.same_vectors,
    ),
    "key_query_value": Topic(
        "V, K and Q with c_2 near u_b and c_1 near u_b - u_c",
        _asked((2021, "1(e)ii", 4)),
        {"V": "matrix", "K": "matrix", "Q": "matrix"},
        Language((*WORDS, "I"), (), VECTORS),
        judge_attention.key_query_value,
    ),
    "permutation": Topic(
        "the steps from Z(P X) to P Z(X)",
        _asked((NEW, "2(a)i", 3)),
        {"steps": "steps"},
        Language(LAYER, (), ("softmax", "relu", "sqrt"), {name: 1 for name in "ZHQKV"}),
        judge_places.permutation,
    ),
    "positions": Topic(
        "whether sinusoids break the symmetry of 2(a)i, and whether two positions can have equal ones",
        _asked((NEW, "2(b)", 2)),
        {
            "breaks_the_symmetry": "true or false",
            "can_coincide": "true or false",
            "t_1": "number",
            "t_2": "number",
            "d": "number",
        },
        Language(()),
        judge_places.positions,
        optional=("t_1", "t_2", "d"),
    ),
    "perceiver_cost": Topic(
        "the cost of vanilla and of the perceiver, up to a constant factor",
        _asked((2023, "2(g)ii", 2)),
        {"vanilla": "number", "perceiver": "number"},
        Language(("L", "l", "m", "d", "h", "f")),
        judge_places.perceiver_cost,
    ),
    "rope_complex": Topic(
        "the steps from the rotation of x_1, x_2 to a complex product",
        _asked((range(2024, 2026), "3(g)i", 0)),
        {"steps": "steps"},
        Language(
            ("x", "x_1", "x_2", "z", "R", "t", "theta", "i"),
            (),
            ("cos", "sin", "exp", "re", "conj"),
            {"rope": 2},
        ),
        judge_places.rope_complex,
    ),
    "rope_relative": Topic(
        "the steps from both positions to their difference",
        _asked((range(2024, 2026), "3(g)ii", 0)),
        {"steps": "steps"},
        Language(
            ("z_1", "z_2", "t_1", "t_2", "theta", "i"),
            (),
            ("dot", "cos", "sin", "exp", "re", "conj"),
            {"rope": 2},
        ),
        judge_places.rope_relative,
    ),
    "baseline": Topic(
        "how often London is right",
        _asked((range(2021, 2024), "2(d)", 0), (range(2024, 2026), "3(d)", 0)),
        {"correct": "number", "total": "number", "percent": "number"},
        Language(()),
        judge_places.baseline,
    ),
}
