"""The one loop that every stage of training shares.

Axes: `M` models that train side by side, `U` updates, `J` microbatches of one dispatch.
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
from jax.sharding import Mesh

from kgpt_jax.config import Config, TrainConfig, UserError
from kgpt_jax.data.batches import WIDTH_STEP, Batch, Microbatch, stack
from kgpt_jax.data.chunks import Chunks
from kgpt_jax.data.objectives import Objective
from kgpt_jax.devices import (
    broadcast,
    check_memory,
    deal,
    is_first,
    make_mesh,
    shardings,
    to_numpy,
    whole,
)
from kgpt_jax.model.gpt import GPT, count_params
from kgpt_jax.store.checkpoint import Checkpoints
from kgpt_jax.store.folder import Run
from kgpt_jax.train.feed import Feed, n_microbatches
from kgpt_jax.train.optimizer import learning_rates, make_optimizer
from kgpt_jax.train.progress import NoProgress, Progress, clock
from kgpt_jax.train.step import Sums, TrainState, init_state, make_train_steps, no_sums
from kgpt_jax.train.stop import Stop

log = logging.getLogger(__name__)

SECONDS_PER_DISPATCH = 0.5  # a slow machine gets less work at once, so that it stops soon when asked to
MOST_SKIPPED = 5  # updates in a row without a finite loss and gradient, before a run gives up


def train(
    run: Run,
    cfg: TrainConfig,
    objective: Objective | Chunks,
    n_examples: int,
    start_params=None,
    tensorboard: bool = False,
):
    """Trains the run to its end, from its newest checkpoint if it has one.

    Returns the parameters, along a leading axis those of several models if the config has `n_seeds` of
    them, and the seconds of training, compilation left out. `start_params` are those to start from; None
    draws them from the config's seed. A model skips an update whose loss or gradient is not finite. One
    that has skipped five in a row is named, and the others go on; once all have, a UserError names the newest
    checkpoint. SIGTERM or SIGINT ends the process once the update under way is saved (`train/stop.py`).
    """
    seed = run.config.seed
    init_key, dropout_key = jax.random.split(jax.random.key(seed))
    if run.config.n_seeds > 1:
        init_key, dropout_key = (jax.random.split(key, run.config.n_seeds) for key in (init_key, dropout_key))
    model, tx = GPT(run.config.model), make_optimizer(cfg)
    rates = learning_rates(cfg, n_examples, run.config.model.seq_len)
    data = objective if isinstance(objective, Chunks) else Chunks.of(objective, n_examples)
    ends = np.cumsum(data.updates(cfg)).tolist()  # of the chunks, in updates of an epoch
    per_epoch = ends[-1]
    mesh = make_mesh(-(-cfg.batch_size // n_microbatches(cfg)), run.config.model_devices)
    feed = Feed(data, run.config.model, cfg, seed, mesh)
    state = init_state(model, tx, init_key, start_params, cfg.ema_decay > 0, mesh)

    with Checkpoints(run) as checkpoints, Stop() as stop:
        step, seconds = checkpoints.step or 0, 0.0
        if step:
            state, seconds = checkpoints.restore(state)
        if step == len(rates):
            log.info(f"{run.folder} is finished: {step} updates, {clock(seconds)} of training")
            return state.result, seconds
        if step:
            log.info(f"resuming {run.folder} at update {step} of {len(rates)}")
        kind = Progress if is_first() else NoProgress
        progress = kind(run.folder, step, rates, per_epoch, seconds, tensorboard)
        train_steps = make_train_steps(model, tx, dropout_key, cfg.ema_decay, mesh)
        dispatcher = Dispatcher(train_steps, cfg, progress, checkpoints, state, mesh, feed.positions)
        begun = step // per_epoch * len(ends) + bisect_right(ends, step % per_epoch)  # chunks
        for number, updates in feed.chunks(range(begun, cfg.epochs * len(ends))):
            epoch, chunk = divmod(number, len(ends))
            end = epoch * per_epoch + ends[chunk]
            first = end - len(updates)
            while step < end:
                until = min(step + cfg.save_every - step % cfg.save_every, end)
                microbatches = [
                    (i, microbatch) for i in range(step, until) for microbatch in updates[i - first]
                ]
                while microbatches:
                    state, n = dispatcher.send(state, microbatches, rates)
                    under_way, microbatches = microbatches[n - 1][0], microbatches[n:]
                    dispatcher.settle(leave=1)
                    if stop.agreed():  # no further than to the end of the update
                        microbatches = [
                            microbatch for microbatch in microbatches if microbatch[0] == under_way
                        ]
                        until = under_way + 1
                step, stopping = until, stop.agreed()
                if step % cfg.save_every == 0 or step == len(rates) or stopping:
                    dispatcher.settle(leave=0)
                    good_M = np.atleast_1d(to_numpy(all_finite(state)))
                    if not good_M.all():
                        several = f" of model {np.argmin(good_M) + 1} of {len(good_M)}"
                        raise not_finite(str(step), checkpoints, several if len(good_M) > 1 else "")
                    checkpoints.save(state, progress.seconds(), progress.loss_since_save())
                    progress.draw()
                if stopping:
                    stop.exit(step, len(rates))
        progress.close()
        return state.result, progress.seconds()


def check_fits(config: Config, stage: str):
    """Raises a UserError where a stage of training is certain to need more memory than there is.

    The estimate is a lower bound. It counts parameters, gradients, optimiser state and average, the
    characters of a batch, and the embeddings and logits of one microbatch as if all its texts were short.
    """
    cfg, model = getattr(config, stage), config.model
    copies = 2 + (1 if cfg.muon_learning_rate else 2) + (cfg.ema_decay > 0)
    state = 4 * config.n_seeds * copies * count_params(model)
    purpose = f"{stage}, with {config.n_seeds * count_params(model):,} parameters,"
    check_memory(purpose, state, "lower model.n_embd, model.n_layer or n_seeds")
    rows, width = -(-cfg.batch_size // n_microbatches(cfg)), min(WIDTH_STEP, model.seq_len)
    position = model.n_embd * jnp.dtype(model.dtype).itemsize + 4 * model.vocab_size
    texts = width * (8 * cfg.batch_size + config.n_seeds * rows * position)
    purpose = f"{stage}, with {cfg.batch_size:,} texts a batch,"
    check_memory(purpose, state + texts, f"lower {stage}.batch_size, or raise {stage}.microbatches")


@jax.jit
def all_finite(state: TrainState) -> jax.Array:
    """Tells whether no parameter is infinite or NaN, of several models for each."""
    axes = state.step.ndim  # 1 where several models lie along a leading axis
    leaves = jax.tree.leaves(state.params)
    return jnp.stack([jnp.isfinite(x).all(axis=tuple(range(axes, x.ndim))) for x in leaves]).all(axis=0)


def not_finite(step: str, checkpoints: Checkpoints, which: str = "") -> UserError:
    newest = checkpoints.step
    return UserError(
        f"the loss{which} is not finite at update {step}; the last good checkpoint is "
        f"{checkpoints.folder / str(newest) if newest else 'none yet'}; "
        "try a lower learning rate, in another --workdir"
    )


class Sent(NamedTuple):
    """Work under way; its metrics are fetched when the next has been sent off."""

    step: int  # updates made before it
    last_J: list[int]  # which of its microbatches complete an update
    tokens_J: list[int]  # of each microbatch, padding left out
    metrics: dict


class Dispatcher:
    """Sends microbatches of one width off together, and takes in the metrics of those sent before."""

    def __init__(
        self,
        train_steps,
        cfg: TrainConfig,
        progress: Progress,
        checkpoints: Checkpoints | None,
        state: TrainState,
        mesh: Mesh,
        shares: Sequence[int] | None = None,
    ):
        self.train_steps, self.most, self.mesh = train_steps, cfg.steps_per_dispatch, mesh
        self.shares = shares  # of the rows, that the microbatches hold; None: all
        self.progress, self.checkpoints = progress, checkpoints
        places = Sums(whole(mesh), shardings(state.params, mesh))
        self.sums = jax.jit(no_sums, out_shardings=places)(state)
        self.compiled = {}  # by width
        self.limit = 1  # microbatches that take about SECONDS_PER_DISPATCH, on the first process's clock
        self.sent = deque()
        self.settled = time.perf_counter()
        self.skipped_M = np.zeros(state.step.size, int)  # updates in a row, up to the last one, of each model
        self.tokens = 0  # of the update under way

    def send(self, state: TrainState, microbatches: list[tuple[int, Microbatch]], rates: np.ndarray):
        """Takes (updates made before, microbatch); returns the new state and how many it has seen."""
        numbers, microbatches = zip(*microbatches[: self.limit])
        widths = [microbatch.batch.x_BT.shape[1] for microbatch in microbatches]
        n = next((i for i, width in enumerate(widths) if width != widths[0]), len(widths))
        microbatches = microbatches[:n]
        filled = [*microbatches, *[microbatches[0]] * (self.most - n)]  # the filling is never looked at
        lr_J = np.zeros(self.most, np.float32)
        lr_J[:n] = rates[list(numbers[:n])]
        together = stack(filled)
        batch = Batch(*(deal(part, self.mesh, 1, self.shares) for part in together.batch))
        args = (state, self.sums, together._replace(batch=batch), lr_J, np.int32(n))
        if widths[0] not in self.compiled:
            began = time.perf_counter()
            self.compiled[widths[0]] = self.train_steps.lower(*args).compile()
            took = time.perf_counter() - began
            if needed := self.compiled[widths[0]].memory_analysis():
                most = needed.argument_size_in_bytes + needed.temp_size_in_bytes
                check_memory("an update", most, "lower batch_size, or raise microbatches")
            self.progress.leave_out(took)
            self.settled += took
        state, self.sums, metrics = self.compiled[widths[0]](*args)
        last_J = [j for j, microbatch in enumerate(microbatches) if microbatch.last]
        tokens_J = [int(microbatch.tokens) for microbatch in microbatches]
        self.sent.append(Sent(numbers[0], last_J, tokens_J, metrics))
        return state, n

    def settle(self, leave: int):
        """Waits for all but the `leave` last dispatches and reports them."""
        while len(self.sent) > leave:
            step, last_J, tokens_J, metrics = self.sent.popleft()
            loss_MU, norm_MU = (np.atleast_2d(metrics[name])[:, last_J] for name in ("loss", "grad_norm"))
            now = time.perf_counter()
            per_microbatch = (now - self.settled) / len(tokens_J)
            limit = min(max(1, int(SECONDS_PER_DISPATCH / max(per_microbatch, 1e-9))), self.most)
            self.limit = broadcast(limit)
            self.settled = now
            tokens = []
            for j, count in enumerate(tokens_J):
                self.tokens += count
                if j in last_J:
                    tokens.append(self.tokens)
                    self.tokens = 0
            self.progress.record(step, loss_MU, norm_MU, tokens)
            good_MU = np.isfinite(loss_MU) & np.isfinite(norm_MU)
            for number, good_M in enumerate(good_MU.T, step + 1):
                self.skipped_M = np.where(good_M, 0, self.skipped_M + 1)
                few_M = self.skipped_M < MOST_SKIPPED
                if not few_M.any():
                    raise not_finite(f"{number}, the fifth in a row", self.checkpoints)
                for model in np.flatnonzero(self.skipped_M == MOST_SKIPPED) + 1:
                    log.info(
                        f"note: model {model} of {len(few_M)} has skipped {MOST_SKIPPED} updates in a row, "
                        f"up to {number}: it may have diverged; the others go on"
                    )
