import errno
import json
import logging
import random
import resource
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging as absl_logging

from kgpt_jax.config import UserError
from kgpt_jax.store import checkpoint
from kgpt_jax.store.checkpoint import Checkpoints
from kgpt_jax.store.digests import damage, seal
from kgpt_jax.store.folder import locked, read_run, set_aside
from kgpt_jax.store.params import load_params
from tests import tiny
from tests.torture.harms import HARMS, harm


def state_of(run, seed=0):
    return tiny.state(run.config, seed)


def equal(a, b):
    return all((np.asarray(x) == np.asarray(y)).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


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


def test_an_unreadable_checkpoint_is_named(saved):
    for file in (saved.folder / "checkpoints" / "7" / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(
        UserError, match="has no valid checkpoint: bring its files back, or .* with --start_anew"
    ):
        load_params(saved)


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


def test_training_stops_where_no_checkpoint_is_valid(saved):
    (saved.folder / "metrics.jsonl").write_text("kept\n")
    (saved.folder / "checkpoints" / "7" / "SHA256SUMS").unlink()  # as in a copy that was broken off
    with pytest.raises(UserError, match=r"no checkpoint of .*run is valid: .*7: SHA256SUMS is missing"):
        Checkpoints(saved)
    assert (saved.folder / "checkpoints" / "7" / "params").exists()
    with locked(saved.folder):
        set_aside(saved.folder)  # --start_anew
    assert [path.name for path in saved.folder.iterdir() if path.name != ".lock"] == ["set_aside"]
    aside = saved.folder / "set_aside" / "run_1"
    assert (aside / "checkpoints" / "7" / "params").exists()
    assert (aside / "metrics.jsonl").read_text() == "kept\n"
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.step is None


def test_a_save_of_ours_that_was_broken_off_is_removed(saved):
    """After a kill between the files of a checkpoint and their digests, training resumes."""
    assert not (saved.folder / ".saving").exists()
    (saved.folder / "checkpoints" / "7" / "SHA256SUMS").unlink()
    (saved.folder / ".saving").write_text("7")
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.step is None and not any((saved.folder / "checkpoints").iterdir())
    assert not (saved.folder / "set_aside").exists()


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
