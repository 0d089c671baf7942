"""The training step: sums the gradients of an update's microbatches, then updates the parameters.

    state = init_state(model, tx, init_key)
    sums = zero_sums(state)
    train_steps = make_train_steps(model, tx)
    state, sums, metrics = train_steps(dropout_key, state, sums, microbatches, rate_J, n)

One call of `train_steps` works through many microbatches:

    train_steps     calls `train_step` for each microbatch of one call
    train_step      calls `add_microbatch` and, after the last microbatch of an update, `end_update`
    add_microbatch  adds one microbatch's loss and gradient to the sums
    end_update      checks the sums of a whole update, clears them, and calls `apply_gradient`
    apply_gradient  changes the parameters

`make_add_microbatch` and `make_end_update` make separate programs of `add_microbatch` and `end_update`. Then
several threads can add microbatches at the same time, each to its own sums. The optimiser is compiled only
once, not for each width of microbatches.

JAX forgets what it has compiled for a jitted function when that function is deleted. So each of the `make`
functions keeps the last four functions that it returned. A later training in the same process reuses them, if
its model and optimiser are equal and its microbatches have the same shapes.

Several models can train side by side: give arrays of keys, and every leaf of the state has a leading axis
`E`.

Axes: `B` batch, `T` query position, `V` vocabulary, `J` microbatches of one call, `E` models side by side.
"""

from functools import lru_cache, partial, reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh

from kgpt_jax.config import ModelConfig
from kgpt_jax.data.batches import Batch, Microbatch
from kgpt_jax.data.vocab import PAD_ID
from kgpt_jax.devices import place_params, replicated, shardings
from kgpt_jax.model.gpt import GPT
from kgpt_jax.model.variants import lookup

keep_last_four = lru_cache(maxsize=4)


class TrainState(NamedTuple):
    """Everything that training changes."""

    step: jax.Array  # int32: the number of updates so far, skipped ones included
    params: Any
    opt_state: optax.OptState


class Sums(NamedTuple):
    """Loss and gradient of the current update, summed over its microbatches so far."""

    loss: jax.Array
    grads: Any


def init_state(
    model: GPT, tx: optax.GradientTransformation, key: jax.Array, params=None, mesh: Mesh | None = None
) -> TrainState:
    """Returns the state before the first update.

    Args:
      model: the network.
      tx: the optimiser.
      key: the random key for new parameters, or an array of E keys for E models.
      params: parameters to start from; None draws new ones.
      mesh: the devices, on which `shardings` places each leaf. None leaves the placement to JAX.
    """
    if mesh and params is not None:
        params = place_params(params, mesh)
    return _make_init(model, tx, mesh)(key, params)


@keep_last_four
def _make_init(model: GPT, tx: optax.GradientTransformation, mesh: Mesh | None):
    def init(key, params) -> TrainState:
        if params is None:
            params = model.init(key, jnp.zeros((1, 1), jnp.int32), train=False)["params"]
        return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))

    def run(key, params) -> TrainState:
        state = (jax.vmap(init) if key.ndim else init)(key, params)
        return placed(mesh, state)

    return jax.jit(run)  # one program: without jit, JAX takes seconds to compile each operation separately


def zero_sums(state: TrainState) -> Sums:
    """Returns the sums before the first microbatch of an update."""
    return Sums(jnp.zeros(state.step.shape), jax.tree.map(jnp.zeros_like, state.params))


@keep_last_four
def make_train_steps(model: GPT, tx: optax.GradientTransformation, mesh: Mesh | None = None):
    """Returns the jitted function `train_steps`, with `model` and `tx` filled in.

    Call it as `train_steps(dropout_key, state, sums, microbatches, rate_J, n)`. It donates the buffers of
    `state` and `sums`, so the caller must not use these again. With an array of E keys it trains E models on
    the same microbatches, and metrics have shape (E, J).

    Args:
      model: the network.
      tx: the optimiser; its `update` takes the learning rate as an extra argument (see `make_optimizer`).
      mesh: the devices; state and sums stay where `init_state` placed them. None leaves that to JAX.
    """

    # The key is an argument, not a constant, so that runs with different seeds share the compiled program.
    def run(dropout_key, state: TrainState, sums: Sums, *args):
        steps = partial(train_steps, model, tx)
        if dropout_key.ndim:
            steps = jax.vmap(steps, in_axes=(0, 0, 0, None, None, None))
        state, sums, metrics = steps(dropout_key, state, sums, *args)
        return placed(mesh, state), placed(mesh, sums), fetchable(mesh, metrics)

    return jax.jit(run, donate_argnums=(1, 2))


