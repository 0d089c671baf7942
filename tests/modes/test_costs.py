import dataclasses

import pytest

from kgpt_jax.config import ModelConfig, write_options
from kgpt_jax.model.costs import formula, paper_cost, paper_flops
from kgpt_jax.model.variants import VARIANTS, options_of
from kgpt_jax.train.costs import forward_counts, update_counts

SMALL = ModelConfig(vocab_size=64, block_size=96, seq_len=96, n_layer=2, n_embd=128, dropout=0.0)


def sized(variant, T, **changes):
    return dataclasses.replace(SMALL, variant=variant, seq_len=T, block_size=T, **changes)


def test_paper_flops_by_hand():
    cfg = ModelConfig(vocab_size=10, seq_len=4, block_size=4, n_layer=3, n_head=2, n_embd=8)
    assert paper_cost(cfg) == "L 4 T C C + L 2 T T C + L 8 T C C + T C V"
    attention, mlp, head = 4 * 4 * 8 * 8 + 2 * 4 * 4 * 8, 8 * 4 * 8 * 8, 4 * 8 * 10
    assert paper_flops(cfg, 4) == 2 * (3 * (attention + mlp) + head)


@pytest.mark.parametrize("variant", VARIANTS)
def test_xla_counts_a_forward_pass_as_paper_does(variant):
    """XLA also counts softmax, norms and GELU. The number of latents divides the text, to avoid padding."""
    cfg = sized(variant, 96)
    latents = {option.name: 32 for option in options_of(cfg).values() if option.within == "seq_len"}
    cfg = dataclasses.replace(cfg, options=write_options(latents))
    assert 1.0 < forward_counts(cfg, 96).flops / paper_flops(cfg, 96) < 1.2


@pytest.mark.parametrize("variant", ["vanilla", "bigbird"])
def test_xla_counts_an_update_as_three_forward_passes(variant):
    """The backward pass costs two, less the gradients of inputs that are not needed. AdamW is added."""
    cfg = sized(variant, 96)
    assert 2.8 < update_counts(cfg, 96).flops / paper_flops(cfg, 96) < 3.6


def per_position(variant, T):
    cfg = sized(variant, T, n_layer=1, n_embd=32, n_head=2)
    counts = forward_counts(cfg, T)
    return counts.flops / T, counts.bytes / T


@pytest.mark.parametrize("variant", ["linformer", "bigbird"])
def test_cost_grows_with_the_length(variant):
    """The cost is linear: from 128 to 4,096 positions, the cost per position stays the same."""
    flops, size = per_position(variant, 128)
    longer_flops, longer_size = per_position(variant, 4096)
    assert longer_flops == pytest.approx(flops, rel=0.03)
    assert longer_size < 1.1 * size


def test_vanillas_cost_grows_with_the_square():
    assert per_position("vanilla", 4096)[0] > 8 * per_position("vanilla", 128)[0]


def test_letters_come_from_the_options_of_the_class():
    """D = 3 and W = 5 replace 16 in `4 T D C + 2 T W C`. A text has no more latents than characters."""
    cfg = sized("linformer", 96)
    fewer = dataclasses.replace(cfg, options="linformer_dim=3,attention_block=5")
    T, C, L = 96, cfg.n_embd, cfg.n_layer
    less = L * (4 * T * 13 * C + 2 * T * 11 * C)
    assert paper_flops(cfg, T) - paper_flops(fewer, T) == 2 * less
    few, many = (dataclasses.replace(sized("perceiver", 96), options=f"bottleneck_dim={M}") for M in (50, 90))
    assert paper_flops(few, 40) == paper_flops(many, 40) and paper_flops(few, 60) < paper_flops(many, 60)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_has_a_formula(variant):
    described = formula(dataclasses.replace(SMALL, variant=variant))
    assert described.startswith("softmax(") and "\n" not in described
