"""Makes training texts from documents and questions. Each objective has a readable and a fast form.

The readable form makes one text at a time, as a string. The fast form makes an epoch of id arrays at once.
Tests check that both agree for the same random draws. (The readable form of masked spans is in the test.)
`data/mixture.py` combines several objectives.

Axes: `N` examples, `D` characters of a document, `A` spans that a document offers, `L` characters of a text,
`T` = L - 1 positions. A text is one longer than the model reads: x is all but its last character, and y is
all but its first.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

import numpy as np

from kgpt_jax.config import ModelConfig, UserError
from kgpt_jax.data.spans import any_of, entities, mentions, title_length
from kgpt_jax.data.vocab import MASK, MASK_ID, PAD, PAD_ID, Vocab

SHORTEST = 4  # the least number of characters that truncation leaves


class Examples(NamedTuple):
    """An epoch's inputs and targets, int32.

    Attributes:
      x_NT: input ids.
      y_NT: target ids; a target of PAD carries no loss.
      source_N: how many characters at the start of each text are given: those up to the MASK before the
        masked span or the answer, or 1 if the whole text is predicted.
    """

    x_NT: np.ndarray
    y_NT: np.ndarray
    source_N: np.ndarray


# Draws an epoch of examples. All randomness comes from the generator.
Objective = Callable[[np.random.Generator], Examples]


class Span(NamedTuple):
    """A document's first `length` characters are kept; of them, `width` from `start` on are masked."""

    length: int
    start: int
    width: int


