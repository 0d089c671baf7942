"""A document or a question -> one training text, in a readable form and in a fast one.

The readable form works on strings; the fast form makes an epoch of id arrays at once, and is tested to
agree with it draw by draw. Axes: `N` examples, `D` characters of a document, `L` characters of a text
(one more than the model reads: x is all but the last, y all but the first), `T` = L - 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kgpt_jax.config import ModelConfig, UserError
from kgpt_jax.data.vocab import MASK, MASK_ID, PAD, PAD_ID, Vocab

SHORTEST = 4  # characters that truncation leaves at the least


class Examples(NamedTuple):
    """Inputs and targets, int32; a target of PAD carries no loss.

    The first `source_N` characters of a text are given, up to the MASK behind which the masked span or the
    answer begins.
    """

    x_NT: np.ndarray
    y_NT: np.ndarray
    source_N: np.ndarray


# Draws an epoch of examples; the generator decides all that is random about it.
Objective = Callable[[np.random.Generator], Examples]


class Span(NamedTuple):
    """Where a document is cut: it keeps `length` characters, of which `width` from `start` are masked."""

    length: int
    start: int
    width: int


def draw_span(document_length, uniforms_4, block_size: int) -> Span:
    """Turns four uniforms in [0, 1) into a span; works on scalars and, entry by entry, on arrays.

    The length is uniform in 4 .. int(block_size * 7/8), or the document's own where that is less. The
    width is uniform in 1 .. h, where h is length/2 - 1, an odd length rounding up or down with equal
    chance: its mean is exactly length/4. Documents below four characters mask one.
    """
    u_length, u_round, u_width, u_start = uniforms_4
    longest = int(block_size * 7 / 8)
    length = SHORTEST + np.floor(u_length * (longest - SHORTEST + 1)).astype(int)
    length = np.minimum(length, document_length)
    widest = np.maximum((length + (u_round < 0.5)) // 2 - 1, 1)
    width = np.minimum(1 + np.floor(u_width * widest).astype(int), length)
    start = np.floor(u_start * (length - width + 1)).astype(int)
    return Span(length, start, width)


def corrupt(document: str, span: Span, text_length: int) -> str:
    """Moves the masked span to the end.

    >>> corrupt("Khatchig Mouradian.", Span(length=14, start=4, width=6), 20)
    'Khat⁇oura⁇chig M□□□□'
    """
    length, start, width = span
    prefix, masked = document[:start], document[start : start + width]
    suffix = document[start + width : length]
    return f"{prefix}{MASK}{suffix}{MASK}{masked}".ljust(text_length, PAD)


def question_text(question: str, answer: str, text_length: int) -> str:
    """Lays out one question and its answer.

    >>> question_text("Where?", "Oslo", 15)
    'Where?⁇Oslo⁇□□□'
    """
    return f"{question}{MASK}{answer}{MASK}".ljust(text_length, PAD)


def span_corruption(documents: list[str], vocab: Vocab, cfg: ModelConfig) -> Objective:
    """Returns the objective that corrupts every document anew each epoch."""
    text_length, longest = cfg.seq_len + 1, int(cfg.block_size * 7 / 8)
    if longest < SHORTEST or longest + 2 > text_length:
        raise UserError(
            f"span corruption needs room for {longest} characters and two masks: model.seq_len is "
            f"{cfg.seq_len}, model.block_size {cfg.block_size}"
        )
    # Two columns beyond the documents hold MASK and PAD, so that a text is one gather.
    mask_column, pad_column = longest, longest + 1
    doc_ND = np.full((len(documents), longest + 2), PAD_ID, np.int32)
    doc_ND[:, mask_column] = MASK_ID
    length_N = np.array([len(document) for document in documents])
    for row, document in zip(doc_ND, documents):
        ids = vocab.encode(document[:longest])
        row[: len(ids)] = ids
    column_L = np.arange(text_length, dtype=np.int16)

    def examples(rng: np.random.Generator) -> Examples:
        spans = draw_span(length_N, rng.random((len(documents), 4)).T, cfg.block_size)
        length_N1, start_N1, width_N1 = (part.astype(np.int16)[:, None] for part in spans)
        second_mask_N1 = length_N1 - width_N1 + 1
        source_NL = np.where(column_L < start_N1, column_L, column_L - 1 + width_N1)
        source_NL[column_L == start_N1] = mask_column
        # `prefix MASK suffix MASK masked`: past the second mask the span itself is read.
        masked_NL = column_L - second_mask_N1 - 1
        source_NL = np.where(masked_NL >= 0, masked_NL + start_N1, source_NL)
        source_NL[masked_NL == -1] = mask_column
        source_NL[masked_NL >= width_N1] = pad_column
        text_NL = np.take_along_axis(doc_ND, source_NL, axis=1)
        source_N = second_mask_N1[:, 0].astype(np.int32) + 1
        return Examples(text_NL[:, :-1], text_NL[:, 1:], source_N)

    return examples


def question_answer(pairs: list[tuple[str, str]], vocab: Vocab, cfg: ModelConfig) -> Objective:
    """Returns the objective of questions and answers, the same every epoch.

    Only the first mask, the answer and the second mask are targets.
    """
    text_length = cfg.seq_len + 1
    text_NL = np.full((len(pairs), text_length), PAD_ID, np.int32)
    y_NT = np.full((len(pairs), cfg.seq_len), PAD_ID, np.int32)
    source_N = np.array([len(question) + 1 for question, _ in pairs], np.int32)
    for i, (question, answer) in enumerate(pairs):
        if len(question) + len(answer) + 2 > text_length:
            raise UserError(
                f"question and answer have {len(question) + len(answer)} characters where "
                f"{text_length - 2} fit: {question!r}, {answer!r}"
            )
        text_NL[i] = vocab.encode(question_text(question, answer, text_length))
        y_NT[i, len(question) - 1 :] = text_NL[i, len(question) :]
    only = Examples(text_NL[:, :-1], y_NT, source_N)
    return lambda rng: only
