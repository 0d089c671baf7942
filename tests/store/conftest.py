import pytest

from kgpt_jax.data.vocab import Vocab
from kgpt_jax.store.checkpoint import Checkpoints
from kgpt_jax.store.compatible import open_run, with_vocab
from tests import tiny

VOCAB = Vocab.of("abcdefgh")


@pytest.fixture
def run(tmp_path):
    """A run that has no checkpoint yet."""
    config = with_vocab(tiny.config(), VOCAB)
    return open_run(tmp_path / "run", config, VOCAB, {"stage": "pretrain", "data_digest": "d"})


@pytest.fixture
def saved(run):
    """A run with one checkpoint, of update 7."""
    with Checkpoints(run) as checkpoints:
        checkpoints.save(tiny.state(run.config), seconds=1.0, loss=2.0)
    return run
