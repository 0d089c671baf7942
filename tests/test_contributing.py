"""The example in CONTRIBUTING.md is a variant."""

import re
from functools import partial
from pathlib import Path

import jax
import numpy as np

from kgpt_jax.config import ModelConfig
from kgpt_jax.model import variants
from kgpt_jax.model.costs import paper_cost
from kgpt_jax.model.gpt import GPT, abstract_params
from tests import tiny

CONTRIBUTING = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text("utf-8")


def test_the_example_runs_as_a_variant(monkeypatch):
    names = {}
    exec(re.search(r"```python\n(.*?)```", CONTRIBUTING, re.DOTALL)[1], names)
    line = re.search(r'"average": (attends\(.*\)),', CONTRIBUTING)[1]
    entry = eval(line, {"attends": variants.attends, **names})
    monkeypatch.setitem(variants.VARIANTS, "average", entry)
    size = sum(
        leaf.size for leaf in jax.tree.leaves(abstract_params(ModelConfig(variant="average", vocab_size=256)))
    )
    assert f'"average": {size:_},' in CONTRIBUTING
    model, params, x_BT = tiny.make("average")
    assert paper_cost(model.cfg) == "L 2 T C C + L T T C + L 8 T C C + T C V"
    read = jax.jit(partial(GPT(model.cfg).apply, {"params": params}, train=False))
    later_BT = x_BT.copy()
    later_BT[:, 9:] = 3
    np.testing.assert_array_equal(read(x_BT)[:, :9], read(later_BT)[:, :9])
