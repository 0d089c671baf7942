"""Sends microbatches to the devices, and records their losses when these arrive.

    dispatcher = Dispatcher(model, tx, dropout_key, rates, cfg, progress, checkpoints, state, mesh)
    state, step = dispatcher.run(state, queue, stop)

One call of a compiled program usually takes several microbatches and makes their updates. On a CPU, an update
with several microbatches takes one call for each of them, and threads make these calls at the same time (see
`devices.calls_at_once`).

Axes: `J` microbatches of one dispatch, `E` models that train side by side, `U` updates.
"""

import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from kgpt_jax.config import TrainConfig, UserError
from kgpt_jax.data.batches import Batch, Microbatch, stack
from kgpt_jax.devices import broadcast, calls_at_once, check_memory, place_rows, replicated, shardings
from kgpt_jax.model.gpt import GPT
from kgpt_jax.store.checkpoint import Checkpoints
from kgpt_jax.train.feed import n_microbatches
from kgpt_jax.train.progress import NoProgress, Progress
from kgpt_jax.train.step import (
    Sums,
    TrainState,
    make_add_microbatch,
    make_end_update,
    make_train_steps,
    zero_sums,
)
from kgpt_jax.train.stop import Stop

log = logging.getLogger(__name__)

SECONDS_PER_DISPATCH = 0.5  # short, so that training stops soon after a signal
MAX_SKIPPED = 5  # skipped updates in a row after which a model counts as diverged


class Dispatch(NamedTuple):
    """Microbatches that are on the devices; their metrics are not fetched yet.

    An update whose microbatches threads have added counts as one microbatch.
    """

    step: int  # updates completed before these microbatches
    last_J: list[int]  # indices of the microbatches that complete an update
    tokens_J: list[int]  # characters of each microbatch, without padding
    metrics: dict[str, jax.Array]  # of each microbatch, as `step.train_steps` returns them


