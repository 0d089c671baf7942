import numpy as np
import pytest
import scipy.stats

from kgpt_jax.answer import score as evaluate
from kgpt_jax.answer.predict import predict
from kgpt_jax.answer.score import Score, mean_interval, score, wilson_interval
from kgpt_jax.config import UserError
from kgpt_jax.data.corpus import most_frequent
from kgpt_jax.data.vocab import Vocab
from tests import tiny


class Parrot:
    """Stands in for decoding: answers each question with what it says between the stars."""

    def __init__(self, vocab):
        self.vocab = vocab

    def __call__(self, model, params, prompt_BP, length_B, key, max_new, **_):
        new_BN = np.zeros((len(prompt_BP), max_new), np.int32)
        for prompt_P, length, new_N in zip(prompt_BP, length_B, new_BN):
            said = self.vocab.decode(prompt_P[:length])
            ids = self.vocab.encode(said.split("*")[1] + "⁇junk" if "*" in said else "")
            new_N[: len(ids)] = ids[:max_new]
        return new_BN


@pytest.fixture
def answers(monkeypatch):
    vocab = Vocab.of("abcdefghijklmnopqrstuvwxyz *\n")
    monkeypatch.setattr(evaluate, "continue_texts", Parrot(vocab))
    model, params, _ = tiny.make("vanilla", seq_len=63, block_size=64)
    return lambda questions: predict(model, params, vocab, questions)


def test_every_question_gets_its_own_answer_in_order(answers):
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcxyz"), n)) for n in rng.integers(1, 20, 300)]
    questions = ["q" * int(rng.integers(0, 20)) + f"*{word}*" for word in words]
    assert answers(questions) == (words, [])


def test_odd_questions_are_counted_and_keep_their_place(answers):
    predictions, notes = answers(["*first*", "é*second*!", "x" * 70, "", "*two\nlines*", "*last*"])
    assert predictions == ["first", "second", "", "", "two lines", "last"]
    assert notes == [
        "question 2: left out '!é', which the vocabulary lacks",
        "question 3: answered with nothing, its 70 characters are more than the 62 that fit",
    ]


def test_predictions_file_has_one_line_a_question(tmp_path):
    path = tmp_path / "out.txt"
    evaluate.write_predictions(path, ["Rome", "", "São Paulo"])
    assert path.read_bytes() == "Rome\n\nSão Paulo\n".encode()


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match="Is a directory; give another path"):
        evaluate.write_predictions(tmp_path, [])


def test_score_counts_exact_matches():
    result = score(["Rome", "oslo", "Bern ", "Bern"], ["Rome", "Oslo", "Bern", "Bern"])
    assert result == Score(2, 4) and result.accuracy == 0.5
    with pytest.raises(ValueError):
        score(["Rome"], ["Rome", "Oslo"])


@pytest.mark.parametrize(
    "correct, total, low, high",  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_interval_equals_published_values(correct, total, low, high):
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize("total", [1, 5, 6, 500])
def test_interval_holds_the_share_and_ends_at_0_and_1(total):
    """And that of the wrong answers is its mirror image."""
    for correct in {0, 1, total - 1, total}:
        low, high = wilson_interval(correct, total)
        assert (low == 0.0) == (correct == 0) and (high == 1.0) == (correct == total)
        assert 0.0 <= low <= correct / total <= high <= 1.0 and high - low < 1.0
        assert wilson_interval(total - correct, total) == pytest.approx((1 - high, 1 - low))


@pytest.mark.parametrize("freedom, t", [(1, 12.706), (9, 2.262), (10, 2.228), (11, 2.201), (30, 2.042)])
def test_interval_of_a_mean_is_students_at_published_values(freedom, t):
    shares = [0.5 + 0.001 * i for i in range(freedom + 1)]
    low, high = mean_interval(shares)
    assert (low + high) / 2 == pytest.approx(np.mean(shares))
    assert (high - low) / 2 / scipy.stats.sem(shares) == pytest.approx(t, abs=5e-4)


def test_most_frequent_answer():
    assert most_frequent(["Rome", "Oslo", "Rome", "Bern", "Oslo"]) == "Oslo"
