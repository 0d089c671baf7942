"""Which runs a command may go on with, and what it takes from them."""

import json

import jax
import pytest

from kgpt_jax.config import UserError, override, to_dict
from kgpt_jax.data.vocab import Vocab
from kgpt_jax.store.checkpoint import Checkpoints
from kgpt_jax.store.compatible import fit_to, open_run, with_vocab
from kgpt_jax.store.digests import seal
from kgpt_jax.store.folder import read_run
from tests import tiny


def test_the_same_run_opens_and_another_does_not(saved):
    assert open_run(saved.folder, saved.config, saved.vocab, saved.facts) == saved
    other = override(saved.config, {"seed": 1})
    with pytest.raises(UserError, match="seed 0, and 1 is asked for"):
        open_run(saved.folder, other, saved.vocab, saved.facts)
    with pytest.raises(UserError, match="data_digest 'd', and 'e' is asked for"):
        open_run(saved.folder, saved.config, saved.vocab, saved.facts | {"data_digest": "e"})
    with pytest.raises(UserError, match="start_digest None, and 's' is asked for"):
        open_run(saved.folder, saved.config, saved.vocab, saved.facts | {"start_digest": "s"})
    with pytest.raises(UserError, match="the vocabulary '□⁇abcdefgh', and '□⁇xyz'"):
        open_run(saved.folder, saved.config, Vocab.of("xyz"), saved.facts)
    finetune_only = override(saved.config, {"finetune.epochs": 99, "pretrain.save_every": 1})
    open_run(saved.folder, finetune_only, saved.vocab, saved.facts)


def test_an_imported_run_is_not_overwritten(run):
    with Checkpoints(run) as checkpoints:
        checkpoints.save_params(tiny.state(run.config).params)
    with pytest.raises(UserError, match="holds a run with data_digest 'd', and 'other' is asked for"):
        open_run(run.folder, run.config, run.vocab, run.facts | {"data_digest": "other"})
    with pytest.raises(UserError, match="holds a run with shards None, and 8 is asked for"):
        open_run(run.folder, run.config, run.vocab, run.facts | {"shards": 8})


def test_a_folder_without_a_checkpoint_is_made_anew(run):
    other = override(run.config, {"seed": 1})
    assert read_run(open_run(run.folder, other, run.vocab, run.facts).folder).config.seed == 1


def test_a_folder_that_cannot_be_made_is_named(run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot make the folder .*file: File exists"):
        open_run(tmp_path / "file", run.config, run.vocab, run.facts)


def test_another_machine_is_named(saved, capsys):
    facts = saved.facts | {"made_on": saved.facts["made_on"] | {"jax": "0.1"}}
    files = {path.name: path for path in saved.folder.glob("*.json")}
    files["run.json"].write_text(json.dumps(facts))
    seal(saved.folder, ["run.json", "vocab.json", "config.json"])
    open_run(saved.folder, saved.config, saved.vocab, saved.facts)
    assert f"was begun with jax 0.1 and goes on with {jax.__version__}" in capsys.readouterr().out


def test_a_run_from_before_there_was_a_pattern_seed_goes_on_with_0(saved):
    """A command gives its seed to a new run's pattern, and the folder says what an old run's was."""
    old = to_dict(override(saved.config, {"seed": 3}))
    del old["model"]["pattern_seed"]
    (saved.folder / "config.json").write_text(json.dumps(old))
    seal(saved.folder, ["run.json", "vocab.json", "config.json"])
    today = override(saved.config, {"seed": 3, "model.pattern_seed": 3})
    again = open_run(saved.folder, today, saved.vocab, saved.facts)
    assert again.config.model.pattern_seed == read_run(saved.folder).config.model.pattern_seed == 0


@pytest.mark.parametrize(
    "variant, seed", [("bigbird", 3), ("synthesizer_random_fixed", 3), ("vanilla", 0), ("perceiver", 0)]
)
def test_only_variants_with_patterns_have_a_seed_for_them(tmp_path, variant, seed):
    """Older versions saved one with every variant."""
    vocab = Vocab.of("abcdefgh")
    config = with_vocab(tiny.config(variant), vocab, 3)
    assert config.model.pattern_seed == seed
    old = open_run(tmp_path, override(config, {"model.pattern_seed": 3}), vocab, {"stage": "pretrain"})
    assert fit_to(old, tiny.config(variant)).model.pattern_seed == seed
