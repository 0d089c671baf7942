"""The one list of variants: what each puts between the embeddings and the head.

A stack is a module `(x_BTC, pos_BT, source_B, *, train) -> y_BTC`. `pos_BT` holds the inputs' positions in
their texts, `source_B` how many characters of each text are given rather than to be predicted. Position t
never sees a later one, unless both belong to a source that the stack reads as a whole. No other file asks
which variant runs.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn

from kgpt_jax.config import ModelConfig, UserError
from kgpt_jax.model.attention import CausalAttention
from kgpt_jax.model.bigbird import BigBirdAttention
from kgpt_jax.model.blocks import Stack
from kgpt_jax.model.encoder_decoder import EncoderDecoder
from kgpt_jax.model.linformer import LinformerAttention
from kgpt_jax.model.perceiver import Perceiver, PerceiverAR
from kgpt_jax.model.rope import RotaryAttention
from kgpt_jax.model.synthesizer import (
    FactorizedDenseAttention,
    FactorizedRandomAttention,
    FixedRandomAttention,
    MixtureAttention,
    RandomAttention,
    SynthesizerAttention,
)


class Variant(NamedTuple):
    """A stack, and what the rest of the program must know of it."""

    stack: Callable[..., nn.Module]
    learned_positions: bool = True  # False: the stack tells positions apart itself
    whole_source: bool = False  # True: the source is read as a whole, and only what follows is predicted
    bottleneck: bool = False  # True: it has `bottleneck_dim` latents
    compares: bool = True  # False: a row of attention weights follows from its own position alone


def attends(attention, **differences) -> Variant:
    return Variant(partial(Stack, attention=attention), **differences)


VARIANTS = {
    "vanilla": attends(CausalAttention),
    "rope": attends(RotaryAttention, learned_positions=False),
    "perceiver": Variant(Perceiver, bottleneck=True),
    "perceiver_ar": Variant(PerceiverAR, bottleneck=True),
    "synthesizer": attends(SynthesizerAttention, compares=False),
    "synthesizer_factorized": attends(FactorizedDenseAttention, compares=False),
    "synthesizer_random": attends(RandomAttention, compares=False),
    "synthesizer_random_fixed": attends(FixedRandomAttention, compares=False),
    "synthesizer_random_factorized": attends(FactorizedRandomAttention, compares=False),
    "synthesizer_mixture": attends(MixtureAttention),
    "linformer": attends(LinformerAttention),
    "bigbird": attends(BigBirdAttention),
    "encoder_decoder": Variant(EncoderDecoder, whole_source=True),
}


def lookup(cfg: ModelConfig) -> Variant:
    """Returns the variant that `cfg.variant` names, or raises a UserError that lists the names."""
    if cfg.variant not in VARIANTS:
        raise UserError(f"unknown variant {cfg.variant!r}; choose from {', '.join(VARIANTS)}")
    return VARIANTS[cfg.variant]
