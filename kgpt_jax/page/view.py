"""What the page shows about one question.

    answerer = open_answerer(voters, recites=False)
    view = answerer.view(answerer.question("Jana Lund"))
    view.told.answer, view.told.label, view.lines, view.attention

Axes: `H` heads, `T` query positions, `S` key positions, `W` words.
"""

import logging
import re
import time
from collections.abc import Sequence
from typing import NamedTuple

from kgpt_jax.answer.attention import attention_maps
from kgpt_jax.answer.hybrid import LOOKED_UP, Told, look_up
from kgpt_jax.answer.label import GUESSED, LIKELY_WRONG, MADE_UP, NOT_SURE, READ
from kgpt_jax.answer.open_book import OpenBook, open_book
from kgpt_jax.answer.record import ALWAYS, Recited, Sure
from kgpt_jax.answer.sure import Judge, probabilities
from kgpt_jax.answer.taught import TOLD, taught, teach
from kgpt_jax.answer.voters import Voter, ask
from kgpt_jax.config import UserError
from kgpt_jax.data.lookup import SIMILAR
from kgpt_jax.data.names import Frame
from kgpt_jax.data.vocab import MASK, PAD
from kgpt_jax.model.gpt import GPT

log = logging.getLogger(__name__)

MEANING = {
    READ: "the run knows this name, and is sure of an answer that strangers with a part of it do not get",
    GUESSED: "strangers who share a part of this name get the same answer",
    MADE_UP: f"the run does not know this name, or its confidence is below {LIKELY_WRONG:.0%}",
    NOT_SURE: "the run knows this name, and its answer is neither clearly read nor clearly guessed",
    LOOKED_UP: "a line of the documents states the answer",
    TOLD: "somebody told this run the answer",
}
MAX_QUESTION = 200  # characters of a question
OTHERS, LINES, EXAMPLES = 4, 20, 3  # the most that are shown
WARM_UP = 6.0  # seconds, after which it asks no further question


class Line(NamedTuple):
    """A line of the documents, or a recited one: its number from 1, its text before, in and after a mark."""

    number: int
    before: str
    marked: str
    after: str


class Head(NamedTuple):
    """How much a head attends to each word when it writes the first letter: shares of 100, (W,)."""

    layer: int
    head: int
    shares: list[int]


class Attention(NamedTuple):
    """The heads of the layers that attend to words; the words; or why there are none."""

    words: list[str]
    heads: list[Head]
    why_not: str = ""


class View(NamedTuple):
    """What the page shows about one question.

    Attributes:
      question: the question, as it was asked.
      told: the answer, from the weights or from the documents.
      sure: how sure the weights are; None if the run is not calibrated or the question was used for that.
      why_not_sure: why `sure` is None.
      unknown: why there is no answer; "" if there is one.
      others: the next answers of the weights, with their probabilities.
      recited: what the weights recite about the name; None without --recite, or if no answer is in it.
      line: the line that states the answer of the documents.
      lines: all lines about the name.
      more: how many further lines there are.
      did_you_mean: names that may be meant.
      attention: what the first model attends to.
      left_out: the characters of the question that the vocabulary lacks.
      why_no_book: why the documents were not asked; "" if they were.
    """

    question: str
    told: Told
    sure: Sure | None
    why_not_sure: str
    unknown: str
    others: dict[str, float]
    recited: Line | None
    line: Line | None
    lines: list[Line]
    more: int
    did_you_mean: list[str]
    attention: Attention
    left_out: str
    why_no_book: str


