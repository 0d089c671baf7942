"""Answers questions from the documents, and says which line states the answer.

    book = open_book(config.data)
    found = book.answer("Where was Ada Bell born?")
    found.answer, found.probability, found.source

`data/lookup.py` finds the lines about the name, and `answer/reader.py` the answer in them. The reader learns
from the training questions, never from held-out ones.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from kgpt_jax.answer import reader as reading
from kgpt_jax.answer.reader import Reader
from kgpt_jax.config import DataConfig, UserError
from kgpt_jax.data import corpus
from kgpt_jax.data.lookup import Lookup
from kgpt_jax.data.names import Frame, frame
from kgpt_jax.data.people import everyone

MAX_CANDIDATES = 5  # candidates that are reported


class Source(NamedTuple):
    """The line that states an answer.

    Attributes:
      line: the number of the line in the corpus, from 1.
      text: the line.
      start, end: the characters of the answer in it.
    """

    line: int
    text: str
    start: int
    end: int


class LookedUp(NamedTuple):
    """An answer that was looked up.

    Attributes:
      answer: the answer.
      probability: that it is right, if the lines are about the name.
      source: the line that states it.
      name: the name that the line is about.
      how: how the name was found: name, similar name or text (`data/lookup.py`).
      others: further names that are as similar.
      candidates: the likeliest answers with their probabilities.
    """

    answer: str
    probability: float
    source: Source
    name: str
    how: str
    others: tuple[str, ...]
    candidates: dict[str, float]


class OpenBook(NamedTuple):
    """Documents that can be asked.

    Attributes:
      documents: the documents.
      where: the form of the questions.
      lookup: an index of the documents.
      reader: the reader.
    """

    documents: Sequence[str]
    where: Frame
    lookup: Lookup
    reader: Reader

    def answer(self, question: str) -> LookedUp | None:
        """Returns the likeliest answer in the lines about the name in a question.

        Returns:
          The answer, or None if the question has another form, or no line is about its name.

        Raises:
          UserError: the name is in no document, and a package that would look further is not installed.
        """
        name = self.where.name(question)
        if name is None:
            return None
        rows, found, how, others = self.lookup.find(name)
        answers = self.reader.read([self.documents[row] for row in rows], found)
        if not answers:
            return None
        answer, (probability, (line, start, end)) = next(iter(answers.items()))
        source = Source(rows[line] + 1, self.documents[rows[line]], start, end)
        told = {text: each.probability for text, each in list(answers.items())[:MAX_CANDIDATES]}
        return LookedUp(answer, probability, source, found, how, others, told)


def open_book(data: DataConfig, without: Collection[str] = ()) -> OpenBook:
    """Reads the documents and trains a reader on the training questions, which takes seconds.

    Args:
      data: names the documents and the training questions.
      without: questions that the reader must not learn from, because their answers will be scored.

    Raises:
      UserError: a file cannot be read, the questions do not have one form, or no document is about the name
        of a question to learn from.
    """
    pairs, documents = corpus.load_pairs(data).pairs, corpus.load_documents(data).documents
    where = frame([question for question, _ in pairs])
    lookup = Lookup(documents, everyone(data, where))
    learned = [pair for pair in pairs if pair[0] not in without]
    lines = lines_of(learned, where, documents, lookup)
    if not lines:
        raise UserError(
            f"no document is about the name of any of {len(learned)} training questions: a reader needs some"
        )
    return OpenBook(documents, where, lookup, reading.train(lines))


def lines_of(
    pairs: Sequence[tuple[str, str]], where: Frame, documents: Sequence[str], lookup: Lookup
) -> list[reading.Lesson]:
    """Returns (lines about the name, name, answer) of each pair whose name has a line."""
    named = [(where.name(question), answer) for question, answer in pairs]
    return [
        ([documents[row] for row in lookup.rows_of[name]], name, answer)
        for name, answer in named
        if name in lookup.rows_of
    ]
