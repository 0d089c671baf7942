"""Examples -> batches of a few fixed shapes, in an order that (seed, epoch) decides.

Padding never changes a loss, so columns that are padding in a whole batch are cut off, down to one of
a few widths: each width is compiled once. Where a batch's texts differ in length, it is split into microbatches
by length, each cut by itself, that together make one update. A large corpus has shards, each of which fills
its own rows of every batch: who has these rows to train on reads no other documents. Axes: `N` examples, `B`
rows of a batch, `T` columns.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kgpt_jax.config import TrainConfig
from kgpt_jax.data.objectives import Objective
from kgpt_jax.data.vocab import PAD_ID

WIDTH_STEP = 16  # batch widths are multiples of this, and the full width
MICROBATCHES_ON_CPU = (
    8  # of a batch of 128: 4 microbatches keep more padding, 16 have too few rows to gain by it
)


class Batch(NamedTuple):
    """Inputs and targets of one update, int32; a target of PAD carries no loss.

    The first `source_B` characters of a row are given rather than to be predicted.
    """

    x_BT: np.ndarray
    y_BT: np.ndarray
    source_B: np.ndarray


class Microbatch(NamedTuple):
    """Rows of the batch of one update, with their part in it."""

    batch: Batch
    weight: np.float32  # 1 / targets in the whole batch: the microbatches' losses add up to its mean
    number: np.int32  # among the microbatches of the update
    last: np.bool_  # the update is complete with this one
    tokens: np.int32  # characters in it, padding left out


class Measures(NamedTuple):
    """What must be known of all rows of a part of a batch before it is cut."""

    width: int
    targets: int
    tokens: int


class Shard(NamedTuple):
    """Which of the shards of a corpus."""

    number: int
    count: int


WHOLE = Shard(0, 1)


def most_microbatches(cfg: TrainConfig) -> int:
    """Returns into how many microbatches a batch is split at the most, on whatever it is trained."""
    return cfg.microbatches or (1 if cfg.group_by_length else MICROBATCHES_ON_CPU)


def steps_per_epoch(n_examples: int, cfg: TrainConfig) -> int:
    return -(-n_examples // cfg.batch_size)


def epoch_batches(
    objective: Objective,
    cfg: TrainConfig,
    seed: int,
    epoch: int,
    chunk: int | None = None,
    shard: Shard = WHOLE,
    n_batches: int = 0,
) -> list[Batch]:
    """Returns an epoch, or a chunk of it: every example once, the last batch filled up with rows of PAD.

    With `group_by_length` examples are sorted by length, cut into batches, and runs of as many batches as
    one dispatch takes are shuffled: it then works on one width. A shard's batches are its rows of them:
    `n_batches`, so that all shards have as many.
    """
    n_rows = cfg.batch_size // shard.count
    rng = runs_rng = np.random.default_rng((seed, epoch) if chunk is None else (seed, epoch, chunk))
    if shard.count > 1:  # each draws its own texts, and all shuffle runs alike
        rng = np.random.default_rng((seed, epoch, chunk or 0, 1 + shard.number))
    x_NT, y_NT, source_N = objective(rng)
    order_N = rng.permutation(len(x_NT)) if cfg.shuffle else np.arange(len(x_NT))
    if cfg.group_by_length:
        length_N = used_columns(x_NT)
        order_N = order_N[np.argsort(length_N[order_N], kind="stable")]
    starts = range(0, max(len(order_N), n_batches * n_rows), n_rows)
    rows = [order_N[start : start + n_rows] for start in starts]
    if cfg.group_by_length and cfg.shuffle:
        n = max(1, cfg.steps_per_dispatch // max(1, cfg.microbatches))
        runs = [rows[i : i + n] for i in range(0, len(rows), n)]
        rows = [batch for i in runs_rng.permutation(len(runs)) for batch in runs[i]]
    return [cut(Batch(x_NT[row_B], y_NT[row_B], source_N[row_B]), n_rows) for row_B in rows]


def used_columns(x_NT: np.ndarray) -> np.ndarray:
    """Returns for each row the number of columns up to the last that is not PAD."""
    return (x_NT != PAD_ID).cumsum(axis=1).argmax(axis=1) + 1


def fit(batch: Batch, n_rows: int, width: int) -> Batch:
    """Fills up with rows of PAD behind the others, and cuts columns off or fills up with columns of PAD."""
    x_BT, y_BT, source_B = batch
    if x_BT.shape == (n_rows, width):
        return batch
    missing = (0, n_rows - len(x_BT)), (0, max(width - x_BT.shape[1], 0))
    x_BT, y_BT = (np.pad(part[:, :width], missing, constant_values=PAD_ID) for part in (x_BT, y_BT))
    return Batch(x_BT, y_BT, np.pad(source_B, missing[0]))


def cut(batch: Batch, n_rows: int) -> Batch:
    """Fills up with rows of PAD and cuts the columns down to the narrowest width that holds all."""
    longest = used_columns(batch.x_BT).max(initial=1)
    return fit(batch, n_rows, min(-(-longest // WIDTH_STEP) * WIDTH_STEP, batch.x_BT.shape[1]))


def measure(batch: Batch) -> Measures:
    """Returns the measures of a batch that is cut already."""
    return Measures(batch.x_BT.shape[1], np.count_nonzero(batch.y_BT), np.count_nonzero(batch.x_BT))


def parts(batch: Batch, n: int) -> list[Batch]:
    """Returns the batch in n parts at most, of as many rows each, the shortest texts first."""
    n_rows = len(batch.x_BT)
    size = -(-n_rows // n)
    order_B = np.argsort(used_columns(batch.x_BT), kind="stable") if n > 1 else np.arange(n_rows)
    starts = range(n_rows % -size, n_rows, size)  # the first part is the one filled up
    return [cut(Batch(*(each[order_B[max(i, 0) : i + size]] for each in batch)), size) for i in starts]


def together(batches: Sequence[Batch]) -> Batch:
    """Returns the rows of all batches, one batch below the other."""
    if len(batches) == 1:
        return batches[0]
    width = max(batch.x_BT.shape[1] for batch in batches)
    return Batch(*map(np.concatenate, zip(*(fit(batch, len(batch.x_BT), width) for batch in batches))))


def microbatches(parts: list[Batch], measures: list[Measures]) -> list[Microbatch]:
    """Returns the parts of a batch, those without a target left out, with the weights that they have in it.

    The mean loss of the batch, and so its gradient, is the sum over microbatches of `weight` times the sum of
    their targets' losses. Of parts that hold some of the rows only, the measures must be those of all rows.
    """
    kept = [i for i, each in enumerate(measures) if each.targets] or [len(parts) - 1]
    weight = np.float32(1 / max(sum(each.targets for each in measures), 1))
    return [
        Microbatch(
            fit(parts[i], len(parts[i].x_BT), measures[i].width),
            weight,
            np.int32(number),
            np.bool_(i == kept[-1]),
            np.int32(measures[i].tokens),
        )
        for number, i in enumerate(kept)
    ]


def split(batch: Batch, n: int) -> list[Microbatch]:
    """Returns the batch as n microbatches at most, of as many rows each, the shortest texts first."""
    found = parts(batch, n)
    return microbatches(found, [measure(part) for part in found])


def stack(microbatches: list[Microbatch]) -> Microbatch:
    """Returns microbatches of one shape as one, with a leading axis."""
    batch, *rest = zip(*microbatches)
    return Microbatch(Batch(*map(np.stack, zip(*batch))), *map(np.stack, rest))
