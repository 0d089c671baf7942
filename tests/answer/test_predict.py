import jax
import numpy as np
import pytest

from kgpt_jax import devices
from kgpt_jax.answer import predict as module
from kgpt_jax.answer.predict import batch_by_batch, in_batches, log_probabilities, predict
from kgpt_jax.data.vocab import MASK, MASK_ID, Vocab
from tests import tiny

VOCAB = Vocab.of("abcdefghijk")  # 13 with PAD and MASK, as the tiny model has


class Parrot:
    """Stands in for decoding: answers each question with what it says between the stars.

    If the prompt already contains some of the answer, the parrot writes the rest.
    """

    def __init__(self, vocab):
        self.vocab = vocab

    def __call__(self, model, params, prompt_BP, length_B, max_new, **_):
        new_BW = np.zeros((len(prompt_BP), max_new), np.int32)
        for prompt_P, length, new_W in zip(prompt_BP, length_B, new_BW):
            question, _, begun = self.vocab.decode(prompt_P[:length]).partition(MASK)
            ids = self.vocab.encode(question.split("*")[1] + "⁇junk" if "*" in question else "")[len(begun) :]
            new_W[: len(ids)] = ids[:max_new]
        return new_BW


@pytest.fixture
def answers(monkeypatch):
    vocab = Vocab.of("abcdefghijklmnopqrstuvwxyz *\n")
    monkeypatch.setattr(module, "continue_texts", Parrot(vocab))
    model, params, _ = tiny.make("vanilla", seq_len=63, block_size=64)
    return lambda questions: predict(model, params, vocab, questions)


@pytest.mark.parametrize("cores", [1, 4])
def test_every_question_gets_its_own_answer_in_order(answers, monkeypatch, cores):
    monkeypatch.setattr(devices, "cores", lambda: cores)
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcxyz"), n)) for n in rng.integers(1, 20, 300)]
    questions = ["q" * int(rng.integers(0, 20)) + f"*{word}*" for word in words]
    assert answers(questions) == (words, [])


@pytest.mark.parametrize("cores", [1, 4])
def test_an_error_in_a_batch_is_raised(monkeypatch, cores):
    def fail(chosen, text_BT, length_B):
        if 70 in chosen:
            raise ZeroDivisionError
        return text_BT

    monkeypatch.setattr(devices, "cores", lambda: cores)
    texts = [np.ones(1 + n // 20, np.int32) for n in range(200)]  # in four batches of one width
    with pytest.raises(ZeroDivisionError):
        list(batch_by_batch(fail, texts, 12))


def test_a_text_alone_is_a_batch_of_one_row():
    texts = [np.ones(n, np.int32) for n in (3, 9, 5)]
    batches = list(in_batches(texts, 12))
    assert [(chosen, text_BT.shape) for chosen, text_BT, _ in batches] == [([0, 2, 1], (64, 12))]
    assert [text_BT.shape for _, text_BT, _ in in_batches(texts[:1], 12)] == [(1, 8)]


def test_odd_questions_are_counted_and_keep_their_place(answers):
    predictions, notes = answers(["*first*", "é*second*!", "x" * 70, "", "*two\nlines*", "*last*"])
    assert predictions == ["first", "second", "", "", "two lines", "last"]
    assert notes == [
        "question 2: left out '!é', which the vocabulary lacks",
        "question 3: answered with nothing, its 70 characters are more than the 62 that fit",
    ]


@pytest.mark.parametrize("variant", ["vanilla", "encoder_decoder"])
def test_many_questions_get_the_same_answers_as_few(monkeypatch, variant):
    model, params, _ = tiny.make(variant, seq_len=47, block_size=48)
    params["head"]["kernel"] = params["head"]["kernel"].at[:, MASK_ID].add(-0.3)  # some answers are long
    rng = np.random.default_rng(0)
    questions = ["abcdefgh" + "".join(rng.choice(list("abcdefghijk"), n)) for n in rng.integers(1, 37, 256)]
    few = [answer for i in (0, 128) for answer in predict(model, params, VOCAB, questions[i : i + 128])[0]]
    settings, write = [], module.continue_texts

    def noted(*batch, start, max_new, **how):
        settings.append((start and start.ids_1T.shape[1], max_new))
        return write(*batch, start=start, max_new=max_new, **how)

    monkeypatch.setattr(module, "continue_texts", noted)
    too_long = ["abcdefgh" * 6] * 64
    assert predict(model, params, VOCAB, too_long + questions)[0] == [""] * 64 + few
    in_parts = variant == "vanilla" and jax.default_backend() == "cpu"
    assert set(settings) == {(8, 16) if in_parts else (None, 32)}
    assert {len(answer) > 16 for answer in few} == {True, False}


@pytest.mark.parametrize("variant", ["vanilla", "perceiver", "encoder_decoder"])
def test_log_probabilities_are_sums_over_the_answer_and_its_end(variant):
    model, params, _ = tiny.make(variant, n_layer=tiny.few_layers(variant))
    questions, answers = ["face", "b", "hedge", "i" * 15], ["dab", "", "kid", ""]
    found = log_probabilities(model, params, VOCAB, questions, answers)
    assert found[3] is None  # no room
    assert log_probabilities(model, params, VOCAB, ["face"], ["Zoë"]) == [None]  # letters that it lacks
    for question, answer, score in zip(questions[:3], answers, found):
        text = f"{question}{MASK}{answer}{MASK}"
        x_1T, source_1 = VOCAB.encode(text[:-1])[None], np.array([len(question) + 1])
        gains_TV = jax.nn.log_softmax(tiny.logits(model, params, x_1T, source_1)[0])
        by_hand = sum(
            float(gains_TV[t, VOCAB.id_of[text[t + 1]]]) for t in range(len(question), len(text) - 1)
        )
        assert score == pytest.approx(by_hand, abs=1e-5)


def test_an_answer_that_fills_the_text_has_no_end():
    model, params, _ = tiny.make("vanilla")
    [score] = log_probabilities(model, params, VOCAB, ["abcdefghij"], ["abcde"])  # 16 with one MASK
    x_1T = VOCAB.encode(f"abcdefghij{MASK}abcd")[None]
    gains_TV = jax.nn.log_softmax(tiny.logits(model, params, x_1T)[0])
    assert score == pytest.approx(sum(float(gains_TV[10 + i, 2 + i]) for i in range(5)), abs=1e-5)
