"""The cost of a variant by formula: the multiplications of a forward pass and of training.

A cost is a sum of products, such as `4 T C C + 2 T T C`. A class states the cost of its layers in its
attribute `cost`, with these letters:

    T  positions of the text        L        layers
    C  channels                     L-1 L-2  layers without one, without two
    H  heads                        V        characters of the vocabulary

A class may use more letters: the `letter` of each of its `options`, and those that its static method
`letters(cfg)` returns.

A multiplication and its addition count as two FLOPs. The counts include scores that the mask hides, and leave
out softmax, norms and GELU.
"""

import math
from collections.abc import Mapping
from typing import Any

from kgpt_jax.config import ModelConfig
from kgpt_jax.model.variants import described, lookup, options_of


def paper_cost(cfg: ModelConfig) -> str:
    """Returns the multiplications of a forward pass over one text, in letters."""
    return f"{lookup(cfg).stack(cfg).cost} + T C V"


def paper_flops(cfg: ModelConfig, T: int) -> int:
    """Returns the FLOPs of a forward pass over one text of T characters."""
    letters = {
        "T": T,
        "C": cfg.n_embd,
        "H": cfg.n_head,
        "L": cfg.n_layer,
        "L-1": cfg.n_layer - 1,
        "L-2": cfg.n_layer - 2,
        "V": cfg.vocab_size,
    }
    for option in options_of(cfg).values():
        value = option.of(cfg)
        letters[option.letter] = min(value, T) if option.within == "seq_len" else value
    letters |= getattr(described(cfg), "letters", lambda cfg: {})(cfg)
    return 2 * multiplications(cfg, letters)


def multiplications(cfg: ModelConfig, letters: Mapping[str, Any]) -> Any:
    """Returns the multiplications of a forward pass for any values of the letters.

    Args:
      cfg: decides the variant alone.
      letters: a number for each letter, or an array of numbers.
    """

    def value_of(factor: str) -> Any:
        return int(factor) if factor.isdecimal() else letters[factor]

    return sum(math.prod(map(value_of, term.split())) for term in paper_cost(cfg).split(" + "))


def training_flops(cfg: ModelConfig, tokens: int, n_texts: int) -> float:
    """Returns the FLOPs of training once on `n_texts` texts of `tokens` characters in all.

    All texts count as texts of mean length. The backward pass takes twice the FLOPs of the forward pass
    (arXiv 2001.08361).
    """
    T = -(-tokens // n_texts)
    return 3 * paper_flops(cfg, T) / T * tokens


def formula(cfg: ModelConfig) -> str:
    """Returns a variant's formula: the first line of its class's docstring, without the reference."""
    return described(cfg).__doc__.splitlines()[0].split(" (arXiv")[0].rstrip(".")
