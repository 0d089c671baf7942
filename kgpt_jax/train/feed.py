"""Prepares the microbatches of every update. Each process draws only the rows that its devices train on.

    feed = Feed(chunks, config.model, cfg, seed, mesh)
    for number, updates in feed.chunks(range(n)): ...  # updates[i]: the microbatches of one update

Axes: `U` updates of a chunk, `J` microbatches of an update.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import zip_longest

import jax
import numpy as np
from jax.sharding import Mesh

from kgpt_jax.config import ModelConfig, TrainConfig
from kgpt_jax.data.batches import (
    Batch,
    Microbatch,
    Size,
    by_length,
    concatenated,
    epoch_batches,
    max_microbatches,
    microbatches,
    size_of,
)
from kgpt_jax.data.chunks import Chunks
from kgpt_jax.devices import all_gather, own_positions
from kgpt_jax.train.step import predicted

log = logging.getLogger(__name__)

# On GPUs and TPUs, compiling a program for another width takes longer than computing the padding.
WIDTH_STEP_ON_ACCELERATORS = 128


def n_microbatches(cfg: TrainConfig) -> int:
    """Returns the number of microbatches that a batch is split into on the devices in use."""
    return max_microbatches(cfg) if cfg.microbatches or jax.default_backend() == "cpu" else 1


def microbatch_rows(cfg: TrainConfig) -> int:
    """Returns the number of rows in a microbatch, which the number of devices must divide."""
    return -(-cfg.batch_size // n_microbatches(cfg))


def widths_on_devices(widths: np.ndarray, cfg: ModelConfig) -> np.ndarray:
    """Returns how many columns microbatches get on the devices in use, if their texts need `widths`."""
    if jax.default_backend() == "cpu":
        return widths
    wider = -(-widths // WIDTH_STEP_ON_ACCELERATORS) * WIDTH_STEP_ON_ACCELERATORS
    return np.minimum(wider, cfg.seq_len)


class Feed:
    """Draws the microbatches of every update: all of their rows, or only those of this process's devices.

    The rows of a microbatch are divided evenly over the positions on the mesh's `data` axis. If the number of
    positions divides the number of shards, each position has its own shards, and a process reads only the
    shards of its devices' positions. Otherwise every process draws all rows.

    Args:
      data: the examples of an epoch.
      model_cfg: the model. If its variant has `whole_source`, characters of the source are no targets.
      cfg: the stage of training.
      seed: the run's seed.
      mesh: the devices.

    Attributes:
      positions: the positions on the `data` axis whose rows this process draws, in the order of the rows.
      has_all: whether this process draws all rows.
      shards: the numbers of the shards that this process reads.
    """

    def __init__(self, data: Chunks, model_cfg: ModelConfig, cfg: TrainConfig, seed: int, mesh: Mesh):
        self.data, self.model_cfg, self.cfg, self.seed = data, model_cfg, cfg, seed
        n_positions, n_shards = mesh.shape["data"], data.n_shards
        even = n_shards % n_positions == 0
        self.positions = own_positions(mesh) if even else list(range(n_positions))
        self.has_all = len(self.positions) == n_positions
        self.shards = [
            i for i in range(n_shards) if self.has_all or i * n_positions // n_shards in self.positions
        ]
        if n_shards > 1 and not even and jax.process_count() > 1:
            log.info(
                f"note: every process reads the whole corpus: {n_shards} shards do not divide evenly over "
                f"{n_positions} positions of the data axis (--config.data.shards)"
            )

    def chunks(self, numbers: range) -> Iterator[tuple[int, list[list[Microbatch]]]]:
        """Yields (number, updates) for each chunk; `updates` holds a list of microbatches for each update.

        A thread prefetches the next chunk while the caller uses the current one.

        Args:
          numbers: chunk numbers, counted through all epochs: with three chunks, number 3 is the first chunk
            of the second epoch.
        """
        for number, updates in prefetched(self.draw, numbers):
            yield number, self.weighted(updates)

    def draw(self, number: int) -> list[list[Batch]]:
        """Returns this process's rows of each microbatch of each update of a chunk."""
        data, cfg = self.data, self.cfg
        epoch, chunk = divmod(number, len(data.sizes))
        n_updates = data.updates(cfg)[chunk]
        of_chunk = chunk if len(data.sizes) > 1 else None  # with one chunk, (seed, epoch) alone seed the draw
        drawn = []  # by shard, update and microbatch
        for shard in self.shards:
            objective = data.make(chunk, shard)
            batches = epoch_batches(
                objective, cfg, self.seed, epoch, of_chunk, shard, data.n_shards, n_updates
            )
            batches = [predicted(self.model_cfg, batch) for batch in batches]
            drawn.append([by_length(batch, n_microbatches(cfg)) for batch in batches])
        return [[concatenated(rows) for rows in zip(*of_shards)] for of_shards in zip(*drawn)]

    def weighted(self, updates: list[list[Batch]]) -> list[list[Microbatch]]:
        """Returns the microbatches with their final widths and weights, which depend on all processes' rows.

        This all-gathers the sizes of the rows, once per chunk. All processes must call it at the same point.
        """
        size_UJ3 = np.array([[size_of(batch) for batch in update] for update in updates], np.int32)
        if not self.has_all:
            # Processes with the same positions have the same rows, which count once.
            first_of_each = all_gather(np.array(self.positions[0], np.int32)).tolist()
            size_UJ3 = combined_sizes(list(dict(zip(first_of_each, all_gather(size_UJ3))).values()))
        size_UJ3[..., 0] = widths_on_devices(size_UJ3[..., 0], self.model_cfg)
        return [
            microbatches(update, [Size(*map(int, size_3)) for size_3 in size_J3])
            for update, size_J3 in zip(updates, size_UJ3)
        ]


def combined_sizes(sizes: list[np.ndarray]) -> np.ndarray:
    """Returns the sizes (U, J, 3) of whole microbatches: the maximum of the widths, the sums of the rest.

    Args:
      sizes: the sizes (U, J, 3) of each group of rows. The last axis is that of `Size`: width, targets,
        tokens.
    """
    stacked = np.stack(sizes)
    whole_UJ3 = stacked.sum(axis=0)
    whole_UJ3[..., 0] = stacked[..., 0].max(axis=0)
    return whole_UJ3


def prefetched(make: Callable[[int], list], numbers: range) -> Iterator[tuple[int, list]]:
    """Yields `(number, make(number))`; a thread makes the next item while the caller uses the current one.

    An exception in `make` is raised here when its item is requested.
    """

    def begin(number: int) -> Future:
        ahead = Future()

        def run():
            try:
                ahead.set_result(make(number))
            except BaseException as error:
                ahead.set_exception(error)

        # A daemon thread, so that a process can exit without waiting for it.
        threading.Thread(target=run, daemon=True).start()
        return ahead

    ahead = begin(numbers[0])
    for number, following in zip_longest(numbers, numbers[1:]):
        made = ahead.result()
        if following is not None:
            ahead = begin(following)
        yield number, made
