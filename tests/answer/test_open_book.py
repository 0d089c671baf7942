from collections import Counter

import numpy as np
import pytest

from benchmarks import other_data
from kgpt_jax.answer import reader
from kgpt_jax.answer.open_book import open_book
from kgpt_jax.config import BiographiesConfig, DataConfig
from kgpt_jax.data import corpus

NOTHING = Counter()


def test_candidates_are_runs_of_words_with_their_places():
    line = "Bo Lee. Born in Ada, Oklahoma, Lee sang."
    found = reader.candidates([line, "In Rome."], "Bo Lee", NOTHING)
    assert {"Ada", "Ada, Oklahoma", "Bo", "Born in Ada", "sang", "Rome", "In Rome"} < set(found.texts)
    assert not {",", "Oklahoma,", "sang."} & set(found.texts)
    for text, (row, start, end) in zip(found.texts, found.spans):
        assert [line, "In Rome."][row][start:end] == text
    assert max(len(text.replace(",", " ,").split()) for text in found.texts) == reader.LONGEST


def test_the_answer_to_a_training_question_does_not_count_for_itself():
    lines = ["Bo Lee. Born in Rome."]
    once, twice = Counter(["Rome"]), Counter(["Rome", "Rome"])

    def features(answers, own=None):
        return reader.candidates(lines, "Bo Lee", answers, own).features

    np.testing.assert_array_equal(features(once, "Rome"), features(NOTHING))
    np.testing.assert_array_equal(features(twice, "Rome"), features(once))
    assert (features(once) != features(NOTHING)).any()


def test_probabilities_add_up_and_the_span_says_the_answer():
    asked = [([f"{name}. Born in {place}."], name, place) for name, place in [("Al", "Oslo"), ("Cy", "Bern")]]
    lines = ["Bo Lee. She met Ann in Rome.", "Bo Lee. Born in Rome."]
    found = reader.train(asked).read(lines, "Bo Lee")
    assert next(iter(found)) == "Rome"
    assert sum(each.probability for each in found.values()) == pytest.approx(1, abs=1e-4)
    assert found["Rome"].span == (1, 16, 20)  # where it follows "Born in"


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The data of a corpus about machine parts, in files."""
    folder = tmp_path_factory.mktemp("parts")
    documents, pairs = other_data.make(np.random.default_rng(0))
    contents = {
        "documents": documents,
        "pairs": map("\t".join, pairs[:60]),
        "asked": map("\t".join, pairs[60:]),
    }
    for name, lines in contents.items():
        (folder / name).write_text("\n".join(lines), "utf-8")
    return DataConfig(
        pretrain_corpus_path=str(folder / "documents"),
        finetune_corpus_path=str(folder / "pairs"),
        eval_corpus_path=str(folder / "asked"),
    )


def test_questions_about_people_and_about_metals_are_answered_with_their_line(parts):
    people = DataConfig(biographies=BiographiesConfig(n_train=60, n_dev=60, n_test=0, n_facts=1))
    for data in (people, parts):
        book, table = open_book(data), corpus.load_questions(data)
        found = [book.answer(question) for question in table.questions]
        for each in found:
            line, text, start, end = each.source
            assert book.documents[line - 1] == text and text[start:end] == each.answer and each.name in text
        assert np.mean([each.answer == right for each, right in zip(found, table.answers)]) >= 0.95


def test_questions_without_a_line_get_no_answer(parts):
    book = open_book(parts)
    assert book.answer("Who is there?") is None
    pytest.importorskip("rapidfuzz")
    assert book.answer(book.where.question("zzzz")) is None


def test_held_out_questions_are_read_by_readers_that_never_saw_them():
    asked = [
        ([f"N{i}. From {'ABCDE'[i % 5]}x to {'ABCDE'[i % 3]}y."], f"N{i}", f"{'ABCDE'[i % 5]}x")
        for i in range(30)
    ]
    assert [answer for answer, _ in reader.out_of_fold(asked, np.random.default_rng(0))] == [
        answer for *_, answer in asked
    ]
