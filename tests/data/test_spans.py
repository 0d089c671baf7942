from kgpt_jax.data.spans import any_of, entities, mentions, title_length
from tests.data.test_objectives import MOURADIAN, PEOPLE, STUDER


def spans_of(document, found):
    return [document[start : start + width] for start, width in found]


def test_titles_end_at_a_point_that_is_not_an_initials():
    titles = [document[: title_length(document)] for document in PEOPLE]
    assert titles == [
        "Khatchig Mouradian. ",
        "Jacob Henry Studer. ",
        "A. B. Osborn. ",
        "",
        "",
        "",
        "Nobody. ",
        "Bo Ek. ",
        "Al Lund. ",
    ]
    assert title_length("Hamilton Ward, Sr.. Hamilton Ward, Sr (July 3") == 20


def test_entities_are_runs_of_capitalised_words_and_not_the_name():
    assert spans_of(STUDER, entities(STUDER)) == ["February", "Columbus", "Ohio", "Printer", "New York"]
    assert spans_of(MOURADIAN, entities(MOURADIAN)) == ["Lebanon"]
    assert spans_of(PEOPLE[2], entities(PEOPLE[2])) == ["Rochester"]
    assert spans_of(PEOPLE[5], entities(PEOPLE[5])) == ["Yara Ahmadi", "Rome", "Zürich", "Rome Falls"]


def test_mentions_are_whole_words_and_the_longest():
    answers = {"York", "New York", "Rome", "Columbus"}
    assert spans_of(STUDER, mentions(STUDER, any_of(answers))) == ["Columbus", "New York"]
    assert spans_of(PEOPLE[5], mentions(PEOPLE[5], any_of(answers))) == ["Rome", "Rome"]
    assert mentions("Rome. Romeo came from Newark .", any_of(answers)) == []
