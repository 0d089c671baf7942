"""What is in a run's folder, damaged or not, and folders that older versions wrote."""

import errno
import json
import os
import random

import pytest

from kgpt_jax.config import Config, UserError, from_dict, override, to_dict
from kgpt_jax.environment import SUPERVISED
from kgpt_jax.model.variants import lookup
from kgpt_jax.store.compatible import open_run
from kgpt_jax.store.digests import seal
from kgpt_jax.store.folder import locked, read_run, set_aside, with_current_names
from tests.torture.harms import harm


def test_a_run_reads_back_as_it_was(run):
    again = read_run(run.folder)
    assert again == run
    assert again.facts["made_on"].keys() >= {"jax", "processor", "threads", "devices"}


def test_a_folder_is_a_string_or_a_path(run):
    assert read_run(str(run.folder)) == run


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_a_run_of_an_older_version_that_could_average_parameters(run, decay):
    """ema_decay 0, the default then, averaged nothing."""
    old = to_dict(run.config)
    old["finetune"]["ema_decay"] = decay
    (run.folder / "config.json").write_text(json.dumps(old))
    seal(run.folder, ["run.json", "vocab.json", "config.json"])
    if decay:
        with pytest.raises(UserError, match="run has finetune.ema_decay 0.9, and this version does not aver"):
            read_run(run.folder)
    else:
        assert read_run(run.folder) == run


@pytest.mark.parametrize("name", ["config.json", "vocab.json", "run.json"])
def test_a_damaged_folder_is_named(run, name):
    (run.folder / name).write_text("{")
    with pytest.raises(UserError, match="run is damaged"):
        read_run(run.folder)


@pytest.mark.parametrize("name", ["config.json", "vocab.json", "run.json", "SHA256SUMS"])
def test_a_checkpoint_remembers_what_a_damaged_folder_said(saved, name, capsys):
    harm(saved.folder / name, "one bit flipped", random.Random(0))
    assert read_run(saved.folder) == saved
    assert "is damaged, " in capsys.readouterr().out
    open_run(saved.folder, saved.config, saved.vocab, saved.facts)  # training puts it right
    capsys.readouterr()
    assert read_run(saved.folder) == saved
    assert capsys.readouterr().out == ""


def test_checkpoints_that_cannot_be_listed_are_not_taken_for_none(saved, monkeypatch):
    manifest, scandir = (saved.folder / "run.json").read_text(), os.scandir

    def broken(path):
        if os.fspath(path).endswith("checkpoints"):
            raise OSError(errno.EIO, "Input/output error")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", broken)
    with pytest.raises(UserError, match="cannot list .*/checkpoints, which may have .*: Input/output error"):
        open_run(saved.folder, override(saved.config, {"seed": 1}), saved.vocab, saved.facts)
    assert (saved.folder / "run.json").read_text() == manifest


@pytest.mark.parametrize("name", ["config.json", "SHA256SUMS", "checkpoints"])
def test_files_that_no_run_wrote_are_left_alone(run, tmp_path, name):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / name).write_text("mine")
    with pytest.raises(UserError, match=f"mine/{name} exists and no run wrote it"):
        with locked(mine):
            raise AssertionError("held")
    assert [path.name for path in mine.iterdir()] == [name]
    (mine / name).unlink()
    (mine / "run.json").write_text("[]")
    with pytest.raises(UserError, match="run.json is no run's, or damaged: give another folder, or move it"):
        with locked(mine):
            raise AssertionError("held")


def test_a_second_training_in_one_folder_is_told_who_holds_it(run):
    with locked(run.folder):
        with pytest.raises(UserError, match=f"run is in use, by process {os.getpid()} on "):
            with locked(run.folder):
                raise AssertionError("held twice")
    with locked(run.folder):
        pass


def test_restarts_of_one_launch_set_the_old_run_aside_once(run, monkeypatch):
    monkeypatch.setenv(SUPERVISED, "first")
    set_aside(run.folder)
    assert not (run.folder / "config.json").exists()
    open_run(run.folder, run.config, run.vocab, run.facts)
    set_aside(run.folder)  # after a restart
    assert (run.folder / "config.json").exists()
    monkeypatch.setenv(SUPERVISED, "second")
    set_aside(run.folder)
    assert (run.folder / "set_aside" / "run_2" / "config.json").exists()


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
