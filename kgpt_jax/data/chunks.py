"""Cuts the epoch of a large corpus into chunks and shards (`data/__init__.py` defines both).

Chunks keep their order. Shuffling moves a document only within its shard of its chunk.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from kgpt_jax.config import TrainConfig, UserError
from kgpt_jax.data.batches import max_microbatches
from kgpt_jax.data.objectives import Objective

# The most characters in the document texts of a chunk: 65,536 texts of 128, which take 34 MB as int32. Two
# chunks are in memory at a time. Texts of questions are not counted.
CHUNK_CHARACTERS = 2**23
# The default's upper limit. Each shard sorts only its own texts by length, so more shards mean more padding.
MAX_SHARDS = 8


class Chunks(NamedTuple):
    """The objectives of an epoch's chunks and shards, made when they are needed, and their sizes.

    Attributes:
      make: `make(chunk, shard)` returns the objective of a shard of a chunk, by their numbers.
      sizes: `sizes[chunk][shard]` is the number of its examples. All chunks have equally many shards.
    """

    make: Callable[[int, int], Objective]
    sizes: list[list[int]]

    @classmethod
    def of(cls, objective: Objective, n_examples: int) -> "Chunks":
        """Returns an epoch that is one chunk with one shard."""
        return cls(lambda chunk, shard: objective, [[n_examples]])

    @property
    def n_shards(self) -> int:
        return len(self.sizes[0])

    def updates(self, cfg: TrainConfig) -> list[int]:
        """Returns the number of updates in each chunk, which its largest shard decides."""
        n_rows = cfg.batch_size // self.n_shards
        return [-(-max(sizes) // n_rows) for sizes in self.sizes]

    def n_examples(self, cfg: TrainConfig) -> int:
        """Returns the number of examples in an epoch, as the learning rate's schedule counts them.

        With several chunks or shards, every batch counts as full, although the last ones contain padding.
        """
        if len(self.sizes) == self.n_shards == 1:
            return self.sizes[0][0]
        return sum(self.updates(cfg)) * cfg.batch_size


def count_chunks(n_documents: int, text_length: int) -> int:
    """Returns the number of chunks of a corpus whose texts have `text_length` characters."""
    return max(1, -(-n_documents // (CHUNK_CHARACTERS // text_length)))


def count_shards(asked: int, cfg: TrainConfig, n_documents: int, text_length: int) -> int:
    """Returns the number of shards of a corpus.

    Args:
      asked: `data.shards`. 0 chooses one shard for a corpus of one chunk, and otherwise the largest power of
        two up to 8 that divides the rows of a microbatch.
      cfg: the stage. A shard fills batch_size / n_shards rows, equally many in each microbatch.
      n_documents: the number of documents in the corpus.
      text_length: characters of a text.

    Raises:
      UserError: `asked` is more than the documents, or does not divide the rows of a microbatch.
    """
    n_rows, rest = divmod(cfg.batch_size, max_microbatches(cfg))  # of the smallest microbatches
    if not n_documents:  # a stage that reads questions only
        return 1
    if not asked:
        one = rest or count_chunks(n_documents, text_length) == 1
        return 1 if one else math.gcd(n_rows, MAX_SHARDS)
    if asked > n_documents or (asked > 1 and (n_rows % asked or rest)):
        raise UserError(
            f"data.shards is {asked}: give a number up to {n_documents}, the number of documents, that "
            f"divides the texts of a microbatch, {cfg.batch_size} / {max_microbatches(cfg)}"
        )
    return asked


def bounds(n_documents: int, n_shards: int, text_length: int) -> list[list[tuple[int, int]]]:
    """Returns `bounds[chunk][shard]`, the range (first, end) of documents. Sizes differ by at most one.

    >>> bounds(5, n_shards=2, text_length=128)
    [[(0, 2), (2, 5)]]
    """
    n = count_chunks(n_documents, text_length) * n_shards
    ends = [n_documents * i // n for i in range(n + 1)]
    ranges = list(zip(ends, ends[1:]))
    return [ranges[i : i + n_shards] for i in range(0, n, n_shards)]
