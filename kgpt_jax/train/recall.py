"""Associative recall: can a variant look up the word that has a property?

A text lists pairs, each one symbol that stands for a key and a value, with every key once, in random
order; then it names the keys in another order. The target behind a key is the value that it was paired
with in this text. Attention that compares positions finds the pair by its key, in one layer. Weights that
follow from a position's own symbol cannot know where the pair stands: such a model sees a blend of all
pairs, the same whichever key is asked for, and can only try to keep all of them apart in it.

Axes: `I` updates, `B` texts, `P` pairs, `T` positions.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from kgpt_jax.config import ModelConfig, TrainConfig
from kgpt_jax.data.batches import Batch, split, stack
from kgpt_jax.data.vocab import PAD_ID
from kgpt_jax.model.gpt import GPT
from kgpt_jax.train.optimizer import learning_rates, make_optimizer
from kgpt_jax.train.step import init_state, make_train_steps, predicted, zero_sums

KEYS = 16  # and as many values: guessing is right once in 16
FIRST_PAIR = 2
FIRST_KEY = FIRST_PAIR + KEYS * KEYS
FIRST_VALUE = FIRST_KEY + KEYS
TEXTS = 1024  # that the accuracy is measured on, with 16 questions each


def recall_model(cfg: ModelConfig) -> ModelConfig:
    """Returns `cfg` in the task's size: one layer, 4 heads, 64 channels; its variant and blocks stay."""
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
    """Returns B texts of `2 * KEYS` symbols; targets stand at the keys asked for, the rest are PAD."""
    key_BP = rng.permuted(np.tile(np.arange(KEYS), (B, 1)), axis=1)
    asked_BP = rng.permuted(key_BP, axis=1)
    value_BK = rng.integers(0, KEYS, (B, KEYS))  # of each key
    pair_BP = FIRST_PAIR + key_BP * KEYS + np.take_along_axis(value_BK, key_BP, axis=1)
    answer_BP = FIRST_VALUE + np.take_along_axis(value_BK, asked_BP, axis=1)
    x_BT = np.concatenate([pair_BP, FIRST_KEY + asked_BP], axis=1).astype(np.int32)
    y_BT = np.concatenate([np.full_like(answer_BP, PAD_ID), answer_BP], axis=1).astype(np.int32)
    return Batch(x_BT, y_BT, np.full(B, KEYS, np.int32))


def recall(cfg: ModelConfig, updates: int = 2000, seed: int = 0) -> float:
    """Trains a model of `recall_model`'s size with AdamW on fresh texts and returns how well it recalls.

    That is the share of right answers about texts which it was not trained on.
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
        microbatches = stack([split(predicted(model.cfg, batch), 1)[0] for batch in texts])
        state, sums, _ = train_steps(dropout_key, state, sums, microbatches, lr_I, len(lr_I))
    x_BT, y_BT, source_B = recall_texts(np.random.default_rng((seed, 1)), TEXTS)
    logits_BTV = jax.jit(lambda params: model.apply({"params": params}, x_BT, source_B, train=False))(
        state.params
    )
    asked_BT = y_BT != PAD_ID
    correct_BT = (jnp.argmax(logits_BTV, axis=-1) == y_BT) & asked_BT
    return float(correct_BT.sum() / asked_BT.sum())
