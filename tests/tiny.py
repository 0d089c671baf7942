"""Models small enough for a test, and what to call them with."""

import dataclasses

import jax
import numpy as np

from kgpt_jax.config import Config, ModelConfig, TrainConfig
from kgpt_jax.model.gpt import GPT

MODEL = ModelConfig(vocab_size=13, block_size=16, seq_len=15, n_layer=2, n_head=2, n_embd=8, dropout=0.0)


def config(variant="vanilla", **train) -> Config:
    """A whole config around the tiny model, its size given by the vocabulary later."""
    stage = TrainConfig(**{"epochs": 2, "batch_size": 4, "warmup_tokens": 0, "save_every": 3} | train)
    model = dataclasses.replace(MODEL, variant=variant, block_size=64, seq_len=63, dropout=0.1)
    return Config(model=model, pretrain=stage, finetune=stage, scratch=stage)


def make(variant, **changes):
    """Returns a tiny model, parameters that are random everywhere, and a batch of ids (3, 15)."""
    cfg = dataclasses.replace(MODEL, variant=variant, **changes)
    rng = np.random.default_rng(0)
    x_BT = rng.integers(2, cfg.vocab_size, (3, cfg.seq_len)).astype(np.int32)
    model = GPT(cfg)
    params = model.init(jax.random.key(0), x_BT, train=False)["params"]
    params = jax.tree.map(lambda p: p + 0.3 * rng.standard_normal(p.shape).astype(p.dtype), params)
    return model, params, x_BT
