"""Counts the operations and the memory traffic of a variant's compiled programs, as XLA estimates them.

Axes: `B` rows, `T` positions, `J` microbatches.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kgpt_jax.config import ModelConfig, TrainConfig
from kgpt_jax.data.batches import Batch, in_microbatches, stack
from kgpt_jax.data.vocab import MASK_ID
from kgpt_jax.model.gpt import GPT, abstract_params
from kgpt_jax.train.optimizer import make_optimizer
from kgpt_jax.train.step import init_state, make_train_steps, zero_sums


class Counts(NamedTuple):
    """XLA's estimates for one call of a compiled program."""

    flops: float
    bytes: float  # that the operations read and write, after fusion


def forward_counts(cfg: ModelConfig, T: int) -> Counts:
    """Compiles a forward pass over one text of T characters and returns XLA's counts."""
    x_BT = jax.ShapeDtypeStruct((1, T), jnp.int32)
    source_B = jax.ShapeDtypeStruct((1,), jnp.int32)
    forward = jax.jit(lambda params, *inputs: GPT(cfg).apply({"params": params}, *inputs, train=False))
    return _counts(forward.lower(abstract_params(cfg), x_BT, source_B))


def update_counts(cfg: ModelConfig, T: int) -> Counts:
    """Compiles an AdamW update on one text of T characters and returns XLA's counts."""
    model, tx, key = GPT(cfg), make_optimizer(TrainConfig()), jax.random.key(0)
    state = jax.eval_shape(lambda key: init_state(model, tx, key), key)
    sums = jax.eval_shape(zero_sums, state)
    x_BT = np.full((1, T), MASK_ID, np.int32)
    microbatch = stack(in_microbatches(Batch(x_BT, x_BT, np.ones(1, np.int32)), 1))
    lr_J, n = np.zeros(1, np.float32), np.int32(1)
    return _counts(make_train_steps(model, tx).lower(key, state, sums, microbatch, lr_J, n))


def _counts(lowered) -> Counts:
    analysis = lowered.compile().cost_analysis()
    return Counts(analysis["flops"], analysis["bytes accessed"])
