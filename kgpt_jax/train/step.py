"""The loss, the training state, and the jitted update of many batches.

Axes: `B` batch, `T` positions, `V` vocabulary, `I` updates in one dispatch.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from kgpt_jax.config import ModelConfig
from kgpt_jax.data.batches import Batch
from kgpt_jax.data.vocab import PAD_ID
from kgpt_jax.model.variants import lookup


class TrainState(NamedTuple):
    """All that training changes."""

    step: jax.Array  # int32, updates made
    params: Any
    opt_state: Any


def masked_cross_entropy(logits_BTV: jax.Array, y_BT: jax.Array) -> jax.Array:
    """Returns the mean of -log p(target) over the targets that are not PAD, in float32."""
    losses_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV.astype(jnp.float32), y_BT)
    counted_BT = y_BT != PAD_ID
    return (losses_BT * counted_BT).sum() / jnp.maximum(counted_BT.sum(), 1)


def predicted(cfg: ModelConfig, batch: Batch) -> jax.Array:
    """Returns the targets (B, T) that the variant predicts; those inside a source read as a whole are PAD."""
    if not lookup(cfg).whole_source:
        return batch.y_BT
    follows_BT = jnp.arange(batch.y_BT.shape[1]) >= batch.source_B[:, None] - 1
    return jnp.where(follows_BT, batch.y_BT, PAD_ID)


def init_state(model, tx: optax.GradientTransformation, key: jax.Array) -> TrainState:
    """Returns a fresh state; `key` decides the parameters."""

    @jax.jit  # one program, where op by op takes seconds to start
    def init(key):
        params = model.init(key, jnp.zeros((1, 1), jnp.int32), train=False)["params"]
        return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))

    return init(key)


def make_train_steps(model, tx: optax.GradientTransformation, dropout_key: jax.Array):
    """Returns a jitted `(state, batches, lr_I, n) -> (state, metrics)` that makes the first n updates.

    `batches` holds I of them, stacked on a leading axis; metrics are arrays over I. The number n is
    traced, so a run's last, shorter dispatch compiles nothing. Update i draws dropout from its own number
    in the run: a resumed run draws what the unbroken one would have.
    """

    def loss_fn(params, batch: Batch, key):
        rngs = {"dropout": key}
        logits_BTV = model.apply({"params": params}, batch.x_BT, batch.source_B, train=True, rngs=rngs)
        return masked_cross_entropy(logits_BTV, predicted(model.cfg, batch))

    def train_step(state: TrainState, batch: Batch, lr):
        key = jax.random.fold_in(dropout_key, state.step)
        loss, grads = jax.value_and_grad(loss_fn)(state.params, batch, key)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, u: p - lr * u, state.params, updates)
        metrics = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
        return TrainState(state.step + 1, params, opt_state), metrics

    @partial(jax.jit, donate_argnums=0)
    def train_steps(state: TrainState, batches: Batch, lr_I: jax.Array, n: jax.Array):
        def one(i, carry):
            state, metrics = carry
            batch = jax.tree.map(lambda part: part[i], batches)
            state, new = train_step(state, batch, lr_I[i])
            return state, {name: metrics[name].at[i].set(new[name]) for name in metrics}

        nothing = {name: jnp.zeros(lr_I.shape) for name in ("loss", "grad_norm")}
        return lax.fori_loop(0, n, one, (state, nothing))

    return train_steps
