"""The record of one answer, which the Python API returns."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a run answered to one question.

    Attributes:
      question: the question, as it was asked.
      answer: the answer, at most 32 characters; empty if the question leaves no room for one.
      log_probability: the natural logarithm of the probability that the model gives to this answer and its
        end. If a run has several models, their probabilities are averaged. None if the question leaves no
        room. A high probability is not a promise that the answer is true.
    """

    question: str
    answer: str
    log_probability: float | None = None

    def __str__(self) -> str:
        return self.answer
