import errno
import json
import logging
import os
import random
import resource
import shutil
import threading
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging as absl_logging

from kgpt_jax.config import UserError, override, to_dict
from kgpt_jax.data.vocab import Vocab
from kgpt_jax.environment import SUPERVISED
from kgpt_jax.model.gpt import GPT
from kgpt_jax.store import checkpoint
from kgpt_jax.store.checkpoint import Checkpoints
from kgpt_jax.store.compatible import fit_to, open_run, with_vocab
from kgpt_jax.store.digests import damage, seal
from kgpt_jax.store.folder import locked, read_run, set_aside
from kgpt_jax.store.params import load_params
from kgpt_jax.train.optimizer import make_optimizer
from kgpt_jax.train.step import init_state
from tests import tiny
from tests.torture.harms import HARMS, harm

VOCAB = Vocab.of("abcdefgh")


@pytest.fixture
def run(tmp_path):
    config = with_vocab(tiny.config(), VOCAB)
    return open_run(tmp_path / "run", config, VOCAB, {"stage": "pretrain", "data_digest": "d"})


def state_of(run, seed=0):
    return _state_of(run.config, seed)


@cache
def _state_of(config, seed):
    state = init_state(GPT(config.model), make_optimizer(config.pretrain), jax.random.key(seed))
    return state._replace(step=jnp.int32(7))


