"""An epoch in chapters: of a large corpus, only a part is laid out as arrays at a time.

Documents keep their chapter, and chapters their order: the order of the documents is drawn within each.
"""

from collections.abc import Callable
from typing import NamedTuple

from kgpt_jax.config import TrainConfig
from kgpt_jax.data.batches import steps_per_epoch
from kgpt_jax.data.objectives import Objective

CHAPTER = 2**16  # documents


class Chapters(NamedTuple):
    """How to make the objective of each chapter, and how many examples it has."""

    make: list[Callable[[], Objective]]
    sizes: list[int]

    def updates(self, cfg: TrainConfig) -> list[int]:
        """Returns the updates of each chapter; none spans two."""
        return [steps_per_epoch(size, cfg) for size in self.sizes]


def chapters(objective: Objective | Chapters, n_examples: int) -> Chapters:
    """Returns an objective of `n_examples` as one chapter; what is in chapters already stays so."""
    if isinstance(objective, Chapters):
        return objective
    return Chapters([lambda: objective], [n_examples])
