"""Examples -> batches of a few fixed shapes, in an order that (seed, epoch) decides.

Padding never changes a loss, so columns that are padding in a whole batch are cut off, down to one of
a few widths: each width is compiled once. Axes: `N` examples, `B` rows of a batch, `T` columns.
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


def steps_per_epoch(n_examples: int, cfg: TrainConfig) -> int:
    return -(-n_examples // cfg.batch_size)


def epoch_batches(objective: Objective, cfg: TrainConfig, seed: int, epoch: int) -> list[Batch]:
    """Returns one epoch: every example once, the last batch filled up with rows of PAD.

    With `group_by_length` examples are sorted by length, cut into batches, and runs of
    `steps_per_dispatch` batches are shuffled: one dispatch then works on one width.
    """
    rng = np.random.default_rng((seed, epoch))
    x_NT, y_NT, source_N = objective(rng)
    order_N = rng.permutation(len(x_NT)) if cfg.shuffle else np.arange(len(x_NT))
    if cfg.group_by_length:
        length_N = used_columns(x_NT)
        order_N = order_N[np.argsort(length_N[order_N], kind="stable")]
    starts = range(0, len(order_N), cfg.batch_size)
    rows = [order_N[start : start + cfg.batch_size] for start in starts]
    if cfg.group_by_length and cfg.shuffle:
        runs = [rows[i : i + cfg.steps_per_dispatch] for i in range(0, len(rows), cfg.steps_per_dispatch)]
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