def draw_span(document_length, uniforms_4, block_size: int) -> Span:
    """Draws the span of the course's span corruption.

    The length is uniform in 4 .. int(block_size * 7/8), but at most the document's own length. The width is
    uniform in 1 .. h with h = length/2 - 1. Half of an odd length is rounded up or down with equal chance, so
    the mean width is exactly length/4. In documents of one to three characters, one character is masked; in
    an empty one, none.

    Args:
      document_length: a number or an array of them.
      uniforms_4: four numbers in [0, 1), or four arrays of the shape of `document_length`.
      block_size: `model.block_size`.

    Returns:
      A span of numbers or of arrays.
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
    """Returns the document's text with the masked span moved to the end, padded with PAD.

    >>> corrupt("Khatchig Mouradian.", Span(length=14, start=4, width=6), 20)
    'Khat⁇oura⁇chig M□□□□'
    """
    length, start, width = span
    prefix, masked = document[:start], document[start : start + width]
    suffix = document[start + width : length]
    return f"{prefix}{MASK}{suffix}{MASK}{masked}".ljust(text_length, PAD)


def question_text(question: str, answer: str, text_length: int) -> str:
    """Returns the text of one question and its answer, padded with PAD.

    >>> question_text("Where?", "Oslo", 15)
    'Where?⁇Oslo⁇□□□'
    """
    return f"{question}{MASK}{answer}{MASK}".ljust(text_length, PAD)


def question_room(cfg: ModelConfig) -> int:
    """Returns the most characters that a question and its answer may have together.

    Their text with two masks has at most `block_size` characters. Texts of documents may have one more, as in
    the course since 2024.
    """
    return min(cfg.seq_len + 1, cfg.block_size) - 2


class Material(NamedTuple):
    """The input of the objectives.

    Attributes:
      documents: strings, each of which becomes one text.
      pairs: the (question, answer) pairs of `question_answer`.
      answers: the answers that `answer_span` masks in documents.
    """

    documents: list[str]
    pairs: list[tuple[str, str]]
    answers: Collection[str] = ()


class DocumentTable:
    """Documents as rows of ids, followed by a column of MASK and a column of PAD.

    A text that consists of ranges of its document, MASK and PAD is then a single gather from its row.

    Args:
      documents: the documents.
      vocab: characters to ids.
      longest: how many characters of each document are used, at most.
    """

    def __init__(self, documents: list[str], vocab: Vocab, longest: int):
        self.documents = [document[:longest] for document in documents]
        self.length_N = np.array([len(document) for document in self.documents])
        self.mask_column = self.length_N.max(initial=0)
        self.id_ND = np.full((len(documents), self.mask_column + 2), PAD_ID, np.int32)
        self.id_ND[:, self.mask_column] = MASK_ID
        for row, document in zip(self.id_ND, self.documents):
            row[: len(document)] = vocab.encode(document)

    def lay_out(self, segments: list, text_length: int) -> np.ndarray:
        """Returns one text per document, (N, L): its segments, one after the other, then PAD.

        Args:
          segments: each is MASK, or a range (start_N, width_N) of columns in each document's row.
          text_length: L. Longer texts are cut off.
        """
        column_L = np.arange(text_length, dtype=np.int32)
        source_NL = np.full((len(self.documents), text_length), self.mask_column + 1, np.int32)
        end_N1 = np.zeros((len(self.documents), 1), np.int32)
        for segment in segments:
            start, width = (self.mask_column, 1) if segment is MASK else segment
            start_N1, width_N1 = (
                np.broadcast_to(v, len(end_N1)).astype(np.int32)[:, None] for v in (start, width)
            )
            inside_NL = (column_L >= end_N1) & (column_L < end_N1 + width_N1)
            source_NL = np.where(inside_NL, column_L - end_N1 + start_N1, source_NL)
            end_N1 = end_N1 + width_N1
        return np.take_along_axis(self.id_ND, source_NL, axis=1)


def span_corruption(material: Material, vocab: Vocab, cfg: ModelConfig) -> Objective:
    """Returns the course's objective: masks a span of every document, drawn anew in each epoch.

    Raises:
      UserError: a text is too short for the longest document and two masks.
    """
    text_length, longest = cfg.seq_len + 1, int(cfg.block_size * 7 / 8)
    if longest < SHORTEST or longest + 2 > text_length:
        raise UserError(
            f"span corruption needs room for {longest} characters and two masks: model.seq_len is "
            f"{cfg.seq_len}, model.block_size {cfg.block_size}"
        )
    table = DocumentTable(material.documents, vocab, longest)

    def examples(rng: np.random.Generator) -> Examples:
        spans = draw_span(table.length_N, rng.random((len(table.length_N), 4)).T, cfg.block_size)
        length_N, start_N, width_N = spans
        end_N = start_N + width_N
        segments = [(0, start_N), MASK, (end_N, length_N - end_N), MASK, (start_N, width_N)]
        text_NL = table.lay_out(segments, text_length)
        return Examples(text_NL[:, :-1], text_NL[:, 1:], (length_N - width_N + 2).astype(np.int32))

    return examples


def whole_line(material: Material, vocab: Vocab, cfg: ModelConfig) -> Objective:
    """Returns the objective that predicts documents from their first character on, cut to fit a text."""
    return _unchanging(material.documents, vocab, cfg)


def reversed_line(material: Material, vocab: Vocab, cfg: ModelConfig) -> Objective:
    """Returns the objective of documents with their words in reverse order (arXiv 2403.13799).

    >>> reverse("Chiyoki Ikeda. Born in Honolulu .")
    '. Honolulu in Born Ikeda. Chiyoki'
    """
    # Cut before reversing, so that all objectives show the same part of a document.
    cut = [document[: cfg.seq_len + 1] for document in material.documents]
    return _unchanging([reverse(document) for document in cut], vocab, cfg)


def reverse(document: str) -> str:
    """Returns the document with its words in reverse order."""
    return " ".join(reversed(document.split(" ")))


def _unchanging(documents: list[str], vocab: Vocab, cfg: ModelConfig) -> Objective:
    table = DocumentTable(documents, vocab, cfg.seq_len + 1)
    text_NL = table.lay_out([(0, table.length_N)], cfg.seq_len + 1)
    only = Examples(text_NL[:, :-1], text_NL[:, 1:], np.ones(len(documents), np.int32))
    return lambda rng: only


def draw_context(before, after, room, uniforms_3):
    """Draws how much context a masked span keeps: none in half of the cases, otherwise a random amount.

    Args:
      before, after: how many characters the document has on each side of the span; arrays of one shape.
      room: how many more characters fit into the text, in the same shape.
      uniforms_3: three arrays of that shape, in [0, 1).

    Returns:
      (left, right): how many characters to keep on each side. `left` is uniform in 0 .. min(before, room),
      and `right` is uniform in 0 .. min(after, room - left).
    """
    u_none, u_left, u_right = uniforms_3
    left = np.floor(u_left * (np.minimum(before, room) + 1)).astype(int)
    right = np.floor(u_right * (np.minimum(after, room - left) + 1)).astype(int)
    return np.where(u_none < 0.5, 0, left), np.where(u_none < 0.5, 0, right)


def entity_span(material: Material, vocab: Vocab, cfg: ModelConfig) -> Objective:
    """Returns the objective that masks one run of capitalised words (salient spans, arXiv 2002.08910).

    A text is the title, some context in which a MASK replaces the span, and the span between two MASKs:
    `Ada Bell. born in ⁇ .⁇Rome⁇`. The span is drawn anew in each epoch. A document without such a span is
    shown unmasked.
    """
    return _masked(material.documents, entities, vocab, cfg)


def answer_span(material: Material, vocab: Vocab, cfg: ModelConfig) -> Objective:
    """Returns the objective that masks a mention of an answer from the training pairs, in any document.

    The mention is drawn uniformly in each epoch. In a document without mentions, a run of capitalised words
    is masked, as in `entity_span`.
    """
    answers = any_of(set(material.answers))
    return _masked(material.documents, lambda text: mentions(text, answers) or entities(text), vocab, cfg)


def _masked(documents, find: Callable[[str], list], vocab: Vocab, cfg: ModelConfig) -> Objective:
    """Returns the objective that masks one of the spans (start, width) that `find` returns for a document."""
    text_length = cfg.seq_len + 1
    table = DocumentTable(documents, vocab, 4 * text_length)
    title_N = np.array([title_length(document) for document in table.documents])
    found = [
        [span for span in find(document) if title + span[1] + 3 <= text_length]
        for document, title in zip(table.documents, title_N)
    ]
    count_N = np.array([len(spans) for spans in found])
    span_NA2 = np.zeros((len(documents), max(1, count_N.max(initial=0)), 2), int)
    for row, spans in zip(span_NA2, found):
        row[: len(spans)] = np.reshape(spans, (-1, 2))
    none_N = count_N == 0
    masks_N = np.where(none_N, 0, 1)

    def examples(rng: np.random.Generator) -> Examples:
        uniforms = rng.random((len(documents), 4)).T
        chosen_N = (uniforms[0] * count_N).astype(int)
        start_N, width_N = span_NA2[np.arange(len(documents)), chosen_N].T
        end_N = start_N + width_N
        room_N = np.maximum(text_length - title_N - width_N - 3, 0)
        before_N, after_N = np.maximum(start_N - title_N, 0), table.length_N - end_N
        left_N, right_N = draw_context(before_N, after_N, room_N, uniforms[1:])
        left_N, right_N = (np.where(none_N, 0, width_N) for width_N in (left_N, right_N))
        kept_N = np.where(none_N, table.length_N, title_N)
        mask = (table.mask_column, masks_N)
        segments = [
            (0, kept_N),
            (start_N - left_N, left_N),
            mask,
            (end_N, right_N),
            mask,
            (start_N, width_N),
            mask,
        ]
        text_NL = table.lay_out(segments, text_length)
        source_N = np.where(none_N, 1, title_N + left_N + right_N + 2).astype(np.int32)
        return Examples(text_NL[:, :-1], text_NL[:, 1:], source_N)

    return examples


def question_answer(material: Material, vocab: Vocab, cfg: ModelConfig) -> Objective:
    """Returns the objective of questions with their answers, the same in every epoch.

    Only the first mask, the answer and the second mask are targets.

    Raises:
      UserError: a pair is too long (`question_room`).
    """
    text_length, pairs, room = cfg.seq_len + 1, material.pairs, question_room(cfg)
    text_NL = np.full((len(pairs), text_length), PAD_ID, np.int32)
    y_NT = np.full((len(pairs), cfg.seq_len), PAD_ID, np.int32)
    source_N = np.array([len(question) + 1 for question, _ in pairs], np.int32)
    for i, (question, answer) in enumerate(pairs):
        if len(question) + len(answer) > room:
            raise UserError(
                f"question and answer have {len(question) + len(answer)} characters where "
                f"{room} fit: {question!r}, {answer!r}"
            )
        text_NL[i] = vocab.encode(question_text(question, answer, text_length))
        y_NT[i, len(question) - 1 :] = text_NL[i, len(question) :]
    only = Examples(text_NL[:, :-1], y_NT, source_N)
    return lambda rng: only


OBJECTIVES = {
    function.__name__: function
    for function in (
        span_corruption,
        whole_line,
        reversed_line,
        entity_span,
        answer_span,
        question_answer,
    )
}
NEED_PAIRS = {"answer_span", "question_answer"}