class Dispatcher:
    """Sends microbatches to the devices, several at once, and records their losses when these arrive.

    All microbatches of a call have the same width, and each width has its own compiled program.

    On a CPU, if an update has several microbatches, a dispatch is an update. Each thread adds its
    microbatches to its own sums, one at a time. Then another program makes the update from all sums. A
    microbatch's number decides its thread, so runs with the same number of threads round the gradient alike.

    Otherwise a dispatch is one call. It holds as many microbatches as the devices compute in about
    SECONDS_PER_DISPATCH, and at most `cfg.microbatches_per_dispatch`. The devices work on one dispatch while
    Python prepares the next.

    Args:
      model: the network.
      tx: the optimiser.
      dropout_key: the run's key, or an array of E keys.
      rates: the learning rate of every update of the run.
      cfg: the stage of training.
      progress: records every update, and excludes compilation from the time.
      checkpoints: error messages name the newest one.
      state: the state before the first dispatch; only its shapes are used.
      mesh: the devices.
      positions: the positions on the mesh's `data` axis whose rows the microbatches hold; None: all.
    """

    def __init__(
        self,
        model: GPT,
        tx: optax.GradientTransformation,
        dropout_key: jax.Array,
        rates: np.ndarray,
        cfg: TrainConfig,
        progress: Progress | NoProgress,
        checkpoints: Checkpoints | None,
        state: TrainState,
        mesh: Mesh,
        positions: Sequence[int] | None = None,
    ):
        self.on_cpu = jax.default_backend() == "cpu"
        self.n_threads = count_threads(n_microbatches(cfg)) if self.on_cpu else 0
        self.threads = ThreadPoolExecutor(self.n_threads) if self.n_threads > 1 else None
        if self.n_threads:
            self.add_microbatch, self.end_update = make_add_microbatch(model, mesh), make_end_update(tx, mesh)
        else:
            self.train_steps = make_train_steps(model, tx, mesh)
        self.dropout_key, self.rates = dropout_key, rates
        self.capacity, self.mesh, self.positions = cfg.microbatches_per_dispatch, mesh, positions
        self.progress, self.checkpoints = progress, checkpoints
        places = Sums(replicated(mesh), shardings(state.params, mesh))
        zeros = jax.jit(zero_sums, out_shardings=places)
        self.parts = [zeros(state) for _ in range(max(self.n_threads, 1))]  # sums, one for each thread
        self.compiled = {}  # programs by the width of their microbatches; and "end"
        self.limit = 1  # microbatches in the next dispatch
        self.under_way = deque()  # of Dispatch
        self.collected = time.perf_counter()  # when metrics were fetched last
        self.tokens = 0  # of the current update, so far
        self.skipped_E = np.zeros(state.step.size, int)  # each model's skipped updates in a row

    def run(
        self, state: TrainState, queue: list[tuple[int, Microbatch]], stop: Stop
    ) -> tuple[TrainState, int]:
        """Trains on a queue of microbatches. After a request to stop, it only finishes the current update.

        Args:
          state: the state before the first microbatch.
          queue: (update, microbatch) pairs in order; updates are numbered from 0.
          stop: whether the processes agree to stop.

        Returns:
          The new state, and how many updates the run has made in all.
        """
        while queue:
            state, n = self.send(state, queue)
            update, queue = queue[n - 1][0], queue[n:]
            self.collect(under_way=1)
            if stop.agreed():
                queue = [(i, microbatch) for i, microbatch in queue if i == update]
        return state, update + 1

    def send(self, state: TrainState, queue: list[tuple[int, Microbatch]]) -> tuple[TrainState, int]:
        """Sends the first microbatches of the queue. Returns the new state and how many were sent."""
        return (self.send_update if self.n_threads else self.send_call)(state, queue)

    def send_update(self, state: TrainState, queue: list[tuple[int, Microbatch]]) -> tuple[TrainState, int]:
        """Sends the microbatches of one update, each in its own call."""
        step = queue[0][0]
        n = next(j for j, (_, microbatch) in enumerate(queue, 1) if microbatch.last)
        microbatches = [self.placed(microbatch, 0) for _, microbatch in queue[:n]]
        given = (self.dropout_key, state.params, state.step)
        programs = [
            self.program(
                microbatch.batch.x_BT.shape[1],
                self.add_microbatch,
                (*given, self.parts[0], microbatch),
                at_once=self.n_threads,
            )
            for microbatch in microbatches
        ]
        self.collect(under_way=0)

        def add(thread: int) -> Sums:
            sums = self.parts[thread]
            for j in share(thread, self.n_threads, n):
                # Waits for each call, because JAX allocates a call's memory when the call is made.
                sums = jax.block_until_ready(programs[j](*given, sums, microbatches[j]))
            return sums

        mapped = self.threads.map if self.threads else map
        self.parts = list(mapped(add, range(self.n_threads)))
        args = (state, self.parts, np.float32(self.rates[step]))
        state, self.parts, metrics = self.program("end", self.end_update, args)(*args)
        tokens = sum(int(microbatch.tokens) for microbatch in microbatches)
        self.under_way.append(Dispatch(step, [0], [tokens], metrics))
        return state, n

    def send_call(self, state: TrainState, queue: list[tuple[int, Microbatch]]) -> tuple[TrainState, int]:
        """Sends microbatches of one width in one call, which makes all their updates."""
        numbers, microbatches = zip(*queue[: self.limit])
        widths = [microbatch.batch.x_BT.shape[1] for microbatch in microbatches]
        width = widths[0]
        n = next((j for j, other in enumerate(widths) if other != width), len(widths))
        microbatches = microbatches[:n]
        # The program takes `capacity` microbatches and ignores those from number n on.
        stacked = stack([*microbatches, *[microbatches[0]] * (self.capacity - n)])
        rate_J = np.zeros(self.capacity, np.float32)
        rate_J[:n] = self.rates[list(numbers[:n])]
        args = (self.dropout_key, state, *self.parts, self.placed(stacked, 1), rate_J, np.int32(n))
        program = self.program(width, self.train_steps, args)
        if self.on_cpu:
            self.collect(under_way=0)  # two calls at once would need memory for both
        state, sums, metrics = program(*args)
        self.parts = [sums]
        last_J = [j for j, microbatch in enumerate(microbatches) if microbatch.last]
        tokens_J = [int(microbatch.tokens) for microbatch in microbatches]
        self.under_way.append(Dispatch(numbers[0], last_J, tokens_J, metrics))
        return state, n

    def placed(self, microbatch: Microbatch, axis: int) -> Microbatch:
        """Returns a microbatch, or a stack of them, whose rows are on the devices; `axis` is that of rows."""
        batch = (place_rows(leaf, self.mesh, axis, self.positions) for leaf in microbatch.batch)
        return microbatch._replace(batch=Batch(*batch))

    def program(self, name: int | str, function, args: tuple, at_once: int = 1):
        """Returns a program for arguments of these shapes, which is compiled if its name is new.

        Args:
          name: its key in `self.compiled`.
          function: the jitted function.
          args: the arguments of a call.
          at_once: how many threads call the program at the same time.

        Raises:
          UserError: it needs more memory than there is.
        """
        if name in self.compiled:
            return self.compiled[name]
        began = time.perf_counter()
        self.compiled[name] = program = function.lower(*args).compile()
        seconds = time.perf_counter() - began
        if needed := program.memory_analysis():
            most = needed.argument_size_in_bytes + needed.temp_size_in_bytes
            most += (at_once - 1) * (needed.temp_size_in_bytes + needed.output_size_in_bytes)
            check_memory("an update", most, "lower batch_size, or raise microbatches")
        self.progress.leave_out(seconds)
        self.collected += seconds
        return program

    def collect(self, under_way: int):
        """Waits until at most `under_way` dispatches are left on the devices, and records the others.

        Raises:
          UserError: every model has skipped MAX_SKIPPED updates in a row.
        """
        while len(self.under_way) > under_way:
            step, last_J, tokens_J, metrics = self.under_way.popleft()
            loss_EU, norm_EU = (np.atleast_2d(metrics[name])[:, last_J] for name in ("loss", "grad_norm"))
            if not self.n_threads:
                self.set_limit(len(tokens_J))
            self.progress.record(step, loss_EU, norm_EU, self.tokens_of_updates(last_J, tokens_J))
            finite_EU = np.isfinite(loss_EU) & np.isfinite(norm_EU)
            for update, finite_E in enumerate(finite_EU.T, step + 1):
                self.count_skipped(update, finite_E)

    def set_limit(self, n: int):
        """Sets the size of the next call, given that n microbatches took the time since `collected`."""
        now = time.perf_counter()
        seconds_each = max((now - self.collected) / n, 1e-9)
        self.collected = now
        # All processes must send the same dispatches, so the first process's clock decides.
        self.limit = broadcast(min(max(1, int(SECONDS_PER_DISPATCH / seconds_each)), self.capacity))

    def tokens_of_updates(self, last_J: list[int], tokens_J: list[int]) -> list[int]:
        """Returns the tokens of each completed update. Tokens of an incomplete update go to the next call."""
        completed = []
        for j, tokens in enumerate(tokens_J):
            self.tokens += tokens
            if j in last_J:
                completed.append(self.tokens)
                self.tokens = 0
        return completed

    def count_skipped(self, update: int, finite_E: np.ndarray):
        """Counts each model's skipped updates in a row, and logs a note if a model may have diverged.

        Args:
          update: the number of the update, from 1.
          finite_E: whether each model's loss and gradient were finite; if not, it skipped the update.

        Raises:
          UserError: every model has skipped MAX_SKIPPED updates in a row.
        """
        self.skipped_E = np.where(finite_E, 0, self.skipped_E + 1)
        if (self.skipped_E >= MAX_SKIPPED).all():
            step = f"{update}, and {MAX_SKIPPED} or more updates in a row were skipped"
            raise not_finite("the loss or a gradient", step, self.checkpoints)
        for model in np.flatnonzero(self.skipped_E == MAX_SKIPPED) + 1:
            log.info(
                f"note: model {model} of {len(finite_E)} has skipped {MAX_SKIPPED} updates in a row, "
                f"up to {update}: it may have diverged; the others go on"
            )


def not_finite(what: str, step: str, checkpoints: Checkpoints | None) -> UserError:
    """Returns the error for a run that has diverged. The message names the newest checkpoint, if any."""
    newest = checkpoints and checkpoints.step
    return UserError(
        f"{what} is not finite at update {step}; the last good checkpoint is "
        f"{checkpoints.folder / str(newest) if newest else 'none yet'}; "
        "try a lower learning rate, in another --workdir"
    )


def count_threads(n: int) -> int:
    """Returns how many threads share the `n` microbatches of an update on a CPU; 0 if n is 1.

    In a whole update each thread gets at least two, a short and a long one.
    """
    return 0 if n == 1 else calls_at_once(n // 2)


def share(thread: int, n_threads: int, n: int) -> list[int]:
    """Returns the numbers of a thread's microbatches.

    Microbatches are numbered by length. Going back and forth gives all threads texts of similar total length.

    >>> [share(thread, 2, 8) for thread in range(2)]
    [[0, 3, 4, 7], [1, 2, 5, 6]]
    """
    there_and_back = [*range(n_threads), *reversed(range(n_threads))]
    return [j for j in range(n) if there_and_back[j % len(there_and_back)] == thread]
