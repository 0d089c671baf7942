"""Turns examples into batches of a few fixed shapes, in an order that seed, epoch, chunk and shard decide.

Padding carries no loss, so columns with padding only are cut off. Each batch gets one of a few widths, for
each of which one program is compiled. A batch whose texts differ in length is split by length into
microbatches, and each is cut to its own width. `data/__init__.py` defines chunk, shard and microbatch.

Axes: `N` examples, `B` rows of a batch, `T` positions.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kgpt_jax.config import TrainConfig
from kgpt_jax.data.objectives import Objective
from kgpt_jax.data.vocab import PAD_ID

WIDTH_STEP = 16  # widths are multiples of this, or the full width
# Small microbatches leave little padding and fit a core's cache; below 8 texts, matrix products are slow.
MICROBATCHES_ON_CPU, LEAST_ROWS_ON_CPU = 16, 8
LARGE_BATCH = 128  # texts; so many at once do not fit into a CPU's cache


class Batch(NamedTuple):
    """The inputs and targets of one update, int32.

    Attributes:
      x_BT: input ids.
      y_BT: target ids; a target of PAD carries no loss.
      source_B: how many characters at the start of each row are given, not predicted.
    """

    x_BT: np.ndarray
    y_BT: np.ndarray
    source_B: np.ndarray


class Microbatch(NamedTuple):
    """Some rows of an update's batch.

    Attributes:
      batch: the rows, cut to their own width.
      weight: 1 / targets in the whole batch. The sum over microbatches of weight * summed loss is the batch's
        mean loss.
      number: the microbatch's place in the update, from 0.
      last: True for the last microbatch of the update.
      tokens: its characters, without padding.
    """

    batch: Batch
    weight: np.float32
    number: np.int32
    last: np.bool_
    tokens: np.int32


class Size(NamedTuple):
    """The size of a microbatch. Processes exchange it, because each has only some of the rows."""

    width: int  # columns
    targets: int  # characters that are predicted
    tokens: int  # characters, without padding


def max_microbatches(cfg: TrainConfig) -> int:
    """Returns the largest number of microbatches that a batch is split into on any device."""
    if cfg.microbatches or (cfg.group_by_length and cfg.batch_size < LARGE_BATCH):
        return cfg.microbatches or 1
    return min(MICROBATCHES_ON_CPU, max(1, cfg.batch_size // LEAST_ROWS_ON_CPU))


def steps_per_epoch(n_examples: int, cfg: TrainConfig) -> int:
    """Returns the number of batches in an epoch. The last one may have fewer examples."""
    return -(-n_examples // cfg.batch_size)


def epoch_batches(
    objective: Objective,
    cfg: TrainConfig,
    seed: int,
    epoch: int,
    chunk: int | None = None,
    shard: int = 0,
    n_shards: int = 1,
    n_batches: int = 0,
) -> list[Batch]:
    """Returns the batches of an epoch or of one chunk; with several shards, one shard's rows of them.

    Every example occurs once. The last batch is padded with rows of PAD. With `cfg.group_by_length`, examples
    are sorted by length and cut into batches. Then groups of consecutive batches are shuffled. A group is
    what fits into one call, and at least one batch, so that a call has one width.

    Args:
      objective: draws the examples.
      cfg: batch size, order and grouping.
      seed: the run's seed. Everything random depends on (seed, epoch, chunk, shard) alone.
      epoch: the number of the epoch, from 0.
      chunk: the number of the chunk; None if the epoch is one chunk.
      shard: the number of the shard, below `n_shards`.
      n_shards: how many shards fill a batch; each fills batch_size / n_shards rows.
      n_batches: the least number of batches to return, so that all shards return equally many. Batches beyond
        the examples contain PAD only.
    """
    n_rows = cfg.batch_size // n_shards
    rng = group_rng = np.random.default_rng((seed, epoch) if chunk is None else (seed, epoch, chunk))
    if n_shards > 1:  # each shard draws its own texts, but all shards shuffle their groups alike
        rng = np.random.default_rng((seed, epoch, chunk or 0, 1 + shard))
    x_NT, y_NT, source_N = objective(rng)
    order_N = rng.permutation(len(x_NT)) if cfg.shuffle else np.arange(len(x_NT))
    if cfg.group_by_length:
        order_N = order_N[np.argsort(used_columns(x_NT)[order_N], kind="stable")]
    starts = range(0, max(len(order_N), n_batches * n_rows), n_rows)
    rows = [order_N[start : start + n_rows] for start in starts]
    if cfg.group_by_length and cfg.shuffle:
        n = max(1, cfg.microbatches_per_dispatch // max_microbatches(cfg))
        groups = [rows[i : i + n] for i in range(0, len(rows), n)]
        rows = [row_B for i in group_rng.permutation(len(groups)) for row_B in groups[i]]
    return [narrowed(Batch(x_NT[row_B], y_NT[row_B], source_N[row_B]), n_rows) for row_B in rows]


def used_columns(x_NT: np.ndarray) -> np.ndarray:
    """Returns (N,): the columns of each row up to its last character that is not PAD, and at least 1.

    >>> used_columns(np.array([[3, 0, 4, 0], [5, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]])).tolist()
    [3, 1, 1, 4]
    """
    return (x_NT != PAD_ID).cumsum(axis=1).argmax(axis=1) + 1


def resized(batch: Batch, n_rows: int, width: int) -> Batch:
    """Returns the batch padded with rows of PAD to `n_rows`, and cut or padded to `width` columns."""
    x_BT, y_BT, source_B = batch
    if x_BT.shape == (n_rows, width):
        return batch
    missing = (0, n_rows - len(x_BT)), (0, max(width - x_BT.shape[1], 0))
    x_BT, y_BT = (np.pad(ids_BT[:, :width], missing, constant_values=PAD_ID) for ids_BT in (x_BT, y_BT))
    return Batch(x_BT, y_BT, np.pad(source_B, missing[0]))


def narrowed(batch: Batch, n_rows: int) -> Batch:
    """Returns the batch with `n_rows` rows and the narrowest allowed width that holds every character."""
    longest = used_columns(batch.x_BT).max(initial=1)
    return resized(batch, n_rows, min(-(-longest // WIDTH_STEP) * WIDTH_STEP, batch.x_BT.shape[1]))


def size_of(batch: Batch) -> Size:
    """Returns the size of a narrowed batch."""
    return Size(batch.x_BT.shape[1], np.count_nonzero(batch.y_BT), np.count_nonzero(batch.x_BT))


def by_length(batch: Batch, n: int) -> list[Batch]:
    """Splits a batch by length into at most `n` narrowed batches, the shortest texts first.

    All have equally many rows. If the rows do not divide evenly, the first batch is padded with rows of PAD.
    """
    n_rows = len(batch.x_BT)
    n_each = -(-n_rows // n)
    order_B = np.argsort(used_columns(batch.x_BT), kind="stable") if n > 1 else np.arange(n_rows)
    ends = range(n_rows, 0, -n_each)
    chosen = [order_B[max(end - n_each, 0) : end] for end in reversed(ends)]
    return [narrowed(Batch(*(array[row_B] for array in batch)), n_each) for row_B in chosen]


def concatenated(batches: Sequence[Batch]) -> Batch:
    """Concatenates the rows of several batches into one batch, as wide as the widest."""
    if len(batches) == 1:
        return batches[0]
    width = max(batch.x_BT.shape[1] for batch in batches)
    return Batch(*map(np.concatenate, zip(*(resized(batch, len(batch.x_BT), width) for batch in batches))))


def microbatches(batches: list[Batch], sizes: list[Size]) -> list[Microbatch]:
    """Returns the microbatches of one update, without those that have no target.

    Args:
      batches: for each microbatch its rows, or only the rows that this process trains on.
      sizes: the size of each whole microbatch, including rows of other processes.
    """
    kept = [i for i, size in enumerate(sizes) if size.targets] or [len(batches) - 1]
    weight = np.float32(1 / max(sum(size.targets for size in sizes), 1))
    return [
        Microbatch(
            resized(batches[i], len(batches[i].x_BT), sizes[i].width),
            weight,
            np.int32(number),
            np.bool_(i == kept[-1]),
            np.int32(sizes[i].tokens),
        )
        for number, i in enumerate(kept)
    ]


def in_microbatches(batch: Batch, n: int) -> list[Microbatch]:
    """Splits a whole batch into at most `n` microbatches of equally many rows, the shortest texts first."""
    batches = by_length(batch, n)
    return microbatches(batches, [size_of(each) for each in batches])


def stack(microbatches: Sequence[Microbatch]) -> Microbatch:
    """Stacks microbatches of one shape along a new leading axis of every array."""
    batch, *rest = zip(*microbatches)
    return Microbatch(Batch(*map(np.stack, zip(*batch))), *map(np.stack, rest))
