import numpy as np
import pytest

from kgpt_jax.config import ModelConfig, UserError
from kgpt_jax.data.objectives import (
    Span,
    corrupt,
    draw_span,
    question_answer,
    question_text,
    span_corruption,
)
from kgpt_jax.data.vocab import MASK, PAD, Vocab

COURSE = ModelConfig()  # block size 128, 127 characters read at once
MOURADIAN = "Khatchig Mouradian. Khatchig Mouradian is a journalist, writer and translator born in Lebanon ."


def test_corrupt_moves_the_span_behind_the_second_mask():
    text = corrupt(MOURADIAN, Span(length=34, start=9, width=9), 40)
    assert text == "Khatchig ⁇. Khatchig Moura⁇Mouradian□□□□"


def test_corrupt_keeps_an_empty_document():
    assert corrupt("", draw_span(0, (0.9, 0.9, 0.9, 0.9), 128), 6) == "⁇⁇□□□□"


def test_question_text_of_the_handout():
    text = question_text("Where was Khatchig Mouradian born?", "Lebanon", 128)
    assert text == "Where was Khatchig Mouradian born?⁇Lebanon⁇" + "□" * 85


def test_question_answer_of_the_handout():
    question = "Where was Khatchig Mouradian born?"
    vocab = Vocab.of(question + "Lebanon")
    x_NT, y_NT, source_N = question_answer([(question, "Lebanon")], vocab, COURSE)(None)
    assert vocab.decode(x_NT[0]) == "Where was Khatchig Mouradian born?⁇Lebanon⁇" + "□" * 84
    assert vocab.decode(y_NT[0]) == "□" * 33 + "⁇Lebanon⁇" + "□" * 85
    assert source_N.tolist() == [35]  # the question and its mask


def test_question_that_does_not_fit_is_named():
    with pytest.raises(UserError, match="127 characters where 126 fit: 'x+', 'Oslo'"):
        question_answer([("x" * 123, "Oslo")], Vocab.of("xOslo"), COURSE)


def documents(n=300):
    rng = np.random.default_rng(7)
    lengths = [0, 1, 2, 3, 4, 5, 111, 112, 113, 400] + rng.integers(0, 250, n).tolist()
    return ["".join(rng.choice(list("abcdefgh .é"), length)) for length in lengths]


@pytest.mark.parametrize("block_size, seq_len", [(128, 127), (128, 128), (16, 15)])
def test_fast_form_equals_the_strings_draw_by_draw(block_size, seq_len):
    docs, cfg = documents(), ModelConfig(block_size=block_size, seq_len=seq_len)
    vocab = Vocab.of("".join(docs))
    x_NT, y_NT, source_N = span_corruption(docs, vocab, cfg)(np.random.default_rng(3))
    uniforms_N4 = np.random.default_rng(3).random((len(docs), 4))
    for doc, uniforms_4, x_T, y_T, source in zip(docs, uniforms_N4, x_NT, y_NT, source_N):
        span = draw_span(len(doc), uniforms_4, block_size)
        text = corrupt(doc, span, seq_len + 1)
        assert text[:source].count(MASK) == 2 and text[source - 1] == MASK
        assert text[source:].rstrip(PAD) == doc[span.start : span.start + span.width]
        assert vocab.decode(x_T) == text[:-1]
        assert vocab.decode(y_T) == text[1:]


def test_every_length_and_every_place_of_the_span_occurs():
    uniforms = np.random.default_rng(0).random((4, 200_000))
    length, start, width = draw_span(np.full(200_000, 500), uniforms, 128)
    assert set(length) == set(range(4, 113))
    counts = np.bincount(length)[4:]
    assert counts.min() > 0.85 * counts.mean() and counts.max() < 1.15 * counts.mean()
    for n in (4, 9, 10):
        mine = length == n
        widest = -(-n // 2) - 1
        assert set(width[mine]) == set(range(1, widest + 1))
        assert set(start[mine] + width[mine]) == set(range(1, n + 1))
        assert set(start[mine & (width == 1)]) == set(range(n))


@pytest.mark.parametrize("n", [4, 5, 6, 7, 41, 112])
def test_span_is_a_quarter_of_the_document_on_average(n):
    uniforms = np.random.default_rng(n).random((4, 400_000))
    uniforms[0] = 0.999  # not truncated
    width = draw_span(np.full(400_000, n), uniforms, 128)[2]
    error = width.std() / np.sqrt(width.size)
    assert width.mean() == pytest.approx(n / 4, abs=5 * error + 1e-12)


def test_nothing_of_the_document_is_lost():
    for doc in documents(50):
        span = draw_span(len(doc), np.random.default_rng(len(doc)).random(4), 128)
        prefix, suffix, masked = corrupt(doc, span, 128).rstrip(PAD).split(MASK)
        assert prefix + masked + suffix == doc[: span.length]


def test_a_text_that_cannot_hold_the_corruption_is_refused():
    with pytest.raises(UserError, match="needs room for 112 characters and two masks"):
        span_corruption(["abc"], Vocab.of("abc"), ModelConfig(block_size=128, seq_len=100))