@keep_last_four
def make_add_microbatch(model: GPT, mesh: Mesh | None = None):
    """Returns the jitted function `add_microbatch`, with `model` filled in.

    Call it as `add(dropout_key, params, step, sums, microbatch)`. It donates the buffers of `sums`. With an
    array of E keys it adds the gradients of E models.
    """

    def run(dropout_key, *args):
        add = partial(add_microbatch, model)
        if dropout_key.ndim:
            add = jax.vmap(add, in_axes=(0, 0, 0, 0, None))
        return placed(mesh, add(dropout_key, *args))

    return jax.jit(run, donate_argnums=3)


@keep_last_four
def make_end_update(tx: optax.GradientTransformation, mesh: Mesh | None = None):
    """Returns a jitted function that makes an update from the sums of all its microbatches.

    Call it as `end(state, parts, rate)`. Each of the `parts` is a `Sums` of some of the microbatches. It
    returns the new state, the parts set to zero, and metrics of shape (1,), or (E, 1) for E models. It
    donates the buffers of `state` and `parts`.
    """

    def run(state: TrainState, parts: list[Sums], rate: jax.Array):
        end = partial(end_update, tx)
        end = jax.vmap(end, in_axes=(0, 0, None)) if state.step.ndim else end
        sums = reduce(partial(jax.tree.map, jnp.add), parts)
        state, cleared, metrics = end(state, sums, rate)
        parts = [cleared] * len(parts)
        metrics = {name: value[..., None] for name, value in metrics.items()}
        return placed(mesh, state), placed(mesh, parts), fetchable(mesh, metrics)

    return jax.jit(run, donate_argnums=(0, 1))


def placed(mesh: Mesh | None, tree):
    """Keeps a state, or sums, where `init_state` places them."""
    return lax.with_sharding_constraint(tree, shardings(tree, mesh)) if mesh else tree


