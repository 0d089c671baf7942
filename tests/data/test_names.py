from collections import Counter

import numpy as np
import pytest

from kgpt_jax.config import UserError
from kgpt_jax.data.names import (
    OTHER,
    _frames,
    divided,
    foreign,
    frame,
    kinds,
    misspelled,
    nearest,
    recombined,
    relatives,
)

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
    with pytest.raises(
        UserError, match="do not have the form of one question .*: leave only .*=birth_place$"
    ):
        frame(questions)


def test_kinds_are_the_words_around_the_names():
    born = [f"Where was {name} born?" for name in NAMES]
    buried = [f"Where was {name} buried?" for name in NAMES]
    sang = [f"Who sang {last} Song {i}?" for i, last in enumerate(LASTS)]
    asked = [*born, "Is it so?", *buried, *sang, *born[:2]]
    expected = ["Where was X born?"] * 8 + [OTHER] + ["Where was X buried?"] * 8 + ["Who sang X?"] * 8
    expected += ["Where was X born?"] * 2
    assert kinds(asked) == expected
    assert kinds(asked[::-1]) == expected[::-1]


def test_a_shared_first_name_or_a_few_others_make_no_kind_of_their_own():
    born = [f"Where was Al {last} born?" for last in LASTS[:4]] + [
        f"Where was {name} born?" for name in NAMES
    ]
    assert set(kinds(born + born[:1] * 30)) == {"Where was X born?"}
    many = [f"Where was {name} {i} born?" for i in range(20) for name in NAMES]
    rare = [f"When was {name} born?" for name in NAMES]  # 8 of 168
    assert kinds([*many, *rare]) == ["Where was X born?"] * 160 + [OTHER] * 8
    assert kinds(["A?", ""]) == [OTHER] * 2 and kinds([]) == []


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
    for name, made in zip(NAMES * 10, foreign(NAMES * 10, known, rng())):
        assert sum(letter not in known for letter in made) == 1
        assert [i for i, c in enumerate(made) if c == " "] == [i for i, c in enumerate(name) if c == " "]
    assert all(made.endswith(" (1)") for made in foreign(["Ab (1)"] * 20, known, rng()))
    assert [len(made) for made in foreign(["", "17"], known, rng())] == [1, 2]


def test_the_nearest_name_shares_most_letters():
    assert nearest(["Gus Gu", "Dix Du"], NAMES) == ["Gus Go", "Di Du"]
    assert nearest([], NAMES) == []


def test_a_long_question_has_few_frames():
    """All frames of one question of 400 words would be 300,000 texts of up to 2,000 characters."""
    questions = [f"What, {'and ' * 400}then, is part {number} made of?" for number in range(5)]
    assert len(_frames(questions[0])) < 1_000
    assert kinds(questions) == [questions[0].replace("0", "X")] * 5
