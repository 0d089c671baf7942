"""The record of one answer, which the Python API returns."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Answer:
    """A run's answer to one question.

    Attributes:
      question: the question, as it was asked.
      answer: the answer, at most 32 characters; empty if the question leaves no room for one.
      log_probability: the model's log probability of this answer and its end, in nats. If a run has several
        models, their probabilities are averaged. None if the question leaves no room for an answer. A high
        probability does not mean that the answer is true.
    """

    question: str
    answer: str
    log_probability: float | None = None

    def __str__(self) -> str:
        return self.answer
