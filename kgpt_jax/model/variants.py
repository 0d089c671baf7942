"""The list of all variants. A variant is a stack of layers between the embeddings and the head.

A stack is a module `(x_BTC, pos_BT, source_B, *, train) -> y_BTC`:

- `x_BTC`: the embedded characters;
- `pos_BT`: the position of each input in its text, or `pos_1T` if all rows have the same positions;
- `source_B`: how many characters at the start of each text are given; the model predicts the others;
- `y_BTC`: the channels that the head reads.

Position t never sees a later position, unless both are in a source that the stack reads as a whole. No other
file depends on which variant runs.

Axes: `B` batch, `T` query position, `C` channels, `1` size one.
"""

import dataclasses
from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import flax.linen as nn

from kgpt_jax.config import ModelConfig, UserError, read_options, write_options
from kgpt_jax.model.attention import CausalAttention
from kgpt_jax.model.bigbird import BigBirdAttention
from kgpt_jax.model.blocks import Stack
from kgpt_jax.model.encoder_decoder import EncoderDecoder
from kgpt_jax.model.linformer import LinformerAttention
from kgpt_jax.model.options import Option
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
    """A stack, and the properties of it that other files use.

    Attributes:
      stack: makes the stack from a `ModelConfig`.
      learned_positions: whether the embeddings have a learned vector for each position. If not, the stack
        itself encodes positions.
      whole_source: whether the stack reads the source in both directions. The model then predicts only the
        characters after the source.
      compares: whether attention weights compare positions. If not, the weights of a query are computed from
        its own input alone, or are parameters.
    """

    stack: Callable[..., nn.Module]
    learned_positions: bool = True
    whole_source: bool = False
    compares: bool = True


def attends(attention: Callable[..., nn.Module], **differences) -> Variant:
    """Returns the variant with this attention layer in ordinary Transformer blocks."""
    return Variant(partial(Stack, attention=attention), **differences)


VARIANTS = {
    "vanilla": attends(CausalAttention),
    "rope": attends(RotaryAttention, learned_positions=False),
    "perceiver": Variant(Perceiver),
    "perceiver_ar": Variant(PerceiverAR),
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
    """Returns the variant that `cfg.variant` names.

    Raises:
      UserError: there is no such variant (the message lists all variants), or `cfg.options` has an unknown
        option or a value out of range (the message lists the variant's options).
    """
    known, given = options_of(cfg), read_options(cfg.options)
    listed = ", ".join(map(str, known.values())) or "none"
    if unknown := [name for name in given if name not in known]:
        raise UserError(f"variant {cfg.variant!r} has no option {unknown[0]!r}; its options: {listed}")
    for option in known.values():
        try:
            option.check(cfg)
        except UserError as error:
            raise UserError(f"{error}; options of variant {cfg.variant!r}: {listed}") from None
    return VARIANTS[cfg.variant]


def described(cfg: ModelConfig) -> type[nn.Module]:
    """Returns the class whose docstring and attributes describe a variant: its attention or its stack.

    Raises:
      UserError: there is no such variant. The message lists all variants.
    """
    if cfg.variant not in VARIANTS:
        raise UserError(f"unknown variant {cfg.variant!r}; choose from {', '.join(VARIANTS)}")
    stack = VARIANTS[cfg.variant].stack(cfg)
    return getattr(stack, "attention", type(stack))


def options_of(cfg: ModelConfig) -> dict[str, Option]:
    """Returns the options that the variant's class declares, by name."""
    return {option.name: option for option in getattr(described(cfg), "options", ())}


def draws_patterns(cfg: ModelConfig) -> bool:
    """Returns whether the variant has patterns that are drawn and never trained."""
    return getattr(described(cfg), "patterned", False)


def without_defaults(cfg: ModelConfig) -> ModelConfig:
    """Returns `cfg` without the options that equal their defaults, so that equal models have equal configs.

    Raises:
      UserError: `lookup` refuses the config.
    """
    lookup(cfg)
    known = options_of(cfg)
    kept = {name: value for name, value in read_options(cfg.options).items() if value != known[name].default}
    return dataclasses.replace(cfg, options=write_options(kept))


def each(cfg: ModelConfig, names: Iterable[str]) -> list[ModelConfig]:
    """Returns the configs of several variants. Each variant takes the options in `cfg.options` that it has.

    Raises:
      UserError: none of the variants has one of the options, or `lookup` refuses one of the configs.
    """
    given, used, configs = read_options(cfg.options), set(), []
    for name in names:
        one = dataclasses.replace(cfg, variant=name, options="")
        own = {option: value for option, value in given.items() if option in options_of(one)}
        configs.append(without_defaults(dataclasses.replace(one, options=write_options(own))))
        used |= own.keys()
    if unused := [option for option in given if option not in used]:
        raise UserError(f"none of the variants {', '.join(names)} has an option {unused[0]!r}: leave it out")
    return configs
