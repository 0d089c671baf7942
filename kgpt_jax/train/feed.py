"""Feeds the devices: each process draws the rows of every microbatch that its own devices train on.

    feed = Feed(chunks, config.model, cfg, seed, mesh)
    for number, updates in feed.chunks(range(n)): ...  # the microbatches of each update of a chunk

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


def n_microbatches(cfg: TrainConfig) -> int:
    """Returns the number of microbatches that a batch is split into on the devices in use."""
    return max_microbatches(cfg) if cfg.microbatches or jax.default_backend() == "cpu" else 1


class Feed:
    """Draws the microbatches of every update, of which this process holds some rows or all.

    The rows of a microbatch are divided evenly over the positions of the mesh's `data` axis. If the shards
    divide evenly over these positions, each position has shards of its own, and a process reads only the
    shards of its own devices' positions. Otherwise every process draws all rows.

    Args:
      data: the examples of an epoch.
      model_cfg: the model; a variant that reads a source as a whole has no targets in it.
      cfg: the stage of training.
      seed: the run's seed.
      mesh: the devices.

    Attributes:
      positions: the positions of the `data` axis whose rows are drawn, in the order of the rows.
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
        if n_shards > 1 and self.has_all and jax.process_count() > 1:
            log.info(
                f"note: every process reads the whole corpus: {n_shards} shards do not divide evenly over "
                f"{n_positions} positions of the data axis (--config.data.shards)"
            )

    def chunks(self, numbers: range) -> Iterator[tuple[int, list[list[Microbatch]]]]:
        """Yields (number, microbatches of each update) for each chunk.

        Chunk numbers go on through all epochs: with three chunks, number 3 is the first of the second epoch.
        The next chunk is drawn in a thread while the last one is used.
        """
        for number, updates in prefetched(self.draw, numbers):
            yield number, self.weighted(updates)

    def draw(self, number: int) -> list[list[Batch]]:
        """Returns this process's rows of each microbatch of each update of a chunk."""
        data, cfg = self.data, self.cfg
        epoch, chunk = divmod(number, len(data.sizes))
        n_updates = data.updates(cfg)[chunk]
        of_chunk = chunk if len(data.sizes) > 1 else None  # an epoch of one chunk follows from (seed, epoch)
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
        """Returns the microbatches with the widths and weights that follow from the rows of all processes.

        Processes exchange the sizes of their rows here, once a chunk. All must call it at the same point.
        """
        size_UJ3 = np.array([[size_of(batch) for batch in update] for update in updates], np.int32)
        if not self.has_all:
            # Processes with the same positions have the same rows, which count once.
            first_of_each = all_gather(np.array(self.positions[0])).tolist()
            size_UJ3 = combined_sizes(list(dict(zip(first_of_each, all_gather(size_UJ3))).values()))
        return [
            microbatches(update, [Size(*map(int, size_3)) for size_3 in size_J3])
            for update, size_J3 in zip(updates, size_UJ3)
        ]


def combined_sizes(sizes: list[np.ndarray]) -> np.ndarray:
    """Returns the sizes (U, J, 3) of whole microbatches: the largest width, the sums of targets and tokens.

    Args:
      sizes: for each group of rows, the sizes of its rows alone, (U, J, 3).
    """
    stacked = np.stack(sizes)
    whole_UJ3 = stacked.sum(axis=0)
    whole_UJ3[..., 0] = stacked[..., 0].max(axis=0)
    return whole_UJ3


def prefetched(make: Callable[[int], list], numbers: range) -> Iterator[tuple[int, list]]:
    """Yields `(number, make(number))`; a thread makes the next item while the last one is used.

    What `make` raises is raised here, when its item is due.
    """

    def begin(number: int) -> Future:
        ahead = Future()

        def run():
            try:
                ahead.set_result(make(number))
            except BaseException as error:
                ahead.set_exception(error)

        # A daemon, so that a process that is asked to stop need not wait for it.
        threading.Thread(target=run, daemon=True).start()
        return ahead

    ahead = begin(numbers[0])
    for number, following in zip_longest(numbers, numbers[1:]):
        made = ahead.result()
        if following is not None:
            ahead = begin(following)
        yield number, made
