"""The one list of variants: a name -> a stack `(x_BTC, *, train) -> y_BTC` that never looks ahead.

A variant with other blocks gives a module of its own here. No other file asks which variant runs.
"""

from functools import partial

import flax.linen as nn

from kgpt_jax.config import ModelConfig, UserError
from kgpt_jax.model.attention import CausalAttention
from kgpt_jax.model.blocks import Stack
from kgpt_jax.model.synthesizer import SynthesizerAttention

VARIANTS = {
    "vanilla": partial(Stack, attention=CausalAttention),
    "synthesizer": partial(Stack, attention=SynthesizerAttention),
}


def make_stack(cfg: ModelConfig, name: str) -> nn.Module:
    """Returns the stack that `cfg.variant` names, or raises a UserError that lists the names."""
    if cfg.variant not in VARIANTS:
        raise UserError(f"unknown variant {cfg.variant!r}; choose from {', '.join(VARIANTS)}")
    return VARIANTS[cfg.variant](cfg, name=name)
