"""Held out means held out: which questions are kept out of training, and which a run has learned.

Questions are split by their text, not by their rows: a question that occurs twice in a table is either
trained on or asked about, never both.
"""

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from kgpt_jax.config import UserError

UNKNOWN = "unknown"  # among the fingerprints of a run that does not record what it learned before


class Split(NamedTuple):
    """The row numbers, from 0, of the questions to train on and of those kept for validation."""

    train: list[int]
    validation: list[int]


def split(questions: Sequence[str], n_validation: int) -> Split:
    """Keeps the last `n_validation` rows out of training, except questions that occur in earlier rows too.

    >>> split(["A?", "B?", "A?", "C?"], 2)
    Split(train=[0, 1, 2], validation=[3])
    """
    first = len(questions) - n_validation
    earlier = set(questions[:first])
    kept = [i for i in range(first, len(questions)) if questions[i] not in earlier]
    return Split([i for i in range(len(questions)) if questions[i] in earlier], kept)


def fingerprints(questions: Iterable[str]) -> list[str]:
    """Returns 12 hex digits of a SHA-256 of each question; a run stores those of the questions it learned."""
    return [hashlib.sha256(question.encode("utf-8")).hexdigest()[:12] for question in questions]


def learned_rows(questions: Sequence[str], learned: Collection[str]) -> list[int]:
    """Returns the row numbers, from 0, of the questions whose fingerprints are in `learned`."""
    return [i for i, mark in enumerate(fingerprints(questions)) if mark in learned]


def refuse_learned(questions: Sequence[str], learned: Collection[str], who: str):
    """Raises a UserError if `who` has learned any of the questions; it says how many, and names the first."""
    if rows := learned_rows(questions, learned):
        raise UserError(
            f"{who} has learned the answers to {len(rows)} of the {len(questions)} questions asked, the "
            f"first {questions[rows[0]]!r}: ask a run that was trained without them, or score only the "
            "others by --config.data.skip_learned=true"
        )