def fetchable(mesh: Mesh | None, metrics: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Replicates metrics, so that every process can fetch them."""
    return lax.with_sharding_constraint(metrics, replicated(mesh)) if mesh else metrics


def train_steps(
    model: GPT,
    tx: optax.GradientTransformation,
    dropout_key: jax.Array,
    state: TrainState,
    sums: Sums,
    microbatches: Microbatch,
    rate_J: jax.Array,
    n: jax.Array,
) -> tuple[TrainState, Sums, dict[str, jax.Array]]:
    """Trains on the first `n` of J microbatches.

    Args:
      model: the network.
      tx: the optimiser.
      dropout_key: the run's key (see `add_microbatch`).
      state: the state before these microbatches.
      sums: the sums before these microbatches: an update may be split over several calls.
      microbatches: J of them, stacked along the first axis of every leaf.
      rate_J: the learning rate of the update that each microbatch belongs to.
      n: how many to use. It is traced, so that a shorter call does not compile another program.

    Returns:
      The new state, the new sums, and {"loss", "grad_norm"}: float32 arrays (J,) that hold the mean loss per
      target (in nats) and the norm of the gradient at the last microbatch of each update, and 0 elsewhere.
    """

    def body(j, carry):
        state, sums, metrics_J = carry
        microbatch = jax.tree.map(lambda leaf: leaf[j], microbatches)
        state, sums, metrics = train_step(model, tx, dropout_key, state, sums, microbatch, rate_J[j])
        return state, sums, {name: metrics_J[name].at[j].set(metrics[name]) for name in metrics}

    no_metrics_J = {name: jnp.zeros(rate_J.shape) for name in ("loss", "grad_norm")}
    return lax.fori_loop(0, n, body, (state, sums, no_metrics_J))


def train_step(model: GPT, tx, dropout_key, state: TrainState, sums: Sums, microbatch: Microbatch, rate):
    """Adds one microbatch to the sums. After an update's last one, `tx` updates the parameters.

    Returns the new state, the new sums and the metrics, as `end_update` does.
    """
    sums = add_microbatch(model, dropout_key, state.params, state.step, sums, microbatch)
    return lax.cond(microbatch.last, partial(end_update, tx), continue_update, state, sums, rate)


def add_microbatch(
    model: GPT, dropout_key, params, step: jax.Array, sums: Sums, microbatch: Microbatch
) -> Sums:
    """Returns the sums with the loss and the gradient of one more microbatch.

    Args:
      model: the network.
      dropout_key: the run's key. Each microbatch folds in the numbers of its update and of itself, so that a
        resumed run has the same dropout masks as an uninterrupted one.
      params: the parameters.
      step: the number of updates so far.
      sums: the sums before this microbatch.
      microbatch: the rows to train on.
    """
    key = jax.random.fold_in(jax.random.fold_in(dropout_key, step), microbatch.number)
    loss, grads = jax.value_and_grad(weighted_loss)(params, model, microbatch, key)
    return jax.tree.map(jnp.add, sums, Sums(loss, grads))


def end_update(tx, state: TrainState, sums: Sums, rate: jax.Array):
    """Makes the update whose sums are complete.

    If the loss or the gradient is not finite, the update is skipped: parameters and optimiser state stay as
    they are, and only the number of updates increases. Under `vmap`, each model skips updates by itself.

    Returns:
      The new state, cleared sums, and the update's loss and gradient norm, which may not be finite.
    """
    metrics = {"loss": sums.loss, "grad_norm": optax.tree.norm(sums.grads)}
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    state = lax.cond(finite, partial(apply_gradient, tx), skip_update, state, sums.grads, rate)
    return state._replace(step=state.step + 1), zero_sums(state), metrics


def continue_update(state: TrainState, sums: Sums, rate: jax.Array):
    """Returns state and sums as they are, and metrics of 0: the update has more microbatches to come."""
    return state, sums, {"loss": jnp.zeros(()), "grad_norm": jnp.zeros(())}


def apply_gradient(tx, state: TrainState, grads, rate: jax.Array) -> TrainState:
    """Returns the state with updated parameters and optimiser state."""
    updates, opt_state = tx.update(grads, state.opt_state, state.params, learning_rate=rate)
    return state._replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state)


def skip_update(state: TrainState, grads, rate: jax.Array) -> TrainState:
    """Returns the state unchanged."""
    return state


def weighted_loss(params, model: GPT, microbatch: Microbatch, key: jax.Array) -> jax.Array:
    """Returns the microbatch's part of its batch's mean loss, in nats; the parts add up to the mean."""
    x_BT, y_BT, source_B = microbatch.batch
    logits_BTV = model.apply({"params": params}, x_BT, source_B, train=True, rngs={"dropout": key})
    return microbatch.weight * cross_entropy_sum(logits_BTV, y_BT)


def cross_entropy_sum(logits_BTV: jax.Array, y_BT: jax.Array) -> jax.Array:
    """Returns the sum of -log p(target), in nats and float32, over the targets that are not PAD.

    >>> float(cross_entropy_sum(jnp.zeros((1, 2, 4)), jnp.array([[3, PAD_ID]])))  # log 4
    1.3862943649291992
    """
    losses_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV.astype(jnp.float32), y_BT)
    return (losses_BT * (y_BT != PAD_ID)).sum()


def predicted(cfg: ModelConfig, batch: Batch) -> Batch:
    """Returns the batch with only those targets that the variant predicts; the others become PAD.

    Most variants predict every character. A variant with an encoder reads the first `source_B` characters of
    a text at once, so these cannot be targets.
    """
    if not lookup(cfg).whole_source:
        return batch
    follows_BT = np.arange(batch.y_BT.shape[1]) >= batch.source_B[:, None] - 1
    return batch._replace(y_BT=np.where(follows_BT, batch.y_BT, PAD_ID))
