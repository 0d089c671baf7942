"""What a variant costs: parameters, multiplications on paper, and XLA's own counts.

On paper a cost is a sum of products, such as `4 T C C + 2 T T C`. Letters: `T` positions of the text, `C`
channels, `H` heads, `L` layers (`L-1`, `L-2`: but for one or two), `V` vocabulary, `M` latents or
positions of a segment, but at most T, `W` positions of a block, `D` projected keys, `R` rank of random
scores, `F` length of the two factors of a synthesizer's row together. Only multiplications in sums of
products are counted, each with its addition as two FLOPs; softmax, norms and GELU are not, and masked
scores are.
"""

import math

import jax

from kgpt_jax.config import ModelConfig
from kgpt_jax.model.gpt import abstract_params
from kgpt_jax.model.synthesizer import RANK, factors
from kgpt_jax.model.variants import lookup


def paper_cost(cfg: ModelConfig) -> str:
    """Returns the multiplications of a forward pass over one text, in letters."""
    return f"{lookup(cfg).stack(cfg).cost} + T C V"


def paper_flops(cfg: ModelConfig, T: int) -> int:
    """Returns the FLOPs of a forward pass over one text of T characters, on paper."""
    letters = {
        "T": T,
        "C": cfg.n_embd,
        "H": cfg.n_head,
        "L": cfg.n_layer,
        "L-1": cfg.n_layer - 1,
        "L-2": cfg.n_layer - 2,
        "V": cfg.vocab_size,
        "M": min(cfg.bottleneck_dim, T),
        "W": cfg.attention_block,
        "D": cfg.linformer_dim,
        "R": RANK,
        "F": sum(factors(cfg.seq_len)),
    }

    def value(factor: str) -> int:
        return int(factor) if factor.isdecimal() else letters[factor]

    return 2 * sum(math.prod(map(value, term.split())) for term in paper_cost(cfg).split(" + "))


def training_flops(cfg: ModelConfig, tokens: int, n_texts: int) -> float:
    """Returns the FLOPs of training on so many texts of so many tokens together, on paper.

    All texts count as of mean length. The gradient takes twice what the forward pass does (arXiv 2001.08361).
    """
    T = -(-tokens // n_texts)
    return 3 * paper_flops(cfg, T) / T * tokens


def formula(cfg: ModelConfig) -> str:
    """Returns the first sentence of the docstring of what attends."""
    stack = lookup(cfg).stack(cfg)
    described = getattr(stack, "attention", type(stack))
    return described.__doc__.splitlines()[0].split(" (arXiv")[0].rstrip(".")


def parameters(cfg: ModelConfig) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(abstract_params(cfg)))