def equal(a, b):
    return all((np.asarray(x) == np.asarray(y)).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


def test_a_run_reads_back_as_it_was(run):
    again = read_run(run.folder)
    assert again == run
    assert again.facts["made_on"].keys() >= {"jax", "processor", "threads", "devices"}


def test_the_whole_state_comes_back(run):
    state = state_of(run)
    with Checkpoints(run) as checkpoints:
        checkpoints.save(state, seconds=12.5, loss=2.0)
        restored, seconds = checkpoints.restore(state_of(run, seed=1))
    assert seconds == 12.5 and int(restored.step) == 7
    assert equal(restored, state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert equal(load_params(run), state.params)


def test_a_checkpoint_tells_what_made_it(run):
    with Checkpoints(run) as checkpoints:
        checkpoints.save(state_of(run), seconds=1.0, loss=2.0)
        meta = checkpoints.manager.restore(7)["meta"]
    assert meta["vocab"] == {"characters": "□⁇abcdefgh"}
    assert meta["config"] == json.loads((run.folder / "config.json").read_text())


def test_a_reader_leaves_a_save_under_way_alone(run):
    under_way = run.folder / "checkpoints" / "9.orbax-checkpoint-tmp"
    with Checkpoints(run) as checkpoints:
        checkpoints.save(state_of(run), seconds=1.0, loss=2.0)
    under_way.mkdir()
    load_params(run)
    assert under_way.exists()
    with Checkpoints(run):  # one that trains clears it away
        assert not under_way.exists()


def test_no_checkpoint_and_no_run_are_told_apart(run, tmp_path):
    with pytest.raises(UserError, match="has no checkpoint yet"):
        load_params(run)
    with pytest.raises(UserError, match="is not a run's folder: it has no config.json"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "model.params").touch()
    with pytest.raises(UserError, match="model.params is a file: --mode=import"):
        read_run(tmp_path / "model.params")


def test_an_unreadable_checkpoint_is_named(run):
    with Checkpoints(run) as checkpoints:
        checkpoints.save(state_of(run), seconds=1.0, loss=2.0)
    for file in (run.folder / "checkpoints" / "7" / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(
        UserError, match="has no valid checkpoint: bring its files back, or .* with --start_anew"
    ):
        load_params(run)


@pytest.mark.parametrize("how", HARMS)
def test_damage_to_any_file_of_a_checkpoint_is_noticed_and_the_one_before_is_used(run, tmp_path, capsys, how):
    before = state_of(run)
    with Checkpoints(run) as checkpoints:
        checkpoints.save(before, seconds=1.0, loss=2.0)
        checkpoints.save(state_of(run, seed=1)._replace(step=jnp.int32(8)), seconds=1.0, loss=1.0)
    pristine = tmp_path / "pristine"
    shutil.copytree(run.folder, pristine)
    newest = pristine / "checkpoints" / "8"
    files = [path.relative_to(pristine) for path in sorted(newest.rglob("*")) if path.is_file()]
    if how != "deleted":
        files = [name for name in files if (pristine / name).stat().st_size]  # else there is nothing to harm
    assert len(files) > 10
    rng = random.Random(0)
    for name in files:
        assert not damage(run.folder / "checkpoints" / "8")
        harm(run.folder / name, how, rng)
        assert damage(run.folder / "checkpoints" / "8"), name
        if name != files[-1]:
            (run.folder / name).unlink(missing_ok=True)
            shutil.copy2(pristine / name, run.folder / name)
    with Checkpoints(run, read_only=True) as checkpoints:
        assert checkpoints.step == 7
    assert "checkpoints/8 is skipped: " in capsys.readouterr().out
    assert equal(load_params(run), before.params)


def test_training_goes_on_from_the_newest_sound_checkpoint(run, capsys):
    with Checkpoints(run) as checkpoints:
        for step in (7, 8):
            state = state_of(run, seed=step)._replace(step=jnp.int32(step))
            checkpoints.save(state, seconds=1.0, loss=2.0)
    harm(run.folder / "checkpoints" / "8" / "params" / "_METADATA", "one bit flipped", random.Random(0))
    with Checkpoints(run) as checkpoints:
        assert checkpoints.step == 7
        assert not (run.folder / "checkpoints" / "8").exists()
        assert (run.folder / "set_aside" / "checkpoint_8_1" / "SHA256SUMS").exists()  # it may be valid
        again = state_of(run, seed=9)._replace(step=jnp.int32(8))
        checkpoints.save(again, seconds=1.0, loss=2.0)
    assert "checkpoints/8 is skipped: params/_METADATA has changed" in capsys.readouterr().out
    assert equal(load_params(run), again.params)


@pytest.mark.parametrize("starts", [1, 2, 6])
def test_the_newest_two_and_the_best_are_kept(run, starts):
    """However often training is started again in between."""
    losses = (3.0, 1.0, 2.0, 4.0, 5.0, np.nan)
    for part in np.split(np.arange(6), starts):
        with Checkpoints(run) as checkpoints:
            for i in part:
                state = state_of(run)._replace(step=jnp.int32(i + 1))
                checkpoints.save(state, seconds=1.0, loss=losses[i])
    assert {path.name for path in (run.folder / "checkpoints").iterdir()} == {"2", "5", "6"}


def test_checkpoints_of_older_versions_are_kept(run):
    """They record no metrics for Orbax: any of them may be the best."""
    with Checkpoints(run) as checkpoints:
        for step in (1, 2):
            checkpoints.save(state_of(run)._replace(step=jnp.int32(step)), seconds=1.0, loss=float(step))
    for step in (1, 2):
        shutil.rmtree(run.folder / "checkpoints" / str(step) / "metrics")
        seal(run.folder / "checkpoints" / str(step))
    with Checkpoints(run) as checkpoints:
        for step in (3, 4, 5):
            checkpoints.save(state_of(run)._replace(step=jnp.int32(step)), seconds=1.0, loss=float(step))
    assert {path.name for path in (run.folder / "checkpoints").iterdir()} == {"1", "2", "3", "4", "5"}
    with Checkpoints(read_run(run.folder, "best"), read_only=True) as checkpoints:
        assert checkpoints.step == 1


def test_orbax_is_silent_and_its_log_is_left_as_it_was(run, caplog):
    logger = logging.getLogger("absl")
    before, logger.level = logger.level, logging.DEBUG
    logger.addHandler(caplog.handler)
    try:
        with Checkpoints(run) as checkpoints:
            checkpoints.save(state_of(run), seconds=1.0, loss=2.0)
            checkpoints.restore(state_of(run))
        load_params(run)
        assert logger.level == logging.DEBUG and not caplog.records
    finally:
        logger.removeHandler(caplog.handler)
        logger.level = before


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


def test_what_may_be_sound_is_not_removed(run, monkeypatch, capsys):
    with Checkpoints(run) as checkpoints:
        for step in (7, 8):
            checkpoints.save(state_of(run)._replace(step=jnp.int32(step)), seconds=1.0, loss=2.0)
    look = checkpoint.damage

    def unreadable(folder):
        if folder.name == "8":
            raise OSError(errno.EIO, "Input/output error")
        return look(folder)

    monkeypatch.setattr(checkpoint, "damage", unreadable)
    with pytest.raises(
        UserError, match=r"checkpoints/8 cannot be read \(Input/output error\), and may be valid"
    ):
        Checkpoints(run)
    with Checkpoints(run, read_only=True) as checkpoints:
        assert checkpoints.step == 7
    assert "checkpoints/8 is skipped: it cannot be read: Input/output error" in capsys.readouterr().out
    assert (run.folder / "checkpoints" / "8" / "SHA256SUMS").exists()


def test_training_stops_where_no_checkpoint_is_valid(run):
    with Checkpoints(run) as checkpoints:
        checkpoints.save(state_of(run), seconds=1.0, loss=2.0)
    (run.folder / "metrics.jsonl").write_text("kept\n")
    (run.folder / "checkpoints" / "7" / "SHA256SUMS").unlink()  # as in a copy that was broken off
    with pytest.raises(UserError, match=r"no checkpoint of .*run is valid: .*7: SHA256SUMS is missing"):
        Checkpoints(run)
    assert (run.folder / "checkpoints" / "7" / "params").exists()
    with locked(run.folder):
        set_aside(run.folder)  # --start_anew
    assert [path.name for path in run.folder.iterdir() if path.name != ".lock"] == ["set_aside"]
    aside = run.folder / "set_aside" / "run_1"
    assert (aside / "checkpoints" / "7" / "params").exists()
    assert (aside / "metrics.jsonl").read_text() == "kept\n"
    with Checkpoints(run) as checkpoints:
        assert checkpoints.step is None


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


def test_a_save_of_ours_that_was_broken_off_is_removed(run):
    """After a kill between the files of a checkpoint and their digests, training resumes."""
    with Checkpoints(run) as checkpoints:
        checkpoints.save(state_of(run), seconds=1.0, loss=2.0)
    assert not (run.folder / ".saving").exists()
    (run.folder / "checkpoints" / "7" / "SHA256SUMS").unlink()
    (run.folder / ".saving").write_text("7")
    with Checkpoints(run) as checkpoints:
        assert checkpoints.step is None and not any((run.folder / "checkpoints").iterdir())
    assert not (run.folder / "set_aside").exists()


def test_a_reader_chooses_the_checkpoint(run):
    states = {step: state_of(run, seed=step)._replace(step=jnp.int32(step)) for step in (5, 6, 7)}
    with Checkpoints(run) as checkpoints:
        for step, loss in ((5, 1.0), (6, 3.0), (7, 2.0)):
            checkpoints.save(states[step], seconds=1.0, loss=loss)
    for which, step in (("newest", 7), ("best", 5), ("6", 6)):
        assert equal(load_params(read_run(run.folder, which)), states[step].params)
    with pytest.raises(UserError, match="has no valid checkpoint 8: its checkpoints are 5, 6, 7"):
        load_params(read_run(run.folder, "8"))
    with pytest.raises(UserError, match="checkpoint 'oldest': give newest, best or an update's number"):
        read_run(run.folder, "oldest")


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


def test_a_folder_is_a_string_or_a_path(run):
    assert read_run(str(run.folder)) == run


def test_an_imported_run_is_not_overwritten(run):
    with Checkpoints(run) as checkpoints:
        checkpoints.save_params(state_of(run).params)
    with pytest.raises(UserError, match="holds a run with data_digest 'd', and 'other' is asked for"):
        open_run(run.folder, run.config, run.vocab, run.facts | {"data_digest": "other"})
    with pytest.raises(UserError, match="holds a run with shards None, and 8 is asked for"):
        open_run(run.folder, run.config, run.vocab, run.facts | {"shards": 8})


def test_what_cannot_be_saved_leaves_nothing_behind(run, monkeypatch):
    state = state_of(run)
    with Checkpoints(run) as checkpoints:
        checkpoints.save(state, seconds=1.0, loss=2.0)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # no file can be longer
        try:
            with pytest.raises(UserError, match="cannot save update 8 .* last good checkpoint is .*/7; make"):
                checkpoints.save(state._replace(step=jnp.int32(8)), seconds=1.0, loss=2.0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name for path in (run.folder / "checkpoints").iterdir()} == {"7"}
    assert equal(load_params(run), state.params)


def test_threads_that_fail_after_the_save_has_failed_log_nothing(run, monkeypatch, caplog):
    def save(*args, **kwargs):
        threading.Timer(0.1, absl_logging.error, ["a thread of Orbax failed, too"]).start()
        raise OSError(errno.ENOSPC, "No space left on device")

    with Checkpoints(run) as checkpoints:
        monkeypatch.setattr(checkpoints.manager, "save", save)
        with pytest.raises(UserError, match="cannot save update 7"):
            checkpoints.save(state_of(run), seconds=1.0, loss=2.0)
    absl_logging.error("after the save")
    assert caplog.messages == ["after the save"]


def test_a_thread_that_is_being_started_is_waited_for():
    done = []
    thread = threading.Thread(target=lambda: done.append(1))
    threading.Timer(0.05, thread.start).start()
    checkpoint.wait_for(thread)  # which cannot be joined yet
    assert done == [1]


@pytest.mark.parametrize("name", ["config.json", "vocab.json", "run.json"])
def test_a_damaged_folder_is_named(run, name):
    (run.folder / name).write_text("{")
    with pytest.raises(UserError, match="run is damaged"):
        read_run(run.folder)


@pytest.mark.parametrize("name", ["config.json", "vocab.json", "run.json", "SHA256SUMS"])
def test_a_checkpoint_remembers_what_a_damaged_folder_said(run, name, capsys):
    with Checkpoints(run) as checkpoints:
        checkpoints.save(state_of(run), seconds=1.0, loss=2.0)
    harm(run.folder / name, "one bit flipped", random.Random(0))
    assert read_run(run.folder) == run
    assert "is damaged, " in capsys.readouterr().out
    open_run(run.folder, run.config, run.vocab, run.facts)  # training puts it right
    capsys.readouterr()
    assert read_run(run.folder) == run
    assert capsys.readouterr().out == ""


def test_a_second_training_in_one_folder_is_told_who_holds_it(run):
    with locked(run.folder):
        with pytest.raises(UserError, match=f"run is in use, by process {os.getpid()} on "):
            with locked(run.folder):
                raise AssertionError("held twice")
    with locked(run.folder):
        pass


def test_another_machine_is_named(run, capsys):
    with Checkpoints(run) as checkpoints:
        checkpoints.save(state_of(run), seconds=1.0, loss=2.0)
    facts = run.facts | {"made_on": run.facts["made_on"] | {"jax": "0.1"}}
    files = {path.name: path for path in run.folder.glob("*.json")}
    files["run.json"].write_text(json.dumps(facts))
    seal(run.folder, ["run.json", "vocab.json", "config.json"])
    open_run(run.folder, run.config, run.vocab, run.facts)
    assert f"was begun with jax 0.1 and goes on with {jax.__version__}" in capsys.readouterr().out


def test_a_run_from_before_there_was_a_pattern_seed_goes_on_with_0(run):
    """A command gives its seed to a new run's pattern, and the folder says what an old run's was."""
    with Checkpoints(run) as checkpoints:
        checkpoints.save(state_of(run), seconds=1.0, loss=2.0)
    old = to_dict(override(run.config, {"seed": 3}))
    del old["model"]["pattern_seed"]
    (run.folder / "config.json").write_text(json.dumps(old))
    seal(run.folder, ["run.json", "vocab.json", "config.json"])
    today = override(run.config, {"seed": 3, "model.pattern_seed": 3})
    again = open_run(run.folder, today, run.vocab, run.facts)
    assert again.config.model.pattern_seed == read_run(run.folder).config.model.pattern_seed == 0


@pytest.mark.parametrize(
    "variant, seed", [("bigbird", 3), ("synthesizer_random_fixed", 3), ("vanilla", 0), ("perceiver", 0)]
)
def test_only_variants_with_patterns_have_a_seed_for_them(tmp_path, variant, seed):
    """Older versions saved one with every variant."""
    config = with_vocab(tiny.config(variant), VOCAB, 3)
    assert config.model.pattern_seed == seed
    old = open_run(tmp_path, override(config, {"model.pattern_seed": 3}), VOCAB, {"stage": "pretrain"})
    assert fit_to(old, tiny.config(variant)).model.pattern_seed == seed


def test_a_folder_without_a_checkpoint_is_made_anew(run):
    other = override(run.config, {"seed": 1})
    assert read_run(open_run(run.folder, other, run.vocab, run.facts).folder).config.seed == 1


def test_a_folder_that_cannot_be_made_is_named(run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot make the folder .*file: File exists"):
        open_run(tmp_path / "file", run.config, run.vocab, run.facts)


def test_the_same_run_opens_and_another_does_not(run):
    with Checkpoints(run) as checkpoints:
        checkpoints.save(state_of(run), seconds=1.0, loss=2.0)
    assert open_run(run.folder, run.config, run.vocab, run.facts) == run
    other = override(run.config, {"seed": 1})
    with pytest.raises(UserError, match="seed 0, and 1 is asked for"):
        open_run(run.folder, other, run.vocab, run.facts)
    with pytest.raises(UserError, match="data_digest 'd', and 'e' is asked for"):
        open_run(run.folder, run.config, run.vocab, run.facts | {"data_digest": "e"})
    with pytest.raises(UserError, match="start_digest None, and 's' is asked for"):
        open_run(run.folder, run.config, run.vocab, run.facts | {"start_digest": "s"})
    with pytest.raises(UserError, match="the vocabulary '□⁇abcdefgh', and '□⁇xyz'"):
        open_run(run.folder, run.config, Vocab.of("xyz"), run.facts)
    finetune_only = override(run.config, {"finetune.epochs": 99, "pretrain.save_every": 1})
    open_run(run.folder, finetune_only, run.vocab, run.facts)
