import dataclasses

import pytest

from kgpt_jax.config import ModelConfig
from kgpt_jax.model.costs import formula, paper_cost, paper_flops
from kgpt_jax.model.variants import VARIANTS
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
    """XLA counts softmax, norms and GELU on top."""
    cfg = sized(variant, 96, bottleneck_dim=32)
    assert 1.0 < forward_counts(cfg, 96).flops / paper_flops(cfg, 96) < 1.2


@pytest.mark.parametrize("variant", ["vanilla", "synthesizer_random", "bigbird", "encoder_decoder"])
def test_xla_counts_an_update_as_three_forward_passes(variant):
    """The backward pass is two, less those gradients of inputs that nobody needs; AdamW comes on top."""
    cfg = sized(variant, 96)
    assert 2.8 < update_counts(cfg, 96).flops / paper_flops(cfg, 96) < 3.6


def per_position(variant, T):
    cfg = sized(variant, T, n_layer=1, n_embd=32, n_head=2)
    counts = forward_counts(cfg, T)
    return counts.flops / T, counts.bytes / T


@pytest.mark.parametrize("variant", ["linformer", "bigbird"])
def test_cost_grows_with_the_length(variant):
    """Not with its square: from 128 to 4,096 positions the cost of one stays as it is."""
    flops, size = per_position(variant, 128)
    for T in (512, 1024, 4096):
        longer_flops, longer_size = per_position(variant, T)
        assert longer_flops == pytest.approx(flops, rel=0.03)
        assert longer_size < 1.1 * size


def test_vanillas_cost_grows_with_the_square():
    assert per_position("vanilla", 4096)[0] > 8 * per_position("vanilla", 128)[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_has_a_formula(variant):
    described = formula(dataclasses.replace(SMALL, variant=variant))
    assert described.startswith("softmax(") and "\n" not in described
