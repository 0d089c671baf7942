"""The record of one answer, which the Python API returns, and how sure it is."""

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kgpt_jax.answer.hybrid import Told

LOOK_UP = NEVER, UNSURE, ALWAYS = "never", "unsure", "always"  # when to look answers up


def in_hundred(probability: float) -> tuple[str, int]:
    """Returns how many of 100 answers are right, as words and a number; never all or none.

    >>> in_hundred(0.876), in_hundred(0.997), in_hundred(0.003)
    (('about', 88), ('more than', 99), ('less than', 1))
    """
    if probability >= 0.995:
        return "more than", 99
    return ("less than", 1) if probability < 0.005 else ("about", max(1, round(100 * probability)))


def of_100(probability: float) -> str:
    """Returns a probability in words.

    >>> of_100(0.876)
    'of 100 answers this sure, about 88 are right'
    """
    words, number = in_hundred(probability)
    return f"of 100 answers this sure, {words} {number} are right"


class Recited(NamedTuple):
    """What a model recites about a name (`answer/recite.py`), and the answer that a reader finds in it.

    Attributes:
      answer: the answer.
      probability: that it is right, if what the model recites is right.
      text: what the model recites.
      start, end: the characters of the answer in it.
    """

    answer: str
    probability: float
    text: str
    start: int
    end: int


class Sure(NamedTuple):
    """An answer of a calibrated run (`answer/sure.py`), and how sure it is.

    Attributes:
      answer: the vote of all models.
      label: read, guessed from the name, made up or not sure (`answer/label.py`).
      known: whether the run knows the name; if not, confidence, probability and interval mean nothing.
      confidence: from 0 to 1; promises have thresholds on it.
      probability: that the answer is right.
      interval: of the probability (Venn-Abers); it has no fixed level.
      did_you_mean: a similar name in the corpus, if the run does not know the name; "" if there is none.
      evidence: what speaks for the answer and against it, by name (`answer/evidence.py`).
      one_of: the likeliest answers; the right one is among them with the probability that was asked for.
    """

    answer: str
    label: str
    known: bool
    confidence: float
    probability: float
    interval: tuple[float, float]
    did_you_mean: str
    evidence: dict[str, float]
    one_of: tuple[str, ...] = ()

    @property
    def of_100(self) -> str:
        """The probability in words."""
        return of_100(self.probability)


@dataclasses.dataclass(frozen=True)
class Answer:
    """A run's answer to one question.

    Attributes:
      question: the question, as it was asked.
      answer: the answer; empty if the question leaves no room for one. One that the model writes has at most
        32 characters; one that is read in documents, or in what the model recites, may be longer.
      log_probability: the log probability of the model's answer and its end, in nats. If a run has several
        models, their probabilities are averaged. None if the question leaves no room for an answer. A high
        probability does not mean that the answer is true.
      sure: how sure the model's answer is. None if the run has no calibration (--mode=calibrate), if it was
        calibrated with reciting and answers without it (or the reverse), or if the calibration used the
        question.
      recited: what each model recites about the name; empty without --recite.
      told: what the model and the documents say; None if the answer was not looked up.
    """

    question: str
    answer: str
    log_probability: float | None = None
    sure: Sure | None = None
    recited: tuple[Recited | None, ...] = ()
    told: "Told | None" = None

    def __str__(self) -> str:
        return self.answer
