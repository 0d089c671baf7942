"""An epoch in chunks: of a large corpus, only a part is laid out as arrays at a time.

Documents keep their chunk, and chunks their order: the order of the documents is drawn within each. Each
chunk is made of shards (`data/batches.py`), of documents that follow each other in the corpus: a shard's
documents change places among themselves.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from kgpt_jax.config import TrainConfig, UserError
from kgpt_jax.data.batches import most_microbatches
from kgpt_jax.data.mixture import examples_of
from kgpt_jax.data.objectives import Objective

# Characters of a chunk's texts at the most, questions left out: 65,536 texts of 128. An array of them
# takes 34 MB whatever the length of a text; two chunks are in memory at a time.
CHUNK = 2**23
# Unless the config asks for more. Each shard splits its own texts by length: the fewer it has, the worse.
MOST_SHARDS = 8


class Chunks(NamedTuple):
    """How to make the objective of each shard of each chunk, and how many examples it has."""

    make: list[list[Callable[[], Objective]]]
    sizes: list[list[int]]

    @property
    def n_shards(self) -> int:
        return len(self.make[0])

    def updates(self, cfg: TrainConfig) -> list[int]:
        """Returns the updates of each chunk; none spans two."""
        n_rows = cfg.batch_size // self.n_shards
        return [-(-max(sizes) // n_rows) for sizes in self.sizes]


def chunks(objective: Objective | Chunks, n_examples: int) -> Chunks:
    """Returns an objective of `n_examples` as one chunk; what is in chunks already stays so."""
    if isinstance(objective, Chunks):
        return objective
    return Chunks([[lambda: objective]], [[n_examples]])


def n_chunks(n_documents: int, text_length: int) -> int:
    """Returns the number of chunks of a corpus whose texts have `text_length` characters."""
    return max(1, -(-n_documents // (CHUNK // text_length)))


def n_shards(asked: int, cfg: TrainConfig, n_documents: int, text_length: int) -> int:
    """Returns how many shards documents have; where none are asked for (0), a power of two.

    A UserError where the texts of a microbatch of a batch don't divide by what is asked for.
    """
    n_rows, rest = divmod(cfg.batch_size, most_microbatches(cfg))  # the least that a microbatch has
    if not n_documents:  # but questions only
        return 1
    if not asked:
        one = rest or n_chunks(n_documents, text_length) == 1
        return 1 if one else math.gcd(n_rows, MOST_SHARDS)
    if asked > n_documents or (asked > 1 and (n_rows % asked or rest)):
        raise UserError(
            f"data.shards is {asked}: give a number, the {n_documents} documents' at the most, that divides "
            f"the texts of a microbatch, {cfg.batch_size} / {most_microbatches(cfg)}"
        )
    return asked


def cut_up(n: int, shards: int, text_length: int) -> list[list[tuple[int, int]]]:
    """Returns for each chunk of n documents the (first, end) of each of its shards, as even as can be.

    >>> cut_up(5, 2, text_length=128)
    [[(0, 2), (2, 5)]]
    """
    n_parts = n_chunks(n, text_length) * shards
    bounds = [n * i // n_parts for i in range(n_parts + 1)]
    parts = list(zip(bounds, bounds[1:]))
    return [parts[i : i + shards] for i in range(0, len(parts), shards)]


def in_chunks(
    recipe: str,
    documents: Sequence[str],
    pairs: list[tuple[str, str]],
    cuts: list[list[tuple[int, int]]],
    make: Callable[[list[str], list[tuple[str, str]], int], Objective],
) -> Chunks:
    """Returns a mixture's corpus as `cut_up` cuts it.

    `make` is given the documents of a part, the training pairs that it asks about, and how many questions
    it has. Of the pairs each shard has its own, so that everybody is asked about alike.
    """
    # Differences, so that a chunk has its share of questions, however many shards.
    upto = [[examples_of(recipe, end - chunk[0][0], 0) for _, end in chunk] for chunk in cuts]
    sizes = [np.diff(ends, prepend=0).tolist() for ends in upto]

    def part(chunk: int, shard: int) -> Objective:
        first, end = cuts[chunk][shard]
        own = pairs[shard :: len(cuts[chunk])] or pairs
        return make(documents[first:end], own, sizes[chunk][shard] - (end - first))

    return Chunks([[partial(part, i, j) for j in range(len(cuts[i]))] for i in range(len(cuts))], sizes)
