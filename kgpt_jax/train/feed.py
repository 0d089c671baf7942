"""What the devices are fed: the microbatches of every update, drawn by each process for its own rows.

    feed = Feed(book, config.model, cfg, seed, mesh)
    for number, updates in feed.chunks(range(n)): ...  # the microbatches of each update

Of a corpus in shards a process reads those alone that fill its rows. What the others' rows have to do with
it, how wide a microbatch is and how many targets an update has, they tell each other once a chunk.
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
    Measures,
    Microbatch,
    Shard,
    epoch_batches,
    measure,
    microbatches,
    most_microbatches,
    parts,
    together,
)
from kgpt_jax.data.chunks import Chunks
from kgpt_jax.devices import all_gather, own_shares
from kgpt_jax.train.step import predicted

log = logging.getLogger(__name__)


def n_microbatches(cfg: TrainConfig) -> int:
    """Returns into how many microbatches a batch is split."""
    return most_microbatches(cfg) if cfg.microbatches or jax.default_backend() == "cpu" else 1


class Feed:
    """Draws for one process, of a batch's rows those `shares`, of one for each position along `data`, it has.

    Where the shards don't go into these evenly, it draws all.
    """

    def __init__(self, book: Chunks, model_cfg: ModelConfig, cfg: TrainConfig, seed: int, mesh: Mesh):
        self.book, self.model_cfg, self.cfg, self.seed = book, model_cfg, cfg, seed
        n_shares, n_shards = mesh.shape["data"], book.n_shards
        self.shares = own_shares(mesh) if n_shards % n_shares == 0 else list(range(n_shares))
        self.has_all = len(self.shares) == n_shares
        self.shards = [i for i in range(n_shards) if self.has_all or i * n_shares // n_shards in self.shares]
        if n_shards > 1 and self.has_all and jax.process_count() > 1:
            log.info(
                f"note: every process reads all of the corpus: {n_shards} shards don't go into {n_shares} "
                "shares of a batch (--config.data.shards)"
            )

    def chunks(self, numbers: range) -> Iterator[tuple[int, list[list[Microbatch]]]]:
        """Yields `(number, microbatches of every update)` of chunks, which are numbered through all epochs."""
        for number, updates in prefetched(self.draw, numbers):
            yield number, self.agreed(updates)

    def draw(self, number: int) -> list[list[Batch]]:
        """Returns this process's rows of the parts of every update."""
        book, cfg = self.book, self.cfg
        epoch, chunk = divmod(number, len(book.sizes))
        place = self.seed, epoch, chunk if len(book.sizes) > 1 else None
        drawn = []
        for i in self.shards:
            objective, shard = book.make[chunk][i](), Shard(i, book.n_shards)
            batches = epoch_batches(objective, cfg, *place, shard, book.updates(cfg)[chunk])
            drawn.append([parts(predicted(self.model_cfg, batch), n_microbatches(cfg)) for batch in batches])
        return [[together(rows) for rows in zip(*update)] for update in zip(*drawn)]

    def agreed(self, updates: list[list[Batch]]) -> list[list[Microbatch]]:
        """Returns the microbatches; all processes must ask at the same point."""
        measures_UP3 = np.array([[measure(each) for each in update] for update in updates], np.int32)
        if not self.has_all:
            said = dict(zip(all_gather(np.array(self.shares[0])).tolist(), all_gather(measures_UP3)))
            measures_UP3 = in_all(list(said.values()))  # where several have the same rows, of one of them
        return [
            microbatches(update, [Measures(*map(int, row)) for row in rows])
            for update, rows in zip(updates, measures_UP3)
        ]


def in_all(measures: list[np.ndarray]) -> np.ndarray:
    """Returns the measures of all rows out of those of some rows each."""
    stacked = np.stack(measures)
    found = stacked.sum(axis=0)
    found[..., 0] = stacked[..., 0].max(axis=0)  # the widths
    return found


def prefetched(make: Callable[[int], list], numbers: range) -> Iterator[tuple[int, list]]:
    """Yields `(number, make(number))`; the next one is made in a thread while the last one is used."""

    def begin(number: int) -> Future:
        ahead = Future()

        def run():
            try:
                ahead.set_result(make(number))
            except BaseException as error:
                ahead.set_exception(error)

        # A process that is asked to stop doesn't wait for it.
        threading.Thread(target=run, daemon=True).start()
        return ahead

    ahead = begin(numbers[0])
    for number, following in zip_longest(numbers, numbers[1:]):
        made = ahead.result()
        if following is not None:
            ahead = begin(following)
        yield number, made
