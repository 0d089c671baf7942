"""Held-out questions: splits questions for validation, and finds those that a run has learned.

Questions are split by their text, not by row: a question that occurs twice in a table is either trained on or
held out, never both.
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from kgpt_jax.config import UserError

UNKNOWN = "unknown"  # stands among the fingerprints of a run whose record of learned questions is incomplete


class Split(NamedTuple):
    """The indices of the questions to train on, and of the questions held out for validation."""

    train: list[int]
    validation: list[int]


def hold_out(questions: Sequence[str], n_validation: int) -> Split:
    """Holds out the last `n_validation` questions, except those that also occur in earlier rows.

    >>> hold_out(["A?", "B?", "A?", "C?"], 2)
    Split(train=[0, 1, 2], validation=[3])
    """
    first = len(questions) - n_validation
    earlier = set(questions[:first])
    kept = [i for i in range(first, len(questions)) if questions[i] not in earlier]
    return Split([i for i in range(len(questions)) if questions[i] in earlier], kept)


class Parts(NamedTuple):
    """The indices of held-out questions, by what they may be used for.

    Attributes:
      clean: nothing has been chosen or fitted on them: they measure, and set thresholds.
      fit: fit a calibration; recipes may have been chosen on them.
    """

    clean: list[int]
    fit: list[int]


def parts(questions: Sequence[str], n_fit: int) -> Parts:
    """Divides held-out questions: the last `n_fit` rows are for the fit, and all rows with their questions.

    >>> parts(["A?", "B?", "A?", "C?"], 2)
    Parts(clean=[1], fit=[0, 2, 3])
    """
    for_fit = set(questions[max(len(questions) - n_fit, 0) :])
    rows = range(len(questions))
    return Parts(
        [i for i in rows if questions[i] not in for_fit], [i for i in rows if questions[i] in for_fit]
    )


def fingerprints(questions: Iterable[str]) -> list[str]:
    """Returns 12 hex digits of a SHA-256 of each question. A run stores those of the questions it learned."""
    return [hashlib.sha256(question.encode("utf-8")).hexdigest()[:12] for question in questions]


def learned_rows(questions: Sequence[str], learned: Collection[str]) -> list[int]:
    """Returns the indices of the questions whose fingerprints are in `learned`."""
    return [i for i, mark in enumerate(fingerprints(questions)) if mark in learned]


def refuse_learned(questions: Sequence[str], learned: Collection[str], who: str):
    """Raises a UserError if `who` has learned any of the questions. The message names the first one."""
    if rows := learned_rows(questions, learned):
        raise UserError(
            f"{who} has learned the answers to {len(rows)} of the {len(questions)} questions asked, the "
            f"first {questions[rows[0]]!r}: ask a run that was trained without them, or score only the "
            "others by --config.data.skip_learned=true"
        )
