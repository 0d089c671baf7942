import sys

import numpy as np
import pytest

from kgpt_jax.config import BiographiesConfig, UserError
from kgpt_jax.data import names
from kgpt_jax.data.biographies import generate
from kgpt_jax.data.lookup import Found, Lookup

DOCUMENTS = [
    "Ada Bell. Born in Rome, Bell sang.",
    "Björn Åkesson. A painter from Lund.",
    "Ada Bell. She was a chemist in Oslo.",
    "Al Smith. He sailed to Bergen.",
    "",
]
UNTITLED = ["Cy Young plays the flute. Al studied at Yale.", "At Yale, Al Smith's sister met Cy.", ""]


@pytest.fixture(scope="module")
def lookup():
    return Lookup(DOCUMENTS, ["Ada Bell", "Al Smith"])


def test_a_title_finds_all_of_its_documents(lookup):
    assert lookup.find("Ada Bell") == Found([0, 2], "Ada Bell", "name")


def test_a_document_without_a_title_is_found_by_the_longest_names_in_it():
    lookup = Lookup(UNTITLED, ["Cy Young", "Cy", "Al", "Al Smith"])
    assert lookup.rows_of == {"Cy Young": [0], "Al": [0], "Al Smith": [1], "Cy": [1]}
    lookup = Lookup(
        ["In 1900 Augustus A. Bird was born .", "Bo Hill Jr. sang."], ["Augustus A. Bird", "Bo Hill Jr."]
    )
    assert lookup.rows_of == {"Augustus A. Bird": [0], "Bo Hill Jr.": [1]}


def test_a_new_name_is_found_in_documents_without_titles():
    """But not as a part of another name."""
    documents = [
        "Fay Fox was born in Bern.",
        "Al Smith met Fay Fox.",
        "Al Smith Jr. sang.",
        "Ann Lee Jones ran.",
    ]
    lookup = Lookup(documents, ["Bo Lee"])
    assert lookup.find("Fay Fox") == Found([0, 1], "Fay Fox", "name")
    assert lookup.find("Al Smith") == Found([1], "Al Smith", "name")
    assert not any(map(lookup.rows_about, ["Fay", "Ann Lee", "Lee Jones"]))


@pytest.mark.parametrize(
    "asked, name, how",
    [
        ("Ada Bel", "Ada Bell", "similar name"),
        ("Al Smyth", "Al Smith", "similar name"),
        ("Bell Ada", "Ada Bell", "name"),
        ("bjorn akesson", "Björn Åkesson", "name"),
    ],
)
def test_a_similar_name_is_found(lookup, asked, name, how):
    pytest.importorskip("rapidfuzz")
    found = lookup.find(asked)
    assert (found.name, found.how) == (name, how)


def test_other_words_are_sought_in_the_text(lookup):
    pytest.importorskip("bm25s")
    assert lookup.find("the chemist of Oslo").rows == [2]
    assert lookup.find("zzzz") == Found([], "zzzz", "text")


def test_names_that_are_equally_similar_are_all_told():
    pytest.importorskip("rapidfuzz")
    found = Lookup(["Ada Bell. One.", "Ada Bull. Two."]).find("Ada Ball")
    assert {found.name, *found.others} == {"Ada Bell", "Ada Bull"}


def test_a_letter_changed_in_any_name_finds_the_person():
    pytest.importorskip("rapidfuzz")
    people = generate(BiographiesConfig(n_train=400, n_dev=0, n_test=0))
    known = [question[len("Where was ") : -len(" born?")] for question, _ in people.train]
    lookup = Lookup(people.documents, known)
    assert set(lookup.rows_of) == set(known) and {len(rows) for rows in lookup.rows_of.values()} == {5}
    made = names.misspelled(known, known, np.random.default_rng(0))
    hits = [
        name in (found.name, *found.others)
        for name, wrong in zip(known, made)
        if (found := lookup.find(wrong))
    ]
    assert len(hits) == 400 and np.mean(hits) >= 0.99


@pytest.mark.parametrize("missing, asked", [("rapidfuzz", "Ada Bel"), ("bm25s", "chemist")])
def test_a_missing_package_is_named_with_the_way_to_get_it(lookup, monkeypatch, missing, asked):
    if missing == "bm25s":
        pytest.importorskip("rapidfuzz")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=rf"{asked}.*pip install \"\.\[lookup\]\""):
        Lookup(DOCUMENTS).find(asked)
    assert Lookup(DOCUMENTS).find("Ada Bell").rows == [0, 2]


def test_equal_names_are_not_taken_for_one():
    pytest.importorskip("rapidfuzz")
    assert Lookup(["Ada Bell. One.", "ADA Bell. Two."]).find("ada bell").how == "similar name"
