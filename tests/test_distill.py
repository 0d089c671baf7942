import pytest

from kgpt_jax.answer.evaluate import MAX_ANSWER
from kgpt_jax.config import UserError
from kgpt_jax.distill import agreed, questions_like


def test_what_half_of_the_models_say_is_taken_for_an_answer():
    questions = ["two of four", "one of four", "all", "nothing", "broken off", "too long"]
    long, rest = "x" * (MAX_ANSWER - 1), "y" * MAX_ANSWER
    said = [
        ["Rome", "Rome", "Rome", "", rest, long],
        ["Rome", "Oslo", "Rome", "", rest, long],
        ["Oslo", "Bonn", "Rome", "", rest, long],
        ["Bonn", "Cork", "Rome", "", rest, long],
    ]
    assert agreed(questions, said, room=30) == [("two of four", "Rome"), ("all", "Rome")]
    assert agreed(questions, said, room=39)[-1] == ("too long", long)


def test_questions_are_those_of_the_pairs_about_the_others():
    pairs = [("Where was Ann Ash born?", "Oslo"), ("Where was Ann Asher born?", "Rome")]
    documents = ["Ann Ash. She sang.", "Ed B. Fa. He sang.", "Ed B. Fa. He danced.", "no title", ""]
    assert questions_like(pairs, documents) == ["Where was Ed B. Fa born?"]
    assert questions_like(pairs[:1], documents) == ["Where was Ed B. Fa born?"]
    with pytest.raises(UserError, match="no training question holds the title of a document"):
        questions_like(pairs[:1], documents[1:])
