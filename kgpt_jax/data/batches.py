"""Examples -> batches of a few fixed shapes, in an order that (seed, epoch) decides.

Padding never changes a loss, so columns that are padding in a whole batch are cut off, down to one of
a few widths: each width is compiled once. Where a batch's texts differ in length, it is split into pieces
by length, each cut by itself, that together make one update. Axes: `N` examples, `B` rows of a batch,
`T` columns.
"""

from typing import NamedTuple

import numpy as np

from kgpt_jax.config import TrainConfig
from kgpt_jax.data.objectives import Objective
from kgpt_jax.data.vocab import PAD_ID

WIDTH_STEP = 16  # batch widths are multiples of this, and the full width


class Batch(NamedTuple):
    """Inputs and targets of one update, int32; a target of PAD carries no loss.

    The first `source_B` characters of a row are given rather than to be predicted.
    """

    x_BT: np.ndarray
    y_BT: np.ndarray
    source_B: np.ndarray


class Piece(NamedTuple):
    """Rows of the batch of one update, with their part in it."""

    batch: Batch
    weight: np.float32  # 1 / targets in the whole batch: the pieces' losses add up to its mean
    number: np.int32  # among the pieces of the update
    last: np.bool_  # the update is complete with this one


def steps_per_epoch(n_examples: int, cfg: TrainConfig) -> int:
    return -(-n_examples // cfg.batch_size)


def epoch_batches(
    objective: Objective, cfg: TrainConfig, seed: int, epoch: int, chapter: int | None = None
) -> list[Batch]:
    """Returns an epoch, or a chapter of it: every example once, the last batch filled up with rows of PAD.

    With `group_by_length` examples are sorted by length, cut into batches, and runs of as many batches as
    one dispatch takes are shuffled: it then works on one width.
    """
    rng = np.random.default_rng((seed, epoch) if chapter is None else (seed, epoch, chapter))
    x_NT, y_NT, source_N = objective(rng)
    order_N = rng.permutation(len(x_NT)) if cfg.shuffle else np.arange(len(x_NT))
    if cfg.group_by_length:
        length_N = used_columns(x_NT)
        order_N = order_N[np.argsort(length_N[order_N], kind="stable")]
    starts = range(0, len(order_N), cfg.batch_size)
    rows = [order_N[start : start + cfg.batch_size] for start in starts]
    if cfg.group_by_length and cfg.shuffle:
        n = max(1, cfg.steps_per_dispatch // max(1, cfg.pieces))
        runs = [rows[i : i + n] for i in range(0, len(rows), n)]
        rows = [batch for i in rng.permutation(len(runs)) for batch in runs[i]]
    return [cut(Batch(x_NT[row_B], y_NT[row_B], source_N[row_B]), cfg.batch_size) for row_B in rows]


def used_columns(x_NT: np.ndarray) -> np.ndarray:
    """Returns for each row the number of columns up to the last that is not PAD."""
    return (x_NT != PAD_ID).cumsum(axis=1).argmax(axis=1) + 1


def cut(batch: Batch, batch_size: int) -> Batch:
    """Fills up with rows of PAD and cuts the columns down to the narrowest width that holds all."""
    x_BT, y_BT, source_B = batch
    width = used_columns(x_BT).max()
    width = min(-(-width // WIDTH_STEP) * WIDTH_STEP, x_BT.shape[1])
    missing = (0, batch_size - len(x_BT))
    x_BT, y_BT = (np.pad(part[:, :width], (missing, (0, 0)), constant_values=PAD_ID) for part in (x_BT, y_BT))
    return Batch(x_BT, y_BT, np.pad(source_B, missing))


def split(batch: Batch, n: int) -> list[Piece]:
    """Returns the batch as n pieces at most, of as many rows each, the shortest texts first.

    Pieces without a target are left out. The mean loss of the batch, and so its gradient, is the sum over
    pieces of `weight` times the sum of their targets' losses.
    """
    n_rows = len(batch.x_BT)
    size = -(-n_rows // n)
    order_B = np.argsort(used_columns(batch.x_BT), kind="stable") if n > 1 else np.arange(n_rows)
    starts = range(n_rows % -size, n_rows, size)  # the first piece is the one filled up
    parts = [cut(Batch(*(part[order_B[max(i, 0) : i + size]] for part in batch)), size) for i in starts]
    targets = [np.count_nonzero(part.y_BT) for part in parts]
    kept = [part for part, count in zip(parts, targets) if count] or parts[-1:]
    weight = np.float32(1 / max(sum(targets), 1))
    return [
        Piece(part, weight, np.int32(number), np.bool_(number == len(kept) - 1))
        for number, part in enumerate(kept)
    ]


def stack(pieces: list[Piece]) -> Piece:
    """Returns pieces of one shape as one, with a leading axis."""
    batch, *rest = zip(*pieces)
    return Piece(Batch(*map(np.stack, zip(*batch))), *map(np.stack, rest))
