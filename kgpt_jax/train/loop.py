"""The training loop, one for every stage.

    params, seconds = train(run, config.pretrain, Chunks.of(objective, n_examples))

The loop in `train` works through stretches of updates. A stretch ends at the next checkpoint, or at the end
of the current chunk of data. The `Dispatcher` sends its microbatches to the devices, several at a time, and
collects the losses.

Axes: `J` microbatches of one dispatch, `E` models that train side by side, `U` updates.
"""

import logging
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from kgpt_jax.config import Config, TrainConfig, UserError
from kgpt_jax.data.batches import WIDTH_STEP, Batch, Microbatch, stack
from kgpt_jax.data.chunks import Chunks
from kgpt_jax.devices import (
    broadcast,
    check_memory,
    is_first,
    make_mesh,
    place_rows,
    replicated,
    shardings,
    to_numpy,
)
from kgpt_jax.model.gpt import GPT, count_params
from kgpt_jax.store.checkpoint import Checkpoints
from kgpt_jax.store.folder import Run
from kgpt_jax.train.feed import Feed, n_microbatches
from kgpt_jax.train.optimizer import learning_rates, make_optimizer
from kgpt_jax.train.progress import NoProgress, Progress, clock
from kgpt_jax.train.step import (
    Sums,
    TrainState,
    init_state,
    make_end_update,
    make_train_steps,
    zero_sums,
)
from kgpt_jax.train.stop import Stop

log = logging.getLogger(__name__)

SECONDS_PER_DISPATCH = 0.5  # short, so that training stops soon after a signal
MAX_SKIPPED = 5  # skipped updates in a row after which a model counts as diverged


