import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kgpt_jax.config import UserError, override
from kgpt_jax.data.vocab import Vocab
from kgpt_jax.model.gpt import GPT
from kgpt_jax.train.checkpoint import Checkpoints, load_params
from kgpt_jax.train.optimizer import make_optimizer
from kgpt_jax.train.run import open_run, read_run, with_vocab
from kgpt_jax.train.step import init_state
from tests import tiny

VOCAB = Vocab.of("abcdefgh")


@pytest.fixture
def run(tmp_path):
    config = with_vocab(tiny.config(), VOCAB)
    return open_run(tmp_path / "run", config, VOCAB, {"stage": "pretrain", "data_digest": "d"})


def state_of(run, seed=0):
    tx = make_optimizer(run.config.pretrain)
    state = init_state(GPT(run.config.model), tx, jax.random.key(seed))
    return state._replace(step=jnp.int32(7))


def equal(a, b):
    return all((np.asarray(x) == np.asarray(y)).all() for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))


def test_a_run_reads_back_as_it_was(run):
    again = read_run(run.folder)
    assert again == run


def test_the_whole_state_comes_back(run):
    state = state_of(run)
    with Checkpoints(run) as checkpoints:
        checkpoints.save(state, seconds=12.5)
        checkpoints.wait()
        restored, seconds = checkpoints.restore(state_of(run, seed=1))
    assert seconds == 12.5 and int(restored.step) == 7
    assert equal(restored, state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    assert equal(load_params(run), state.params)


def test_a_checkpoint_tells_what_made_it(run):
    with Checkpoints(run) as checkpoints:
        checkpoints.save(state_of(run), seconds=1.0)
        checkpoints.wait()
        meta = checkpoints.manager.restore(7)["meta"]
    assert meta["vocab"] == "□⁇abcdefgh"
    assert meta["config"] == json.loads((run.folder / "config.json").read_text())


def test_a_reader_leaves_a_save_under_way_alone(run):
    under_way = run.folder / "checkpoints" / "9.orbax-checkpoint-tmp"
    with Checkpoints(run) as checkpoints:
        checkpoints.save(state_of(run), seconds=1.0)
        checkpoints.wait()
    under_way.mkdir()
    load_params(run)
    assert under_way.exists()
    with Checkpoints(run):  # one that trains clears it away, in the background
        deadline = time.monotonic() + 20
        while under_way.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
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
        checkpoints.save(state_of(run), seconds=1.0)
        checkpoints.wait()
    for file in (run.folder / "checkpoints" / "7" / "params").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    with pytest.raises(UserError, match="checkpoints/7 cannot be read .*: delete it"):
        load_params(run)


@pytest.mark.parametrize("name", ["config.json", "vocab.json", "run.json"])
def test_a_damaged_folder_is_named(run, name):
    (run.folder / name).write_text("{")
    with pytest.raises(UserError, match="run is damaged"):
        read_run(run.folder)


def test_a_folder_without_a_checkpoint_is_made_anew(run):
    other = override(run.config, {"seed": 1})
    assert read_run(open_run(run.folder, other, run.vocab, run.facts).folder).config.seed == 1


def test_a_folder_that_cannot_be_made_is_named(run, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot make the folder .*file: File exists"):
        open_run(tmp_path / "file", run.config, run.vocab, run.facts)


def test_the_same_run_opens_and_another_does_not(run):
    with Checkpoints(run) as checkpoints:
        checkpoints.save(state_of(run), seconds=1.0)
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
