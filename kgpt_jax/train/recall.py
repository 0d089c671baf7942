"""Associative recall: can a variant look up a value by its key?

A text begins with pairs in random order. Each pair is one symbol that stands for a key and a value, and every
key occurs once. Then the text lists the keys again, in another order. The target after a key is the value of
its pair.

Attention that compares positions finds the pair by its key, in one layer. Attention weights that depend only
on a position's own symbol cannot find it. Such a model reads the same mixture of all pairs for every key, and
has to tell the pairs apart within that mixture.

Axes: `I` updates, `B` texts, `P` pairs, `K` keys, `T` positions, `V` symbols.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from kgpt_jax.config import ModelConfig, TrainConfig
from kgpt_jax.data.batches import Batch, in_microbatches, stack
from kgpt_jax.data.vocab import PAD_ID
from kgpt_jax.model.gpt import GPT
from kgpt_jax.train.optimizer import learning_rates, make_optimizer
from kgpt_jax.train.step import init_state, make_train_steps, predicted, zero_sums

KEYS = 16  # and 16 values, so guessing is right once in 16
FIRST_PAIR = 2
FIRST_KEY = FIRST_PAIR + KEYS * KEYS
FIRST_VALUE = FIRST_KEY + KEYS
TEXTS = 1024  # to measure accuracy on, each with 16 keys to look up


def recall_model(cfg: ModelConfig) -> ModelConfig:
    """Returns `cfg` with one layer, 4 heads and 64 channels; variant and options stay."""
    return dataclasses.replace(
        cfg,
        vocab_size=FIRST_VALUE + KEYS,
        block_size=2 * KEYS,
        seq_len=2 * KEYS,
        n_layer=1,
        n_head=4,
        n_embd=64,
        dropout=0.0,
    )


def recall_texts(rng: np.random.Generator, B: int) -> Batch:
    """Returns B texts of `2 * KEYS` symbols. Only the second half, which repeats the keys, has targets."""
    key_BP = rng.permuted(np.tile(np.arange(KEYS), (B, 1)), axis=1)
    asked_BP = rng.permuted(key_BP, axis=1)
    value_BK = rng.integers(0, KEYS, (B, KEYS))  # of each key
    pair_BP = FIRST_PAIR + key_BP * KEYS + np.take_along_axis(value_BK, key_BP, axis=1)
    answer_BP = FIRST_VALUE + np.take_along_axis(value_BK, asked_BP, axis=1)
    x_BT = np.concatenate([pair_BP, FIRST_KEY + asked_BP], axis=1).astype(np.int32)
    y_BT = np.concatenate([np.full_like(answer_BP, PAD_ID), answer_BP], axis=1).astype(np.int32)
    return Batch(x_BT, y_BT, np.full(B, KEYS, np.int32))


def recall(cfg: ModelConfig, updates: int = 2000, seed: int = 0) -> float:
    """Trains a small model on associative recall, and returns its accuracy on new texts, from 0 to 1.

    Args:
      cfg: the variant and its options; `recall_model` sets the size.
      updates: AdamW updates, each on 64 fresh texts.
      seed: decides initial parameters and texts.
    """
    model = GPT(recall_model(cfg))
    stage = TrainConfig(epochs=updates, batch_size=64, learning_rate=3e-3, weight_decay=0.0)
    rates = learning_rates(stage, n_examples=64, seq_len=2 * KEYS)
    tx = make_optimizer(stage)
    init_key, dropout_key = jax.random.split(jax.random.key(seed))
    state, rng = init_state(model, tx, init_key), np.random.default_rng((seed, 0))
    train_steps, sums = make_train_steps(model, tx), zero_sums(state)
    for first in range(0, updates, 100):
        lr_I = rates[first : first + 100].astype(np.float32)
        texts = [recall_texts(rng, 64) for _ in lr_I]
        microbatches = stack([in_microbatches(predicted(model.cfg, batch), 1)[0] for batch in texts])
        state, sums, _ = train_steps(dropout_key, state, sums, microbatches, lr_I, len(lr_I))
    x_BT, y_BT, source_B = recall_texts(np.random.default_rng((seed, 1)), TEXTS)
    logits_BTV = jax.jit(lambda params: model.apply({"params": params}, x_BT, source_B, train=False))(
        state.params
    )
    asked_BT = y_BT != PAD_ID
    correct_BT = (jnp.argmax(logits_BTV, axis=-1) == y_BT) & asked_BT
    return float(correct_BT.sum() / asked_BT.sum())
