"""The loss, the training state, and the jitted step of training.

Axes: `B` batch, `T` positions, `V` vocabulary, `J` microbatches in one dispatch. Given an array of keys for one,
`init_state` and `make_train_steps` have as many models at once, along a leading axis of the state.
"""

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
from kgpt_jax.devices import put, shardings, whole
from kgpt_jax.model.variants import lookup


class TrainState(NamedTuple):
    """All that training changes."""

    step: jax.Array  # int32, updates made
    params: Any
    opt_state: Any
    average: Any = ()  # of the parameters over the last updates, where `ema_decay` asks for it

    @property
    def result(self):
        """The parameters that training hands on."""
        return self.average or self.params


class Sums(NamedTuple):
    """What the microbatches of the update under way have added up to."""

    loss: jax.Array
    grads: Any


def cross_entropy_sum(logits_BTV: jax.Array, y_BT: jax.Array) -> jax.Array:
    """Returns the sum of -log p(target) over the targets that are not PAD, in float32."""
    losses_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV.astype(jnp.float32), y_BT)
    return (losses_BT * (y_BT != PAD_ID)).sum()


def predicted(cfg: ModelConfig, batch: Batch) -> Batch:
    """Returns the batch without the targets that the variant leaves out: it reads a source as a whole."""
    if not lookup(cfg).whole_source:
        return batch
    follows_BT = np.arange(batch.y_BT.shape[1]) >= batch.source_B[:, None] - 1
    return batch._replace(y_BT=np.where(follows_BT, batch.y_BT, PAD_ID))


def init_state(
    model,
    tx: optax.GradientTransformation,
    key: jax.Array,
    params=None,
    averaged: bool = False,
    mesh: Mesh | None = None,
) -> TrainState:
    """Returns a fresh state; `key` decides the parameters where none are given.

    With a mesh, each part lies where `shardings` puts it.
    """

    def init(key, params):
        if params is None:
            params = model.init(key, jnp.zeros((1, 1), jnp.int32), train=False)["params"]
        average = jax.tree.map(jnp.copy, params) if averaged else ()
        return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params), average)

    init = jax.vmap(init) if key.ndim else init
    params = put(params, mesh) if mesh and params is not None else params
    places = shardings(jax.eval_shape(init, key, params), mesh) if mesh else None
    # One program, where op by op takes seconds to start.
    return jax.jit(init, out_shardings=places)(key, params)


def no_sums(state: TrainState) -> Sums:
    """Returns what an update begins with: zeros."""
    return Sums(jnp.zeros(state.step.shape), jax.tree.map(jnp.zeros_like, state.params))


def make_train_steps(
    model,
    tx: optax.GradientTransformation,
    dropout_key: jax.Array,
    ema_decay: float = 0.0,
    mesh: Mesh | None = None,
):
    """Returns a jitted `(state, sums, microbatches, lr_J, n) -> (state, sums, metrics)` that takes in n microbatches.

    `microbatches` holds J of them, stacked on a leading axis; `lr_J` is the rate of each one's update, which is
    made when its last microbatch is in; `sums` is what the microbatches before have added up to. Metrics are arrays over
    J, zero but at the last microbatches. The number n is traced, so a shorter dispatch compiles nothing. Dropout
    follows from the numbers of update and microbatch: a resumed run draws what the unbroken one would have.

    An update whose loss or gradient is not finite changes nothing but the count of updates; of several models
    each is judged by itself.

    After update i a state's average, if it has one, is a moving one of decay min(`ema_decay`, i / (i + 9)):
    it forgets the first parameters sooner. Metrics of several models have an axis of models before J. With a
    mesh, the state stays where `init_state` put it.
    """

    def loss_fn(params, microbatch: Microbatch, key):
        x_BT, y_BT, source_B = microbatch.batch
        logits_BTV = model.apply({"params": params}, x_BT, source_B, train=True, rngs={"dropout": key})
        return microbatch.weight * cross_entropy_sum(logits_BTV, y_BT)

    def update(state: TrainState, sums: Sums, lr):
        norm = optax.tree.norm(sums.grads)
        good = jnp.isfinite(sums.loss) & jnp.isfinite(norm)
        state = lax.cond(good, changed, skipped, state, sums, lr)
        return state, no_sums(state), {"loss": sums.loss, "grad_norm": norm}

    def changed(state: TrainState, sums: Sums, lr):
        updates, opt_state = tx.update(sums.grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, u: p - lr * u, state.params, updates)
        step = state.step + 1
        decay = jnp.minimum(ema_decay, step / (step + 9))
        average = state.average and jax.tree.map(
            lambda a, p: decay * a + (1 - decay) * p, state.average, params
        )
        return TrainState(step, params, opt_state, average)

    def skipped(state: TrainState, sums: Sums, lr):
        return state._replace(step=state.step + 1)

    def not_yet(state: TrainState, sums: Sums, lr):
        return state, sums, {"loss": jnp.zeros(()), "grad_norm": jnp.zeros(())}

    def train_steps(
        dropout_key, state: TrainState, sums: Sums, microbatches: Microbatch, lr_J: jax.Array, n: jax.Array
    ):
        def one(j, carry):
            state, sums, metrics = carry
            microbatch = jax.tree.map(lambda part: part[j], microbatches)
            key = jax.random.fold_in(jax.random.fold_in(dropout_key, state.step), microbatch.number)
            new = Sums(*jax.value_and_grad(loss_fn)(state.params, microbatch, key))
            sums = jax.tree.map(jnp.add, sums, new)
            state, sums, new = lax.cond(microbatch.last, update, not_yet, state, sums, lr_J[j])
            return state, sums, {name: metrics[name].at[j].set(new[name]) for name in metrics}

        nothing = {name: jnp.zeros(lr_J.shape) for name in ("loss", "grad_norm")}
        return lax.fori_loop(0, n, one, (state, sums, nothing))

    several = jax.vmap(train_steps, in_axes=(0, 0, 0, None, None, None))

    def in_place(state: TrainState, sums: Sums, *args):
        state, sums, metrics = (several if dropout_key.ndim else train_steps)(dropout_key, state, sums, *args)
        if mesh:  # what comes out lies where it came in
            state, sums = (lax.with_sharding_constraint(x, shardings(x, mesh)) for x in (state, sums))
            metrics = lax.with_sharding_constraint(metrics, whole(mesh))
        return state, sums, metrics

    return jax.jit(in_place, donate_argnums=(0, 1))
