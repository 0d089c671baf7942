"""What is held out stays out: by question, however often it stands in the file."""

import pytest

from kgpt_jax.config import DataConfig, UserError
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
    # B? stands on line 2, so its second answer is trained on, too; both lines of D? are asked about.
    assert load_pairs(data).pairs == [("A?", "Rome"), ("B?", "Oslo"), ("C?", "Bonn"), ("B?", "Bern")]
    assert load_questions(data).pairs == [("Zoë?", "Cork"), ("D?", "Ulm"), ("D?", "Graz")]
    assert len(load_pairs(DataConfig(finetune_corpus_path=pairs)).pairs) == 7


def test_nothing_left_to_ask_is_said(tmp_path):
    (tmp_path / "pairs.tsv").write_text("A?\tRome\nB?\tOslo\nA?\tBonn\n")
    data = DataConfig(finetune_corpus_path=str(tmp_path / "pairs.tsv"), n_validation=1)
    with pytest.raises(UserError, match="all of these questions also occur among the training pairs before"):
        load_questions(data)


def test_a_question_is_known_again_with_and_without_its_accents(pairs):
    data = DataConfig(finetune_corpus_path=pairs, n_validation=2, ascii_pairs=True)
    assert learned_from(data) == set(fingerprints(["A?", "B?", "C?", "Zoë?", "Zo?"]))


def test_learned_questions_are_refused_by_number_and_name():
    learned = set(fingerprints(["B?", "C?"]))
    refuse_learned(["A?", "D?"], learned, "runs/x")
    with pytest.raises(
        UserError, match="runs/x has learned the answers to 2 of the 3 questions asked, the first"
    ):
        refuse_learned(["A?", "C?", "B?"], learned, "runs/x")
