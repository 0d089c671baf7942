"""Combines the model's answer with the answer of the documents.

    told = look_up(open_book(config.data), "always", questions, answers, sure)
    told[0].answer, told[0].label, told[0].looked_up.source

With `always`, every question is looked up. With `unsure`, a question is looked up if the model does not know
its name, or if the confidence in its answer is below SURE_ENOUGH. The answer with the higher confidence is
given. Without a calibration, it is that of the documents if a line is about the name. Lines about a similar
name are shown, but give no answer: the name may be misspelled, or somebody else's.
"""

from collections.abc import Sequence
from typing import NamedTuple

from kgpt_jax.answer.open_book import LookedUp, OpenBook
from kgpt_jax.answer.record import ALWAYS, LOOK_UP, UNSURE, Sure
from kgpt_jax.config import UserError
from kgpt_jax.data.lookup import NAME

LOOKED_UP = "looked up"
SURE_ENOUGH = 0.8  # answers with a higher confidence are not looked up when `unsure`


class Told(NamedTuple):
    """An answer to a question.

    Attributes:
      answer: the answer that is given.
      confidence: from 0 to 1; promises have thresholds on it. That of the documents is the reader's
        probability. None if the model answers and is not calibrated, or does not know the name.
      probability: that it is right; None where the confidence is None.
      label: looked up, told by you, or the label of the model's answer (`answer/label.py`), "" if it has
        none.
      model_answer: what the weights say.
      looked_up: what the documents say, if they were asked and say something.
      asked: whether the documents were asked.
    """

    answer: str
    confidence: float | None
    probability: float | None
    label: str
    model_answer: str
    looked_up: LookedUp | None = None
    asked: bool = False

    @property
    def differ(self) -> bool:
        """Whether the weights and the documents say different things."""
        return self.looked_up is not None and self.looked_up.answer != self.model_answer


def look_up(
    book: OpenBook | None,
    how: str,
    questions: Sequence[str],
    answers: Sequence[str],
    sure: Sequence[Sure | None],
) -> list[Told]:
    """Returns an answer to each question, from the model or from the documents.

    Args:
      book: the documents; None looks nothing up.
      how: never, unsure or always.
      questions: the questions.
      answers: the model's answers.
      sure: how sure each of them is; where that is None, the question is looked up, and the documents win.

    Raises:
      UserError: `how` is none of these, or a package that looks for similar names is not installed.
    """
    if how not in LOOK_UP:
        raise UserError(f"look_up is {how!r}: choose from {', '.join(LOOK_UP)}")
    found = []
    for question, answer, each in zip(questions, answers, sure):
        own, right = (each.confidence, each.probability) if each and each.known else (None, None)
        told = Told(answer, own, right, each.label if each else "", answer)
        if book and is_asked(how, own):
            there = book.answer(question)
            if there and there.how == NAME and wins(there.probability, how, own):
                told = Told(there.answer, there.probability, there.probability, LOOKED_UP, answer)
            told = told._replace(looked_up=there, asked=True)
        found.append(told)
    return found


def is_asked(how: str, own: float | None) -> bool:
    """Returns whether the documents are asked, given the model's confidence, or None if it has none."""
    return how == ALWAYS or how == UNSURE and (own is None or own < SURE_ENOUGH)


def wins(there: float, how: str, own: float | None) -> bool:
    """Returns whether the documents' answer is given: by its confidence and the model's, if there is one."""
    return is_asked(how, own) and (own is None or there >= own)
