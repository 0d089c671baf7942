"""An epoch in chapters: of a large corpus, only a part is laid out as arrays at a time.

Documents keep their chapter, and chapters their order: the order of the documents is drawn within each. Each
chapter is made of stripes (`data/batches.py`), of documents that follow each other in the corpus: a stripe's
documents change places among themselves.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from kgpt_jax.config import TrainConfig, UserError
from kgpt_jax.data.batches import most_pieces
from kgpt_jax.data.mixture import examples_of
from kgpt_jax.data.objectives import Objective

# Characters of a chapter's texts at the most, questions left out: 65,536 texts of 128. An array of them
# takes 34 MB whatever the length of a text; two chapters are in memory at a time.
CHAPTER = 2**23
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


def n_chapters(n_documents: int, text_length: int) -> int:
    """Returns the number of chapters of a corpus whose texts have `text_length` characters."""
    return max(1, -(-n_documents // (CHAPTER // text_length)))


def n_stripes(asked: int, cfg: TrainConfig, n_documents: int, text_length: int) -> int:
    """Returns how many stripes documents have; where none are asked for (0), a power of two.

    A UserError where the texts of a piece of a batch don't divide by what is asked for.
    """
    n_rows, rest = divmod(cfg.batch_size, most_pieces(cfg))  # the least that a piece has
    if not n_documents:  # but questions only
        return 1
    if not asked:
        one = rest or n_chapters(n_documents, text_length) == 1
        return 1 if one else math.gcd(n_rows, MOST_STRIPES)
    if asked > n_documents or (asked > 1 and (n_rows % asked or rest)):
        raise UserError(
            f"data.stripes is {asked}: give a number, the {n_documents} documents' at the most, that divides "
            f"the texts of a piece, {cfg.batch_size} / {most_pieces(cfg)}"
        )
    return asked


def cut_up(n: int, stripes: int, text_length: int) -> list[list[tuple[int, int]]]:
    """Returns for each chapter of n documents the (first, end) of each of its stripes, as even as can be.

    >>> cut_up(5, 2, text_length=128)
    [[(0, 2), (2, 5)]]
    """
    n_parts = n_chapters(n, text_length) * stripes
    bounds = [n * i // n_parts for i in range(n_parts + 1)]
    parts = list(zip(bounds, bounds[1:]))
    return [parts[i : i + stripes] for i in range(0, len(parts), stripes)]


def in_chapters(
    recipe: str,
    documents: Sequence[str],
    pairs: list[tuple[str, str]],
    cuts: list[list[tuple[int, int]]],
    make: Callable[[list[str], list[tuple[str, str]], int], Objective],
) -> Chapters:
    """Returns a mixture's corpus as `cut_up` cuts it.

    `make` is given the documents of a part, the training pairs that it asks about, and how many questions
    it has. Of the pairs each stripe has its own, so that everybody is asked about alike.
    """
    # Differences, so that a chapter has its share of questions, however many stripes.
    upto = [[examples_of(recipe, end - chapter[0][0], 0) for _, end in chapter] for chapter in cuts]
    sizes = [np.diff(ends, prepend=0).tolist() for ends in upto]

    def part(chapter: int, stripe: int) -> Objective:
        first, end = cuts[chapter][stripe]
        own = pairs[stripe :: len(cuts[chapter])] or pairs
        return make(documents[first:end], own, sizes[chapter][stripe] - (end - first))

    return Chapters([[partial(part, i, j) for j in range(len(cuts[i]))] for i in range(len(cuts))], sizes)
