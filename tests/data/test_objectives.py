import math
import re

import numpy as np
import pytest

from kgpt_jax.config import ModelConfig, UserError
from kgpt_jax.data.objectives import (
    Material,
    Span,
    answer_span,
    corrupt,
    draw_context,
    draw_span,
    entity_span,
    question_answer,
    question_text,
    reversed_line,
    span_corruption,
    whole_line,
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
    x_NT, y_NT, source_N = question_answer(Material([], [(question, "Lebanon")]), vocab, COURSE)(None)
    assert vocab.decode(x_NT[0]) == "Where was Khatchig Mouradian born?⁇Lebanon⁇" + "□" * 84
    assert vocab.decode(y_NT[0]) == "□" * 33 + "⁇Lebanon⁇" + "□" * 85
    assert source_N.tolist() == [35]  # the question and its mask


def test_question_that_does_not_fit_is_named():
    with pytest.raises(UserError, match="127 characters where 126 fit: 'x+', 'Oslo'"):
        question_answer(Material([], [("x" * 123, "Oslo")]), Vocab.of("xOslo"), COURSE)


def test_a_question_has_127_columns_where_a_document_has_128():
    """The course has done so since 2024."""
    cfg, vocab = ModelConfig(seq_len=128), Vocab.of("xOslo")
    x_NT, _, _ = question_answer(Material([], [("x" * 122, "Oslo")]), vocab, cfg)(None)
    assert vocab.decode(x_NT[0]) == "x" * 122 + "⁇Oslo⁇"
    with pytest.raises(UserError, match="127 characters where 126 fit"):
        question_answer(Material([], [("x" * 123, "Oslo")]), vocab, cfg)


def documents(n=300):
    rng = np.random.default_rng(7)
    lengths = [0, 1, 2, 3, 4, 5, 111, 112, 113, 400] + rng.integers(0, 250, n).tolist()
    return ["".join(rng.choice(list("abcdefgh .é"), length)) for length in lengths]


@pytest.mark.parametrize("block_size, seq_len", [(128, 127), (128, 128), (16, 15)])
def test_fast_form_equals_the_strings_draw_by_draw(block_size, seq_len):
    docs, cfg = documents(), ModelConfig(block_size=block_size, seq_len=seq_len)
    vocab = Vocab.of("".join(docs))
    x_NT, y_NT, source_N = span_corruption(Material(docs, []), vocab, cfg)(np.random.default_rng(3))
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
        span_corruption(Material(["abc"], []), Vocab.of("abc"), ModelConfig(block_size=128, seq_len=100))


# A bar marks the end of the title, and brackets what may be masked.
ENTITIES = [
    "Khatchig Mouradian. |Khatchig Mouradian is a journalist, writer and translator born in [Lebanon] .",
    "Jacob Henry Studer. |Jacob Henry Studer (26 [February] 1840 [Columbus], [Ohio]) "
    "was a [Printer] in [New York] .",
    "A. B. Osborn. |Osborn was born at [Rochester] in 1808 .",
    "|no title and no capitals here",
    "|",
    "|[Yara Ahmadi] was born in [Rome]. She lives in [Zürich], not in [Rome Falls] .",
    "Nobody. |he did nothing at all " + "for a long time " * 40,
    "Bo Ek. |Born in [Ulm Bay], [Lebanon], he left [Ulm Bay] for [York] .",
    "Al Lund. |Born in [Romeo], he knew [Rome], [NewYork] and [Yorkshire] .",
]
PAIRS = [("Where was A born?", "Lebanon"), ("Where was B born?", "Rome"), ("Where was C born?", "York")]
ANSWERS = {answer for _, answer in PAIRS}
MENTIONS = [  # documents that mention no answer are marked as above
    ENTITIES[0],
    "Jacob Henry Studer. |Jacob Henry Studer (26 February 1840 Columbus, Ohio) was a Printer in New [York] .",
    *ENTITIES[2:5],
    "|Yara Ahmadi was born in [Rome]. She lives in Zürich, not in [Rome] Falls .",
    ENTITIES[6],
    "Bo Ek. |Born in Ulm Bay, [Lebanon], he left Ulm Bay for [York] .",
    "Al Lund. |Born in Romeo, he knew [Rome], NewYork and Yorkshire .",
]


def without_marks(marked):
    return re.sub(r"[][|]", "", marked)


PEOPLE = [without_marks(marked) for marked in ENTITIES]
STUDER = PEOPLE[1]


def masked(marked, u_span, u_none, u_left, u_right, text_length):
    """Returns the text that four uniforms make of a marked document, and the span that is masked in it.

    It is the slow, readable form of `entity_span` and `answer_span`. All spans that fit with title and masks
    are equally likely. Half of them have no context. The others keep a uniform number of characters before
    the span, and a uniform number after it, as far as there is room.
    """
    title, rest = marked.split("|")
    found = []
    for bracket in re.finditer(r"\[(.*?)\]", rest):
        around = [without_marks(part) for part in (rest[: bracket.start()], rest[bracket.end() :])]
        if len(f"{title}⁇⁇{bracket[1]}⁇") <= text_length:
            found.append((bracket[1], *around))
    if not found:
        return without_marks(marked)[:text_length], ""
    span, before, after = found[math.floor(u_span * len(found))]
    if u_none < 0.5:
        return f"{title}⁇⁇{span}⁇", span
    room = text_length - len(f"{title}⁇⁇{span}⁇")
    lefts = [before[i:] for i in range(len(before), -1, -1)][: room + 1]  # "", the last character, ...
    left = lefts[math.floor(u_left * len(lefts))]
    rights = [after[:i] for i in range(len(after) + 1)][: room - len(left) + 1]
    right = rights[math.floor(u_right * len(rights))]
    return f"{title}{left}⁇{right}⁇{span}⁇", span


def test_a_masked_text_of_every_kind():
    """The expected texts are written by hand, to check the oracle itself."""
    oslo = "Al Bo. |Al Bo was born in [Oslo] in May ."
    assert masked(oslo, 0.9, 0.49, 0.9, 0.9, 99) == ("Al Bo. ⁇⁇Oslo⁇", "Oslo")
    assert masked(oslo, 0.0, 0.50, 0.0, 0.5, 99) == ("Al Bo. ⁇ in M⁇Oslo⁇", "Oslo")
    assert masked(oslo, 0.0, 0.99, 0.999, 0.999, 99) == ("Al Bo. Al Bo was born in ⁇ in May .⁇Oslo⁇", "Oslo")
    assert masked(oslo, 0.0, 0.99, 0.999, 0.999, 17) == ("Al Bo. in ⁇⁇Oslo⁇", "Oslo")
    assert masked(oslo, 0.0, 0.99, 0.999, 0.999, 13) == ("Al Bo. Al Bo ", "")


@pytest.mark.parametrize("objective, marked", [(entity_span, ENTITIES), (answer_span, MENTIONS)])
@pytest.mark.parametrize("seq_len", [127, 40, 28])
def test_masked_spans_equal_the_strings_draw_by_draw(objective, marked, seq_len):
    vocab, cfg, text_length = Vocab.of("".join(PEOPLE)), ModelConfig(seq_len=seq_len), seq_len + 1
    make, seen = objective(Material(PEOPLE, PAIRS, ANSWERS), vocab, cfg), set()
    for seed in range(40):
        uniforms_N4 = np.random.default_rng(seed).random((len(PEOPLE), 4))
        x_NT, y_NT, source_N = make(np.random.default_rng(seed))
        for document, uniforms_4, x_T, y_T, source in zip(marked, uniforms_N4, x_NT, y_NT, source_N):
            text, span = masked(document, *uniforms_4, text_length)
            whole = text.ljust(text_length, PAD)
            assert (vocab.decode(x_T), vocab.decode(y_T)) == (whole[:-1], whole[1:])
            assert source == (len(text) - len(f"{span}⁇") if span else 1)
            seen.add(span)
    too_long = {"February", "Columbus", "Printer", "New York"} if seq_len == 28 else set()
    assert seen == {"", *re.findall(r"\[(.*?)\]", "".join(marked))} - too_long


def test_half_of_the_spans_stand_without_context():
    left, right = draw_context(50, 50, 80, np.random.default_rng(0).random((3, 100_000)))
    assert (left + right <= 80).all() and left.max() == 50 and right.max() == 50
    assert ((left == 0) & (right == 0)).mean() == pytest.approx(0.5, abs=0.01)


def test_lines_forwards_and_backwards():
    vocab, cfg = Vocab.of(MOURADIAN), ModelConfig(seq_len=31)
    for objective, text in (
        (whole_line, "Khatchig Mouradian. Khatchig Mou"),
        (reversed_line, "Mou Khatchig Mouradian. Khatchig"),
    ):
        x_NT, y_NT, source_N = objective(Material([MOURADIAN, "ab"], []), vocab, cfg)(None)
        assert vocab.decode(x_NT[0]) == text[:-1] and vocab.decode(y_NT[0]) == text[1:]
        assert vocab.decode(x_NT[1]) == "ab".ljust(31, PAD) and source_N.tolist() == [1, 1]


def test_a_span_far_into_a_long_document_is_masked():
    """At a position beyond the range of int16."""
    document = "Ada Bell. " + "and on " * 5000 + "in Rome . " + "and on " * 100
    vocab, cfg = Vocab.of(document + "Ed Far Ulm"), ModelConfig(seq_len=8999, block_size=9000)
    x_NT, _, _ = entity_span(Material([document, "Ed Fa. Born in Ulm ."], []), vocab, cfg)(
        np.random.default_rng(0)
    )
    text = vocab.decode(x_NT[0]).rstrip(PAD)
    assert text.startswith("Ada Bell. ") and text.endswith("⁇Rome⁇")
