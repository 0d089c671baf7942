"""The diff in CONTRIBUTING.md adds a variant, which passes the tests of every variant."""

import importlib.util
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from kgpt_jax.config import ModelConfig, UserError
from kgpt_jax.devices import shardings
from kgpt_jax.model import variants
from kgpt_jax.model.gpt import abstract_params, count_params
from tests import tiny
from tests.model import test_variants as contract
from tests.modes import test_costs

CONTRIBUTING = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text("utf-8")


def patched(text: str, diff: str) -> str:
    """Applies a diff to a text: inserts each added line after the line that precedes it in the diff."""
    lines, behind = text.splitlines(), None
    for line in diff.splitlines():
        if line.startswith("+"):
            lines.insert(behind + 1, line[1:])
            behind += 1
        elif line != " ...":
            behind = lines.index(line[1:])
    return "\n".join(lines)


def load(name: str, path: Path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def average(tmp_path_factory):
    """Applies the diff: a new file, and `variants.py` with two more lines."""
    folder = tmp_path_factory.mktemp("model")
    new = re.search(r"`kgpt_jax/model/(\w+\.py)`, new:\n\n```python\n(.*?)```", CONTRIBUTING, re.DOTALL)
    diff = re.search(r"```diff\n(.*?)```", CONTRIBUTING, re.DOTALL)[1]
    (folder / new[1]).write_text(new[2])
    (folder / "variants.py").write_text(patched(Path(variants.__file__).read_text("utf-8"), diff))
    with pytest.MonkeyPatch.context() as patch:
        name = f"kgpt_jax.model.{new[1].removesuffix('.py')}"
        patch.delitem(sys.modules, name, raising=False)
        load(name, folder / new[1])
        listed = load("listed_variants", folder / "variants.py").VARIANTS
        assert listed.keys() - variants.VARIANTS.keys() == {"average"}
        patch.setitem(variants.VARIANTS, "average", listed["average"])
        yield "average"


def test_it_keeps_what_every_variant_must(average):
    contract.test_shape_is_kept(average, 7)
    contract.test_logits_ignore_every_later_character(average, 15)
    contract.test_no_gradient_comes_from_a_later_position(average)
    contract.test_padding_to_the_right_changes_nothing(average, 8)
    contract.test_every_parameter_gets_a_finite_gradient(average)
    contract.test_cached_logits_equal_uncached(average)
    contract.test_whose_weights_follow_from_their_own_position_alone(average)


def test_its_size_and_cost_are_as_said(average):
    assert f'"average": {count_params(ModelConfig(variant=average, vocab_size=256)):_}' in CONTRIBUTING
    test_costs.test_xla_counts_a_forward_pass_as_paper_does(average)
    test_costs.test_every_variant_has_a_formula(average)


def test_its_option_is_read_checked_and_at_its_default_no_option(average):
    model, params, x_BT = tiny.make(average)
    assert model.cfg.options == "window=4"
    seen_TS = contract.gradients(average).any(axis=-1)
    expected_TS = np.tril(np.ones((15, 15), bool)) & ~np.tril(np.ones((15, 15), bool), -7)
    np.testing.assert_array_equal(seen_TS, expected_TS)  # two layers of four positions reach six back
    assert variants.without_defaults(ModelConfig(variant=average, options="window=16")).options == ""
    with pytest.raises(UserError, match=r"window is 0: give 1 to 1,000,000; .*'average': window \(positions"):
        variants.lookup(ModelConfig(variant=average, options="window=0"))
    with pytest.raises(UserError, match="variant 'average' has no option 'windows'; its options: window "):
        variants.lookup(ModelConfig(variant=average, options="windows=3"))


def test_its_linear_layers_are_split_over_devices(average):
    params = abstract_params(tiny.model_config(average))
    places = shardings(params, AbstractMesh((1, 2), ("data", "model")))
    attention = jax.tree.map(lambda place: tuple(place.spec), places["stack"]["blocks_0"]["attn"])
    assert attention == {
        "value": {"kernel": (None, "model"), "bias": ("model",)},
        "readout": {"proj": {"kernel": ("model", None), "bias": (None,)}},
    }
