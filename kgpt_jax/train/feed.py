"""What the devices are fed: the pieces of every update, drawn by each process for its own rows.

    feed = Feed(book, config.model, cfg, seed, mesh)
    for number, updates in feed.chapters(range(n)): ...  # the pieces of each update

Of a corpus in stripes a process reads those alone that fill its rows. What the others' rows have to do with
it, how wide a piece is and how many targets an update has, they tell each other once a chapter.
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
    Piece,
    Stripe,
    epoch_batches,
    measure,
    most_pieces,
    parts,
    pieces,
    together,
)
from kgpt_jax.data.chapters import Chapters
from kgpt_jax.devices import own_shares, told_by_all
from kgpt_jax.train.step import predicted

log = logging.getLogger(__name__)


def n_pieces(cfg: TrainConfig) -> int:
    """Returns into how many pieces a batch is split."""
    return most_pieces(cfg) if cfg.pieces or jax.default_backend() == "cpu" else 1


class Feed:
    """Draws for one process, of a batch's rows those `shares`, of one for each position along `data`, it has.

    Where the stripes don't go into these evenly, it draws all.
    """

    def __init__(self, book: Chapters, model_cfg: ModelConfig, cfg: TrainConfig, seed: int, mesh: Mesh):
        self.book, self.model_cfg, self.cfg, self.seed = book, model_cfg, cfg, seed
        n_shares, n_stripes = mesh.shape["data"], book.n_stripes
        self.shares = own_shares(mesh) if n_stripes % n_shares == 0 else list(range(n_shares))
        self.has_all = len(self.shares) == n_shares
        self.stripes = [
            i for i in range(n_stripes) if self.has_all or i * n_shares // n_stripes in self.shares
        ]
        if n_stripes > 1 and self.has_all and jax.process_count() > 1:
            log.info(
                f"note: every process reads all of the corpus: {n_stripes} stripes don't go into {n_shares} "
                "shares of a batch (--config.data.stripes)"
            )

    def chapters(self, numbers: range) -> Iterator[tuple[int, list[list[Piece]]]]:
        """Yields `(number, pieces of every update)` of chapters, which are numbered through all epochs."""
        for number, updates in prefetched(self.draw, numbers):
            yield number, self.agreed(updates)

    def draw(self, number: int) -> list[list[Batch]]:
        """Returns this process's rows of the parts of every update."""
        book, cfg = self.book, self.cfg
        epoch, chapter = divmod(number, len(book.sizes))
        place = self.seed, epoch, chapter if len(book.sizes) > 1 else None
        drawn = []
        for i in self.stripes:
            objective, stripe = book.make[chapter][i](), Stripe(i, book.n_stripes)
            batches = epoch_batches(objective, cfg, *place, stripe, book.updates(cfg)[chapter])
            drawn.append([parts(predicted(self.model_cfg, batch), n_pieces(cfg)) for batch in batches])
        return [[together(rows) for rows in zip(*update)] for update in zip(*drawn)]

    def agreed(self, updates: list[list[Batch]]) -> list[list[Piece]]:
        """Returns the pieces; all processes must ask at the same point."""
        measures_UP3 = np.array([[measure(each) for each in update] for update in updates], np.int32)
        if not self.has_all:
            said = dict(zip(told_by_all(np.array(self.shares[0])).tolist(), told_by_all(measures_UP3)))
            measures_UP3 = in_all(list(said.values()))  # where several have the same rows, of one of them
        return [
            pieces(update, [Measures(*map(int, row)) for row in rows])
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
