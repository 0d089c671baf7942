from collections import Counter

import numpy as np
import pytest

from kgpt_jax.config import UserError
from kgpt_jax.data.names import divided, foreign, frame, misspelled, nearest, recombined, relatives

FIRSTS, LASTS = "Al Al Bo Cy Di Ed Flo Gus".split(), "Ax By Co Co Du Em Fy Go".split()
NAMES = [f"{first} {last}" for first, last in zip(FIRSTS, LASTS)]


def rng():
    return np.random.default_rng(0)


def test_a_frame_is_what_the_questions_share():
    where = frame([f"Where was {name} born?" for name in NAMES])
    assert where == ("Where was ", " born?")
    assert where.name("Where was Ed B. Fa born?") == "Ed B. Fa"
    assert where.name("When was Ed Fa born?") is None
    assert where.name("Where was  born?") is None
    assert where.question("Ed Fa") == "Where was Ed Fa born?"


def test_a_frame_may_be_missing_from_a_few_questions():
    questions = [f"Where was {name} born?" for name in NAMES * 2] + ["Who is it?"]
    assert frame(questions) == ("Where was ", " born?")


@pytest.mark.parametrize(
    "questions", [["Where was Al born?"], ["Al?", "Who is Bo?", "Cy is what?"], ["Al", "Bo"]]
)
def test_questions_without_a_frame_are_refused(questions):
    with pytest.raises(UserError, match="do not have the form of one question"):
        frame(questions)


def test_recombined_names_have_the_parts_of_the_names_and_are_new():
    made = recombined(NAMES, {"Al Em"}, rng())
    assert len(made) == len(set(made)) == len(NAMES)
    assert not set(made) & {*NAMES, "Al Em"}
    for part in (0, 1):
        assert Counter(name.split()[part] for name in made) == Counter(name.split()[part] for name in NAMES)


def test_misspelled_names_differ_in_one_letter():
    for name, wrong in zip(NAMES, misspelled(NAMES, set(), rng()), strict=True):
        different = [(a, b) for a, b in zip(name, wrong, strict=True) if a != b]
        assert len(different) == 1 and different[0][0].isupper() == different[0][1].isupper()


def test_relatives_keep_the_last_part():
    made = relatives(NAMES, set(), rng())
    assert [divided(name)[1] for name in made] == [divided(name)[1] for name in NAMES]
    assert not set(made) & set(NAMES)


def test_foreign_names_have_one_unknown_letter():
    known = "".join(NAMES) + "ж"
    assert all(sum(letter not in known for letter in name) == 1 for name in foreign(NAMES, known, rng()))


def test_the_nearest_name_shares_most_letters():
    assert nearest(["Gus Gu", "Dix Du"], NAMES) == ["Gus Go", "Di Du"]
    assert nearest([], NAMES) == []