def train(
    run: Run,
    cfg: TrainConfig,
    data: Chunks,
    start_params=None,
    tensorboard: bool = False,
):
    """Trains a run to its end, from its newest checkpoint if it has one.

    Args:
      run: the run to train. The caller holds the lock on its folder (`store.folder.locked`).
      cfg: the stage of training.
      data: the examples of an epoch.
      start_params: parameters to start from; None draws new ones from the config's seed.
      tensorboard: whether to write event files for TensorBoard, too.

    Returns:
      The parameters, with a leading axis E if the config has several models (`n_seeds`); and the seconds of
      training. These include the time before a resume, and exclude compilation.

    Raises:
      UserError: every model has skipped MAX_SKIPPED updates in a row, a parameter is not finite, an update
        needs more memory than there is, or a checkpoint cannot be read or written.
      SystemExit: SIGTERM or SIGINT stopped training. A checkpoint of the last update was saved.
    """
    n_seeds, seed = run.config.n_seeds, run.config.seed
    init_key, dropout_key = jax.random.split(jax.random.key(seed))
    if n_seeds > 1:
        init_key, dropout_key = (jax.random.split(key, n_seeds) for key in (init_key, dropout_key))
    rates = learning_rates(cfg, data.n_examples(cfg), run.config.model.seq_len)
    model, tx = GPT(run.config.model), make_optimizer(cfg)
    mesh = make_mesh(-(-cfg.batch_size // n_microbatches(cfg)), run.config.model_devices)
    state = init_state(model, tx, init_key, start_params, mesh)

    chunk_ends = np.cumsum(data.updates(cfg)).tolist()  # in updates since the start of the epoch
    n_chunks, per_epoch = len(chunk_ends), chunk_ends[-1]
    feed = Feed(data, run.config.model, cfg, seed, mesh)

    with Checkpoints(run) as checkpoints, Stop() as stop:
        step, seconds = checkpoints.step or 0, 0.0
        if step:
            state, seconds = checkpoints.restore(state)
        if step == len(rates):
            log.info(f"{run.folder} is finished: {step} updates, {clock(seconds)} of training")
            return state.params, seconds
        if step:
            log.info(f"resuming {run.folder} at update {step} of {len(rates)}")
        kind = Progress if is_first() else NoProgress
        with kind(run.folder, step, rates, per_epoch, seconds, tensorboard) as progress:
            dispatcher = Dispatcher(
                model, tx, dropout_key, rates, cfg, progress, checkpoints, state, mesh, feed.positions
            )

            # Chunks are numbered through all epochs. A resumed run begins in the chunk of its next update.
            first_chunk = step // per_epoch * n_chunks + bisect_right(chunk_ends, step % per_epoch)
            for chunk, updates in feed.chunks(range(first_chunk, cfg.epochs * n_chunks)):
                chunk_end = chunk // n_chunks * per_epoch + chunk_ends[chunk % n_chunks]
                chunk_start = chunk_end - len(updates)
                while step < chunk_end:
                    next_save = step + cfg.save_every - step % cfg.save_every
                    stretch = range(step, min(next_save, chunk_end))
                    queue = [(i, microbatch) for i in stretch for microbatch in updates[i - chunk_start]]
                    state, step = dispatcher.run(state, queue, stop)
                    stopping = stop.agreed()
                    if step % cfg.save_every == 0 or step == len(rates) or stopping:
                        dispatcher.collect(under_way=0)
                        check_finite(state, step, checkpoints)
                        checkpoints.save(state, progress.seconds(), progress.loss_since_save())
                        progress.draw()
                    if stopping and step < len(rates):
                        stop.exit(step, len(rates))
            seconds = progress.seconds()  # without those that the drawing takes
            progress.finish()
            return state.params, seconds


class Dispatch(NamedTuple):
    """Microbatches that are on the devices; their metrics are not fetched yet."""

    step: int  # updates completed before these microbatches
    last_J: list[int]  # indices of the microbatches that complete an update
    tokens_J: list[int]  # characters of each microbatch, without padding
    metrics: dict[str, jax.Array]  # as `step.train_steps` returns them


class Dispatcher:
    """Sends microbatches to the devices, several at once, and records their losses when these arrive.

    All microbatches of a dispatch have the same width, and each width has its own compiled program. The
    number of microbatches adapts to the speed of the devices: a dispatch takes about SECONDS_PER_DISPATCH,
    and holds at most `cfg.microbatches_per_dispatch`. The devices work on one dispatch while Python prepares
    the next.

    If an update has several microbatches on a CPU, these differ in width. Another program then makes the
    update, so that the optimiser is compiled once and not for each width. A dispatch ends with the update.

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
        apart = self.on_cpu and n_microbatches(cfg) > 1
        self.train_steps = make_train_steps(model, None if apart else tx, mesh)
        self.end_update = make_end_update(tx, mesh) if apart else None
        self.dropout_key, self.rates = dropout_key, rates
        self.capacity, self.mesh, self.positions = cfg.microbatches_per_dispatch, mesh, positions
        self.progress, self.checkpoints = progress, checkpoints
        places = Sums(replicated(mesh), shardings(state.params, mesh))
        self.sums = jax.jit(zero_sums, out_shardings=places)(state)
        self.compiled = {}  # programs: `train_steps` by width, and "end"
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
        numbers, microbatches = zip(*queue[: self.limit])
        widths = [microbatch.batch.x_BT.shape[1] for microbatch in microbatches]
        width = widths[0]
        n = next((j for j, other in enumerate(widths) if other != width), len(widths))
        if self.end_update:
            n = next((j + 1 for j in range(n) if microbatches[j].last), n)
        microbatches = microbatches[:n]
        # The program takes `capacity` microbatches and ignores those from number n on.
        stacked = stack([*microbatches, *[microbatches[0]] * (self.capacity - n)])
        batch = Batch(*(place_rows(leaf, self.mesh, 1, self.positions) for leaf in stacked.batch))
        rate_J = np.zeros(self.capacity, np.float32)
        rate_J[:n] = self.rates[list(numbers[:n])]
        args = (self.dropout_key, state, self.sums, stacked._replace(batch=batch), rate_J, np.int32(n))
        program = self.program(width, self.train_steps, args)
        if self.on_cpu:
            self.collect(under_way=0)  # two calls at once would need memory for both
        state, self.sums, metrics = program(*args)
        if self.end_update and microbatches[-1].last:
            args = (state, self.sums, rate_J, np.int32(n))
            state, self.sums, metrics = self.program("end", self.end_update, args)(*args)
        last_J = [j for j, microbatch in enumerate(microbatches) if microbatch.last]
        tokens_J = [int(microbatch.tokens) for microbatch in microbatches]
        self.under_way.append(Dispatch(numbers[0], last_J, tokens_J, metrics))
        return state, n

    def program(self, name: int | str, function, args: tuple):
        """Returns a program for arguments of these shapes, which is compiled if its name is new.

        Raises:
          UserError: it needs more memory than the machine has.
        """
        if name in self.compiled:
            return self.compiled[name]
        began = time.perf_counter()
        self.compiled[name] = program = function.lower(*args).compile()
        seconds = time.perf_counter() - began
        if needed := program.memory_analysis():
            most = needed.argument_size_in_bytes + needed.temp_size_in_bytes
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
            self.set_limit(len(tokens_J))
            self.progress.record(step, loss_EU, norm_EU, self.tokens_of_updates(last_J, tokens_J))
            finite_EU = np.isfinite(loss_EU) & np.isfinite(norm_EU)
            for update, finite_E in enumerate(finite_EU.T, step + 1):
                self.count_skipped(update, finite_E)

    def set_limit(self, n: int):
        """Sets the size of the next dispatch, given that n microbatches took the time since the last call."""
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


def check_fits(config: Config, stage: str):
    """Raises a UserError if a stage's batches cannot be divided among the devices, or need too much memory.

    The estimate is a lower bound. It counts parameters, gradients, optimiser state, the characters of a
    batch, and the embeddings and logits of one microbatch of short texts.

    Args:
      config: the recipe, with the size of the vocabulary in it.
      stage: the name of the stage: pretrain, finetune or scratch.
    """
    cfg, model = getattr(config, stage), config.model
    copies = 2 + (1 if cfg.muon_learning_rate else 2)  # parameters, gradients, one or two moments
    state_bytes = 4 * config.n_seeds * copies * count_params(model)
    purpose = f"{stage}, with {config.n_seeds * count_params(model):,} parameters,"
    check_memory(purpose, state_bytes, "lower model.n_embd, model.n_layer or n_seeds")
    rows, width = -(-cfg.batch_size // n_microbatches(cfg)), min(WIDTH_STEP, model.seq_len)
    position_bytes = model.n_embd * jnp.dtype(model.dtype).itemsize + 4 * model.vocab_size
    text_bytes = width * (8 * cfg.batch_size + config.n_seeds * rows * position_bytes)
    purpose = f"{stage}, with {cfg.batch_size:,} texts a batch,"
    check_memory(
        purpose, state_bytes + text_bytes, f"lower {stage}.batch_size, or raise {stage}.microbatches"
    )
    make_mesh(rows, config.model_devices)


def check_finite(state: TrainState, step: int, checkpoints: Checkpoints):
    """Raises a UserError if any parameter of any model is infinite or NaN."""
    finite_E = np.atleast_1d(to_numpy(all_finite(state)))
    if not finite_E.all():
        which = f" of model {np.argmin(finite_E) + 1} of {len(finite_E)}" if len(finite_E) > 1 else ""
        raise not_finite(f"a parameter{which}", str(step), checkpoints)


@jax.jit
def all_finite(state: TrainState) -> jax.Array:
    """Returns whether all parameters are finite: a bool, or one for each model, (E,)."""
    model_axes = state.step.ndim  # 1 if there are several models, else 0
    leaves = jax.tree.leaves(state.params)
    return jnp.stack([jnp.isfinite(x).all(axis=tuple(range(model_axes, x.ndim))) for x in leaves]).all(axis=0)


def not_finite(what: str, step: str, checkpoints: Checkpoints | None) -> UserError:
    """Returns the error for a run that has diverged. The message names the newest checkpoint, if any."""
    newest = checkpoints and checkpoints.step
    return UserError(
        f"{what} is not finite at update {step}; the last good checkpoint is "
        f"{checkpoints.folder / str(newest) if newest else 'none yet'}; "
        "try a lower learning rate, in another --workdir"
    )
