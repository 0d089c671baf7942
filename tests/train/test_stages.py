"""Finetuning starts from a run, and records where it comes from."""

import jax
import numpy as np

from kgpt_jax.config import override
from kgpt_jax.data.stage_data import Taught
from kgpt_jax.store.params import load_params
from kgpt_jax.train.stages import finetune
from tests import runs


def test_finetuning_starts_from_the_parameters_of_a_run_and_names_its_teachers(tmp_path):
    start = runs.saved(tmp_path / "start")
    start.facts["taught_by"] = ["the open-book reader", "a"]
    small = {"finetune.epochs": 1, "finetune.learning_rate": 1e-9, "finetune.weight_decay": 0.0}
    taught = Taught([], ["a", "b"], frozenset())
    trained = finetune(override(start.config, small), tmp_path / "next", start, taught=taught).run
    for a, b in zip(jax.tree.leaves(load_params(start)), jax.tree.leaves(load_params(trained))):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert trained.facts["taught_by"] == ["the open-book reader", "a", "b"]
