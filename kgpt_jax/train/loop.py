"""The training loop, one for every stage.

    params, seconds = train(run, config.pretrain, Chunks.of(objective, n_examples))

The loop in `train` works through stretches of updates. A stretch ends at the next checkpoint, or at the end
of the current chunk of data. The `Dispatcher` (`train/dispatch.py`) sends its microbatches to the devices and
collects the losses.

Axes: `E` models that train side by side.
"""

import logging
from bisect import bisect_right

import jax
import jax.numpy as jnp
import numpy as np

from kgpt_jax.config import Config, TrainConfig
from kgpt_jax.data.batches import WIDTH_STEP
from kgpt_jax.data.chunks import Chunks
from kgpt_jax.devices import check_memory, is_first, make_mesh, to_numpy
from kgpt_jax.model.gpt import GPT, count_params
from kgpt_jax.store.checkpoint import Checkpoints
from kgpt_jax.store.folder import Run
from kgpt_jax.train.dispatch import Dispatcher, not_finite
from kgpt_jax.train.feed import Feed, microbatch_rows
from kgpt_jax.train.optimizer import learning_rates, make_optimizer
from kgpt_jax.train.progress import NoProgress, Progress, clock
from kgpt_jax.train.step import TrainState, init_state
from kgpt_jax.train.stop import Stop

log = logging.getLogger(__name__)


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
      UserError: every model has skipped five updates in a row, a parameter is not finite, an update
        needs more memory than there is, or a checkpoint cannot be read or written.
      SystemExit: SIGTERM or SIGINT stopped training. A checkpoint of the last update was saved.
    """
    n_seeds, seed = run.config.n_seeds, run.config.seed
    init_key, dropout_key = jax.random.split(jax.random.key(seed))
    if n_seeds > 1:
        init_key, dropout_key = (jax.random.split(key, n_seeds) for key in (init_key, dropout_key))
    rates = learning_rates(cfg, data.n_examples(cfg), run.config.model.seq_len)
    model, tx = GPT(run.config.model), make_optimizer(cfg)
    mesh = make_mesh(microbatch_rows(cfg), run.config.model_devices)
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
    rows, width = microbatch_rows(cfg), min(WIDTH_STEP, model.seq_len)
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
