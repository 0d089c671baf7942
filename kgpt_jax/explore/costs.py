"""What a variant costs: parameters, multiplications on paper, and XLA's own counts.

On paper a cost is a sum of products, such as `4 T C C + 2 T T C`. Letters: `T` positions of the text, `C`
channels, `H` heads, `L` layers (`L-1`, `L-2`: but for one or two), `V` vocabulary, `M` latents or
positions of a segment, but at most T, `W` positions of a block, `D` projected keys, `R` rank of random
scores, `F` length of the two factors of a synthesizer's row together. Only multiplications in sums of
products are counted, each with its addition as two FLOPs; softmax, norms and GELU are not, and masked
scores are.
"""

import math
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kgpt_jax.config import Config, ModelConfig, TrainConfig
from kgpt_jax.data.batches import Batch, split, stack
from kgpt_jax.data.vocab import MASK_ID
from kgpt_jax.model.gpt import GPT
from kgpt_jax.model.synthesizer import RANK, factors
from kgpt_jax.model.variants import lookup
from kgpt_jax.train.optimizer import make_optimizer
from kgpt_jax.train.step import init_state, make_train_steps, no_sums
from kgpt_jax.train.torch_params import abstract_params


def inspect(config: Config, variants: list[str], lengths: list[int]):
    """Prints parameters, formulas and costs of the variants in the config's size, on texts of `lengths`.

    XLA's counts are of one text: of a forward pass, and of an AdamW update.
    """
    models = [
        replace(config.model, variant=name, vocab_size=config.model.vocab_size or 256) for name in variants
    ]
    print(f"{'variant':<30}{'parameters':>11}  what attends")
    for cfg in models:
        print(f"{cfg.variant:<30}{parameters(cfg):>11,}  {formula(cfg)}")
    print(f"\n{'variant':<30}multiplications of a forward pass")
    for cfg in models:
        print(f"{cfg.variant:<30}{paper_cost(cfg)}")
    print(f"\n{'':<38}{'paper':>10}{'XLA forward':>20}{'XLA update':>20}  XLA / paper")
    heads = f"{'MFLOP':>10}{'MFLOP':>10}{'MB':>10}{'MFLOP':>10}{'MB':>10}"
    print(f"{'variant':<30}{'length':>8}{heads}  forward  update")
    for cfg in models:
        for T in lengths:
            longer = replace(cfg, seq_len=T, block_size=T)
            paper, forward, update = (
                paper_flops(longer, T),
                forward_counts(longer, T),
                update_counts(longer, T),
            )
            numbers = [paper, *forward, *update]
            columns = "".join(f"{number / 1e6:>10,.1f}" for number in numbers)
            ratios = f"{forward.flops / paper:>9.2f}{update.flops / paper:>8.2f}"
            print(f"{cfg.variant:<30}{T:>8,}{columns}{ratios}", flush=True)


class Counts(NamedTuple):
    """What XLA says that a compiled program does once."""

    flops: float
    bytes: float  # read and written, by operations after fusion


def parameters(cfg: ModelConfig) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(abstract_params(cfg)))


def formula(cfg: ModelConfig) -> str:
    """Returns the first sentence of the docstring of what attends."""
    stack = lookup(cfg).stack(cfg)
    described = getattr(stack, "attention", type(stack))
    return described.__doc__.splitlines()[0].split(" (arXiv")[0].rstrip(".")


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


def forward_counts(cfg: ModelConfig, T: int) -> Counts:
    """Compiles a forward pass over one text of T characters and returns XLA's counts."""
    x_BT = jax.ShapeDtypeStruct((1, T), jnp.int32)
    source_B = jax.ShapeDtypeStruct((1,), jnp.int32)
    forward = jax.jit(lambda params, *inputs: GPT(cfg).apply({"params": params}, *inputs, train=False))
    return _counts(forward.lower(abstract_params(cfg), x_BT, source_B))


def update_counts(cfg: ModelConfig, T: int, batch_size: int = 1) -> Counts:
    """Compiles an AdamW update on texts of T characters and returns XLA's counts."""
    model, tx, key = GPT(cfg), make_optimizer(TrainConfig()), jax.random.key(0)
    state = jax.eval_shape(lambda key: init_state(model, tx, key), key)
    sums = jax.eval_shape(no_sums, state)
    x_BT = np.full((batch_size, T), MASK_ID, np.int32)
    piece = stack(split(Batch(x_BT, x_BT, np.ones(batch_size, np.int32)), 1))
    lr_J, n = np.zeros(1, np.float32), np.int32(1)
    return _counts(make_train_steps(model, tx, key).lower(state, sums, piece, lr_J, n))


def _counts(lowered) -> Counts:
    analysis = lowered.compile().cost_analysis()
    return Counts(analysis["flops"], analysis["bytes accessed"])
