"""An epoch in chapters: of a large corpus, only a part is laid out as arrays at a time.

Documents keep their chapter, and chapters their order: the order of the documents is drawn within each. Each
chapter is made of stripes (`data/batches.py`), of documents that follow each other in the corpus: a stripe's
documents change places among themselves.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from kgpt_jax.config import TrainConfig
from kgpt_jax.data.objectives import Objective

CHAPTER = 2**16  # documents, at the most
# Unless the config asks for more. Each stripe splits its own texts by length: the fewer it has, the worse.
MOST_STRIPES = 8


class Chapters(NamedTuple):
    """How to make the objective of each stripe of each chapter, and how many examples it has."""

    make: list[list[Callable[[], Objective]]]
    sizes: list[list[int]]

    @property
    def n_stripes(self) -> int:
        return len(self.make[0])

    def updates(self, cfg: TrainConfig) -> list[int]:
        """Returns the updates of each chapter; none spans two."""
        n_rows = cfg.batch_size // self.n_stripes
        return [-(-max(sizes) // n_rows) for sizes in self.sizes]


def chapters(objective: Objective | Chapters, n_examples: int) -> Chapters:
    """Returns an objective of `n_examples` as one chapter; what is in chapters already stays so."""
    if isinstance(objective, Chapters):
        return objective
    return Chapters([[lambda: objective]], [[n_examples]])


def default_stripes(n_documents: int, n_rows: int) -> int:
    """Returns how many stripes a corpus has where a piece of a batch has `n_rows` texts: a power of two."""
    return math.gcd(n_rows, MOST_STRIPES) if n_documents > CHAPTER else 1


def cut_up(n: int, stripes: int) -> list[list[tuple[int, int]]]:
    """Returns for each chapter of n documents the (first, end) of each of its stripes, as even as can be.

    >>> cut_up(5, 2)
    [[(0, 2), (2, 5)]]
    """
    n_chapters = max(1, -(-n // CHAPTER))
    bounds = [n * i // (n_chapters * stripes) for i in range(n_chapters * stripes + 1)]
    pairs = list(zip(bounds, bounds[1:]))
    return [pairs[i : i + stripes] for i in range(0, len(pairs), stripes)]
