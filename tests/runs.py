"""A tiny run with random parameters, saved in a folder without any training, like an imported run."""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from kgpt_jax.config import BiographiesConfig, Config, DataConfig, ModelConfig
from kgpt_jax.data import corpus
from kgpt_jax.data.vocab import Vocab
from kgpt_jax.model.gpt import abstract_params
from kgpt_jax.store.checkpoint import Checkpoints
from kgpt_jax.store.compatible import open_run, with_vocab
from kgpt_jax.store.folder import Run

CONFIG = Config(
    model=ModelConfig(n_layer=1, n_head=2, n_embd=16, dropout=0.0),
    data=DataConfig(biographies=BiographiesConfig(n_train=8, n_dev=6, n_test=3, copies=1)),
)


def params_of(config: Config, seed: int = 0):
    """Returns random parameters, large enough that questions get different answers."""
    rng = np.random.default_rng(seed)

    def random(path, leaf):
        middle = 1 if path[-1].key == "scale" else 0
        return (middle + 0.5 * rng.standard_normal(leaf.shape)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(random, abstract_params(config.model))


def saved(folder: Path, config: Config = CONFIG, seed: int = 0) -> Run:
    """Returns a run of the built-in people, with random parameters, that is saved in a folder."""
    documents, characters, _ = corpus.load_documents(config.data)
    vocab = Vocab.of(characters)
    config = with_vocab(config, vocab)
    digest = corpus.digest(documents)
    facts = {"stage": "import", "corpus_digest": digest, "learned": "", "most_frequent_answer": "Rome"}
    one = dataclasses.replace(config, n_seeds=1)
    params = [params_of(one, seed + k) for k in range(config.n_seeds)]
    run = open_run(folder, config, vocab, facts)
    with Checkpoints(run) as checkpoints:
        checkpoints.save_params(
            params[0] if config.n_seeds == 1 else jax.tree.map(lambda *leaves: np.stack(leaves), *params)
        )
    return run
