"""--mode=import: turns a course .params file into a run's folder.

    python -m kgpt_jax.main --mode=import --reading_params_path=vanilla.params --writing_params_path=runs/mine

The corpus gives the vocabulary, which the file lacks.
"""

import dataclasses
from pathlib import Path

from kgpt_jax.config import UserError

SHARED = ("reading_params_path", "writing_params_path")


def run(command):
    from kgpt_jax.data import corpus
    from kgpt_jax.data.vocab import Vocab
    from kgpt_jax.model.gpt import count_params
    from kgpt_jax.store.checkpoint import Checkpoints
    from kgpt_jax.store.compatible import open_run, with_vocab
    from kgpt_jax.store.folder import held
    from kgpt_jax.store.torch_params import load_torch_params

    config = command.config()
    source, folder = command.needed("reading_params_path"), Path(command.needed("writing_params_path"))
    documents, characters, notes = corpus.load_documents(config.data)
    corpus.log_notes(notes)
    vocab = Vocab.of(characters)
    config = dataclasses.replace(with_vocab(config, vocab, config.seed), n_seeds=1)
    params = load_torch_params(source, config.model)
    if (folder / "config.json").exists():
        raise UserError(f"{folder} holds a run already: give another --writing_params_path")
    digest = corpus.digest(documents)
    facts = {"stage": "import", "data_digest": digest, "corpus_digest": digest, "started_from": source}
    with held(folder):
        opened = open_run(folder, config, vocab, facts)
        with Checkpoints(opened) as checkpoints:
            checkpoints.save_params(params)
    print(f"{source} is now the run {folder}: {count_params(config.model):,} parameters")
