"""Models small enough for a test, and what to call them with."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kgpt_jax.config import Config, ModelConfig, TrainConfig, write_options
from kgpt_jax.model.gpt import GPT, abstract_params
from kgpt_jax.model.variants import VARIANTS, options_of
from kgpt_jax.train.optimizer import make_optimizer
from kgpt_jax.train.step import init_state

# Marks tests that compare bits of two runs.
repeats_bits = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="a GPU may add in another order each time"
)

OPTIONS = {"attention_block": 4, "bottleneck_dim": 6, "linformer_dim": 3}
MODEL = ModelConfig(
    vocab_size=13,
    block_size=16,
    seq_len=15,
    n_layer=2,
    n_head=2,
    n_embd=8,
    dropout=0.0,
)


def few_layers(variant: str) -> int:
    """Returns the number of layers of a model that is quick to compile: the perceivers need two."""
    return 2 if variant.startswith("perceiver") else 1


def model_config(variant, **changes) -> ModelConfig:
    """Returns a tiny model's config, with options that let blocks and latents matter in 15 positions."""
    cfg = dataclasses.replace(MODEL, variant=variant, **changes)
    if "options" in changes or variant not in VARIANTS:
        return cfg
    small = {name: OPTIONS.get(name, min(option.default, 4)) for name, option in options_of(cfg).items()}
    return dataclasses.replace(cfg, options=write_options(small))


def config(variant="vanilla", **train) -> Config:
    """Returns a whole config around the tiny model; the vocabulary gives its size later."""
    stage = TrainConfig(**{"epochs": 2, "batch_size": 4, "warmup_tokens": 0, "save_every": 3} | train)
    model = model_config(variant, block_size=64, seq_len=63, dropout=0.1)
    return Config(model=model, pretrain=stage, finetune=stage, scratch=stage)


@cache
def state(config: Config, seed: int = 0):
    """Returns the state of a training after seven updates that changed nothing."""
    new = init_state(GPT(config.model), make_optimizer(config.pretrain), jax.random.key(seed))
    return new._replace(step=jnp.int32(7))


def make(variant, **changes):
    """Returns a tiny model, parameters that are random everywhere, and a batch of ids (3, 15)."""
    model, params, x_BT = _make(variant, **changes)
    return model, jax.tree.map(jnp.copy, params), x_BT.copy()  # training steps delete theirs


@cache
def _make(variant, **changes):
    cfg = model_config(variant, **changes)
    rng = np.random.default_rng(0)
    x_BT = rng.integers(2, cfg.vocab_size, (3, cfg.seq_len)).astype(np.int32)
    model = GPT(cfg)

    def random(path, leaf):
        middle = 1 if path[-1].key == "scale" else 0
        return jnp.asarray(middle + 0.3 * rng.standard_normal(leaf.shape), leaf.dtype)

    return model, jax.tree_util.tree_map_with_path(random, abstract_params(cfg)), x_BT


@partial(jax.jit, static_argnames="model")
def _logits(model, params, x_BT, source_B):
    return model.apply({"params": params}, x_BT, source_B, train=False)


def logits(model, params, x_BT, source_B=None):
    """Returns the logits; tests that read batches of one shape share one compiled program."""
    return _logits(model, params, x_BT, np.ones(len(x_BT), np.int32) if source_B is None else source_B)


def source_B(variant, length, rows=3):
    """Returns how many characters of each row are given: `length`, or 1 if the variant does not ask."""
    return np.full(rows, length if VARIANTS[variant].whole_source else 1, np.int32)
