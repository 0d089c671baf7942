"""Folders that older versions wrote."""

import pytest

from kgpt_jax.config import Config, from_dict, override, to_dict
from kgpt_jax.model.variants import lookup
from kgpt_jax.store.folder import with_current_names


@pytest.mark.parametrize(
    "variant, then, options",
    [
        ("vanilla", {"bottleneck_dim": 32, "attention_block": 4, "linformer_dim": 8}, ""),
        ("perceiver", {"bottleneck_dim": 64, "attention_block": 4, "linformer_dim": 8}, ""),
        (
            "perceiver_ar",
            {"bottleneck_dim": 32, "attention_block": 4, "linformer_dim": 8},
            "bottleneck_dim=32",
        ),
        ("bigbird", {"bottleneck_dim": 32, "attention_block": 4, "linformer_dim": 8}, "attention_block=4"),
        ("linformer", {"bottleneck_dim": 64, "attention_block": 16, "linformer_dim": 8}, "linformer_dim=8"),
    ],
)
def test_fields_of_the_model_become_the_variants_options(variant, then, options):
    """Without those at their defaults, and without those that the variant never read."""
    tree = to_dict(override(Config(), {"model.variant": variant}))
    del tree["model"]["options"]
    tree["model"] |= then
    tree["data"]["stripes"] = tree["data"].pop("shards")
    tree["pretrain"]["steps_per_dispatch"] = tree["pretrain"].pop("microbatches_per_dispatch")
    model = from_dict(with_current_names(tree)).model
    assert model.options == options and lookup(model)
    assert (
        with_current_names(to_dict(override(Config(), {"model.options": "b=2"})))["model"]["options"] == "b=2"
    )
