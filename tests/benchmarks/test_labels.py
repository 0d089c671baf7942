import numpy as np
import pytest

from benchmarks.labels import Person, halves, measure, people, truth


def test_the_truth_is_what_models_say_that_have_not_read():
    asked = [Person("Al Bo", "Rome"), Person("Cy Do", "Oslo"), Person("Ed Fa", "Bern")]
    read_MN = np.array([[True, True, True], [False] * 3, [False, True, True], [False] * 3])
    answers = [
        ["Rome", "Oslo", "Rome"],
        ["Rome", "Bern", "Rome"],
        ["Cork", "Oslo", "Oslo"],
        ["Rome", "Lima", "Lima"],
    ]
    assert truth(answers, read_MN, asked) == [
        ["guessed from the name", "read", "guessed from the name"],  # one of two says the same of Ed
        ["guessed from the name", "made up", "made up"],
        ["made up", "read", "made up"],  # it has read of Ed, and is wrong
        ["guessed from the name", "made up", "made up"],
    ]


def test_everyone_is_read_of_by_half_of_the_models():
    assert (halves(11, np.random.default_rng(0)).sum(0) == 8).all()


def test_a_third_of_the_last_names_tell_the_place():
    everyone = people(np.random.default_rng(0))
    places: dict[str, set[str]] = {}
    for name, place in everyone:
        places.setdefault(name.split()[1], set()).add(place)
    telling = sum(len(of) == 1 for of in places.values())
    assert len({name for name, _ in everyone}) == len(everyone) and len(places) == 63 and telling == 21


def test_not_sure_counts_as_a_miss():
    true_MN = np.array([["read", "read", "made up", "guessed from the name"]])
    given_MN = np.array([["read", "not sure", "made up", "read"]])
    found = measure(given_MN, true_MN)
    assert found["read"] == pytest.approx(2 * 1 / (2 + 2)) and found["made up"] == 1
    assert found["precision of read"] == 0.5 and found["guessed from the name"] == 0
    assert found["macro F1"] == pytest.approx(0.5)
