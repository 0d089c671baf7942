"""The one loop that every stage of training shares."""

import time
from collections import deque
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kgpt_jax.config import TrainConfig, UserError
from kgpt_jax.data.batches import Batch, epoch_batches, steps_per_epoch
from kgpt_jax.data.objectives import Objective
from kgpt_jax.data.vocab import PAD_ID
from kgpt_jax.model.gpt import GPT
from kgpt_jax.train.checkpoint import Checkpoints, Run
from kgpt_jax.train.optimizer import learning_rates, make_optimizer
from kgpt_jax.train.progress import Progress, clock
from kgpt_jax.train.step import TrainState, init_state, make_train_steps

SECONDS_PER_DISPATCH = 2.0  # a slow machine gets fewer updates at once, so that its line moves


def train(
    run: Run,
    cfg: TrainConfig,
    objective: Objective,
    n_examples: int,
    start_params=None,
    tensorboard: bool = False,
):
    """Trains the run to its end, from its newest checkpoint if it has one.

    Returns the parameters and the seconds of training, compilation left out. `start_params` are those
    to start from; None draws them from the config's seed. A loss that is not finite is a UserError that
    names the update and the newest checkpoint, which is from before it.
    """
    seed = run.config.seed
    init_key, dropout_key = jax.random.split(jax.random.key(seed))
    model, tx = GPT(run.config.model), make_optimizer(cfg)
    rates = learning_rates(cfg, n_examples, run.config.model.seq_len)
    per_epoch = steps_per_epoch(n_examples, cfg)
    state = init_state(model, tx, init_key)
    if start_params is not None:
        state = TrainState(state.step, start_params, jax.jit(tx.init)(start_params))

    with Checkpoints(run) as checkpoints:
        step, seconds = checkpoints.latest_step() or 0, 0.0
        if step:
            state, seconds = checkpoints.restore(state)
        if step == len(rates):
            print(f"{run.folder} is finished: {step} updates, {clock(seconds)} of training")
            return state.params, seconds
        if step:
            print(f"resuming {run.folder} at update {step} of {len(rates)}")
        progress = Progress(run.folder, step, rates, per_epoch, seconds, tensorboard)
        dispatcher = Dispatcher(make_train_steps(model, tx, dropout_key), cfg, progress)
        for epoch in range(step // per_epoch, cfg.epochs):
            batches = epoch_batches(objective, cfg, seed, epoch)
            while step < (epoch + 1) * per_epoch:
                ahead = batches[step - epoch * per_epoch :][: cfg.save_every - step % cfg.save_every]
                state, n = dispatcher.send(state, ahead, step, rates)
                step += n
                save = step % cfg.save_every == 0 or step == len(rates)
                dispatcher.settle(checkpoints, leave=0 if save else 1)
                if save:
                    if not all_finite(state.params):
                        raise not_finite(step, checkpoints)
                    checkpoints.save(state, progress.seconds())
                    progress.draw()
        checkpoints.wait()
        progress.close()
        return state.params, progress.seconds()


@jax.jit
def all_finite(params) -> jax.Array:
    """Tells whether no parameter is infinite or NaN."""
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]).all()


def not_finite(step: int, checkpoints: Checkpoints) -> UserError:
    checkpoints.wait()
    newest = checkpoints.latest_step()
    return UserError(
        f"the loss is not finite at update {step}; the last good checkpoint is "
        f"{checkpoints.folder / str(newest) if newest else 'none yet'}; "
        "try a lower learning rate, in another --workdir"
    )


class Sent(NamedTuple):
    """Updates under way; their metrics are fetched when the next ones have been sent off."""

    step: int  # updates made before them
    n: int
    tokens: int  # that are not padding
    metrics: dict


class Dispatcher:
    """Sends batches of one width off together, and takes in the metrics of those sent before."""

    def __init__(self, train_steps, cfg: TrainConfig, progress: Progress):
        self.train_steps, self.most, self.progress = train_steps, cfg.steps_per_dispatch, progress
        self.compiled = {}  # by width
        self.limit = 1  # updates that take about SECONDS_PER_DISPATCH
        self.sent = deque()
        self.settled = time.perf_counter()

    def send(self, state: TrainState, batches: list[Batch], step: int, rates: np.ndarray):
        """Returns the new state and how many of the batches it has seen."""
        width = batches[0].x_BT.shape[1]
        n = 1
        while n < min(self.limit, len(batches)) and batches[n].x_BT.shape[1] == width:
            n += 1
        rows = batches[:n] + [batches[0]] * (self.most - n)  # the filling is never looked at
        stacked = Batch(*(np.stack(part) for part in zip(*rows)))
        lr_I = np.zeros(self.most, np.float32)
        lr_I[:n] = rates[step : step + n]
        args = (state, stacked, lr_I, np.int32(n))
        if width not in self.compiled:
            began = time.perf_counter()
            self.compiled[width] = self.train_steps.lower(*args).compile()
            took = time.perf_counter() - began
            self.progress.leave_out(took)
            self.settled += took
        state, metrics = self.compiled[width](*args)
        tokens = sum(np.count_nonzero(batch.x_BT != PAD_ID) for batch in batches[:n])
        self.sent.append(Sent(step, n, tokens, metrics))
        return state, n

    def settle(self, checkpoints: Checkpoints, leave: int):
        """Waits for all but the `leave` last dispatches and reports them."""
        while len(self.sent) > leave:
            step, n, tokens, metrics = self.sent.popleft()
            losses, norms = (np.asarray(metrics[name])[:n] for name in ("loss", "grad_norm"))
            now = time.perf_counter()
            per_update = (now - self.settled) / n
            self.limit = min(max(1, int(SECONDS_PER_DISPATCH / max(per_update, 1e-9))), self.most)
            self.settled = now
            finite = np.isfinite(losses) & np.isfinite(norms)
            if not finite.all():
                raise not_finite(step + int(np.argmin(finite)) + 1, checkpoints)
            self.progress.record(step, losses, norms, tokens)
