"""Held-out questions stay held out, however often they occur in the file."""

import dataclasses

import pytest

from kgpt_jax.config import BiographiesConfig, DataConfig, UserError
from kgpt_jax.data.biographies import generate
from kgpt_jax.data.corpus import learned_from, load_pairs, load_questions
from kgpt_jax.data.holdout import fingerprints, refuse_learned

ROWS = ["A?\tRome", "B?\tOslo", "C?\tBonn", "Zoë?\tCork", "B?\tBern", "D?\tUlm", "D?\tGraz"]


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("\n".join(ROWS) + "\n", "utf-8")
    return str(path)


def test_a_repeated_question_goes_to_one_side_whole(pairs):
    data = DataConfig(finetune_corpus_path=pairs, n_validation=4)
    # B? is on line 2 too, so both its answers are trained on; both lines of D? are held out.
    assert load_pairs(data).pairs == [("A?", "Rome"), ("B?", "Oslo"), ("C?", "Bonn"), ("B?", "Bern")]
    assert load_questions(data).pairs == [("Zoë?", "Cork"), ("D?", "Ulm"), ("D?", "Graz")]
    assert len(load_pairs(DataConfig(finetune_corpus_path=pairs)).pairs) == 7


def test_built_in_people_are_held_out_with_all_their_questions():
    people = BiographiesConfig(n_train=5, n_dev=1, n_facts=6, questions="all")
    data = DataConfig(biographies=people, n_validation=2)
    known = generate(people).train
    assert (load_pairs(data).pairs, load_questions(data).pairs) == (known[:18], known[18:])
    with pytest.raises(UserError, match="data.n_validation is 5 of 5 training people: give fewer"):
        load_pairs(dataclasses.replace(data, n_validation=5))


def test_an_empty_validation_set_is_refused(tmp_path):
    (tmp_path / "pairs.tsv").write_text("A?\tRome\nB?\tOslo\nA?\tBonn\n")
    data = DataConfig(finetune_corpus_path=str(tmp_path / "pairs.tsv"), n_validation=1)
    with pytest.raises(UserError, match="all of these questions also occur among the training pairs before"):
        load_questions(data)


def test_learned_questions_count_with_and_without_accents(pairs):
    data = DataConfig(finetune_corpus_path=pairs, n_validation=2, ascii_pairs=True)
    assert learned_from(data) == set(fingerprints(["A?", "B?", "C?", "Zoë?", "Zo?"]))


def test_learned_questions_are_refused_with_their_number_and_the_first():
    learned = set(fingerprints(["B?", "C?"]))
    refuse_learned(["A?", "D?"], learned, "runs/x")
    with pytest.raises(
        UserError, match="runs/x has learned the answers to 2 of the 3 questions asked, the first"
    ):
        refuse_learned(["A?", "C?", "B?"], learned, "runs/x")