class Answerer(NamedTuple):
    """Runs that answer by vote, and their documents.

    Attributes:
      judge: the runs with their calibration.
      book: their documents; None if they cannot be asked.
      why_no_book: why `book` is None.
      recites: whether the models recite before they answer.
    """

    judge: Judge
    book: OpenBook | None
    why_no_book: str
    recites: bool = False

    @property
    def voters(self) -> Sequence[Voter]:
        """The runs."""
        return self.judge.voters

    @property
    def where(self) -> Frame | None:
        """The form of the questions, if it is known."""
        if self.book:
            return self.book.where
        return self.judge.made.asks.where if self.judge.made else None

    @property
    def examples(self) -> list[str]:
        """Names to try."""
        names = list(self.book.lookup.rows_of) if self.book else []
        return names[:: max(len(names) // EXAMPLES, 1)][:EXAMPLES]

    @property
    def runs(self) -> list[tuple[str, str, str]]:
        """The end of each run's folder, its variant and its stage."""
        return [
            ("/".join(run.folder.absolute().parts[-3:]), config.model.variant, str(run.facts["stage"]))
            for run, config, _ in self.voters
        ]

    def question(self, text: str) -> str:
        """Returns the question that a text asks. A text of another form is taken for a name.

        Raises:
          UserError: the text is empty, or its question is longer than MAX_QUESTION or too long for the run.
        """
        known = self.voters[0].run.vocab.id_of
        kept = [c for c in text if c not in (MASK, PAD) and (c.isprintable() or c.isspace() or c in known)]
        text = " ".join("".join(kept).split())
        if not text:
            raise UserError("write a name or a question")
        room = min(MAX_QUESTION, *(voter.config.model.seq_len - 1 for voter in self.voters))
        if len(text) <= room and self.where and self.where.name(text) is None and text not in self.taught():
            text = self.where.question(_bare_name(self.where, text))
        if len(text) > room:
            raise UserError(f"the question has {len(text)} characters: at most {room} fit")
        return text

    def view(self, question: str) -> View:
        """Answers a question that `question` returned."""
        run = self.voters[0].run
        given = ask(self.voters, [question], book=self.book if self.recites else None)
        why_not_sure = self.judge.problem or self.judge.other_way(self.recites)
        if self.judge.used([question]):
            why_not_sure = "This question was used for the calibration, which would flatter its figures."
        [each] = [None] if why_not_sure else self.judge.sure([question], given)
        name = (self.where and self.where.name(question)) or ""
        told, why_no_book = self._look_up(question, given.vote, each)
        before = self.taught()
        if question in before:
            told = told._replace(answer=before[question], confidence=None, probability=None, label=TOLD)
        found = told.looked_up
        rows = self.book.lookup.rows_about(found.name) if self.book and found else []
        similar = [found.name, *found.others] if found and found.how == SIMILAR else []
        meant = [each.did_you_mean] if each and each.did_you_mean else []
        candidates = probabilities(self.voters, [question])[0]
        others = {text: p for text, p in candidates.items() if text and text != told.model_answer}
        return View(
            question,
            told,
            each,
            why_not_sure,
            _why_unknown(told, each, name),
            dict(list(others.items())[:OTHERS]),
            _recital(told.model_answer, [each[0] for each in given.recited]),
            _line(*found.source) if found else None,
            [_line(row + 1, self.book.documents[row]) for row in rows[:LINES]] if self.book else [],
            max(len(rows) - LINES, 0),
            list(dict.fromkeys(meant + similar)),
            self._attention(question),
            run.vocab.unknown(question),
            why_no_book,
        )

    def taught(self) -> dict[str, str]:
        """Returns the answers that the first run was told, by question; none, with a note, if it cannot."""
        folder = self.voters[0].run.folder
        try:
            try:
                pairs = taught(folder)
            except UserError:  # somebody may have taught the run between two reads of the file
                pairs = taught(folder)
        except UserError as error:
            log.info(f"note: what the run was told is not used, because {error}")
            return {}
        return {
            " ".join(question.split()): answer for question, answer in pairs.items()
        }  # as `question` does

    def teach(self, question: str, answer: str):
        """Tells the first run an answer. Raises a UserError if it cannot be one, or cannot be written."""
        teach(self.voters[0].run.folder, question, answer)

    def warm_up(self):
        """Asks about names of all lengths, so that the first visitor waits for no compilation."""
        began = time.perf_counter()
        names = list(self.book.lookup.rows_of) if self.book else []
        for name in ("Nemo Nobody", *{len(name): name for name in names}.values()):
            try:
                self.view(self.question(name))
            except UserError:  # a name that is too long
                continue
            if time.perf_counter() - began > WARM_UP:
                return

    def _look_up(self, question: str, answers: list[str], each: Sure | None) -> tuple[Told, str]:
        """Returns the answer that is given, and why the documents were not asked."""
        try:
            return look_up(self.book, ALWAYS, [question], answers, [each])[0], self.why_no_book
        except UserError as error:  # it may name a path, which the page does not show
            log.info(f"note: {question!r} is not looked up, because {error}")
            return look_up(None, ALWAYS, [question], answers, [each])[
                0
            ], "the documents could not be searched"

    def _attention(self, question: str) -> Attention:
        """Returns what each head of the first model attends to when it writes the first letter."""
        run, config, _ = self.voters[0]
        text = "".join(c for c in question if c in run.vocab.id_of) + MASK
        words = [(found.start(), found[0]) for found in re.finditer(r"[^ ⁇]+ ?|⁇", text)]
        starts, ends = [start for start, _ in words], [start for start, _ in words[1:]] + [len(text)]
        heads = []
        try:  # padded to one length, which compiles once
            maps = attention_maps(
                GPT(config.model),
                self.voters[0].models[0],
                run.vocab,
                text.ljust(config.model.seq_len, PAD),
                len(text),
            )
        except UserError as error:
            return Attention([], [], f"{error}.")
        for layer, found in enumerate(maps, 1):
            if "".join(found.rows[: len(text)]) == "".join(found.columns[: len(text)]) == text:
                for head, weight_S in enumerate(found.weights_HTS[:, len(text) - 1], 1):
                    shares = [
                        round(100 * float(weight_S[start:end].sum())) for start, end in zip(starts, ends)
                    ]
                    heads.append(Head(layer, head, shares))
        why_not = "" if heads else "The layers of this variant attend to latents, not to words."
        return Attention([word.strip() for _, word in words], heads, why_not)


def open_answerer(voters: Sequence[Voter], recites: bool = False) -> Answerer:
    """Returns an `Answerer` of the runs, with their calibration and documents if those can be used.

    Logs a note if they cannot. The page does not show it, because the note may name a path.

    Args:
      voters: the runs. All of their models vote.
      recites: whether the models recite before they answer.

    Raises:
      UserError: they are to recite, and there is no reader, because the documents cannot be used.
    """
    book, why_no_book = None, ""
    try:
        book = open_book(voters[0].config.data)
    except UserError as error:
        if recites:
            raise
        why_no_book = "the documents cannot be used"
        log.info(f"note: nothing is looked up, because {error}")
    return Answerer(Judge(voters), book, why_no_book, recites)


def _line(number: int, text: str, start: int = 0, end: int = 0) -> Line:
    """Returns a line whose characters from `start` to `end` are marked."""
    return Line(number, text[:start], text[start:end], text[end:])


def _recital(answer: str, recited: Sequence[Recited | None]) -> Line | None:
    """Returns the recitation with this answer, or else the first one; None if there is none."""
    there = [each for each in recited if each]
    there.sort(key=lambda each: each.answer != answer)
    return _line(0, *there[0][2:]) if there else None


def _why_unknown(told: Told, each: Sure | None, name: str) -> str:
    """Returns why a question gets no answer; "" if it gets one."""
    if told.label in (LOOKED_UP, TOLD):
        return ""
    if each and not each.known:
        return (
            f"this run does not know the name {name}"
            if name
            else "this question is not like those of the training"
        )
    return "" if told.answer else "the model wrote nothing"


def _bare_name(where: Frame, text: str) -> str:
    """Returns a text without the words of a question around a name, whatever their case and punctuation.

    >>> where = Frame("Where was ", " born?")
    >>> _bare_name(where, "where was Ada Bell born"), _bare_name(where, "Ada Osborn?")
    ('Ada Bell', 'Ada Osborn')
    """
    before, after = (re.escape(part.strip(" ?.!")) for part in where)
    found = re.fullmatch(rf"(?:{before}\s+)?(.+?)(?:\s+{after}\.?)?[ ?!]*", text, re.IGNORECASE)
    return found[1] if found else text
