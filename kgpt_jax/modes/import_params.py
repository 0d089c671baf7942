"""--mode=import: turns a parameter file into a run's folder.

    python -m kgpt_jax.main --mode=import --reading_params_path=vanilla.safetensors \
        --writing_params_path=runs/mine

A .safetensors file from --mode=export holds everything that a run needs. Any other file is read as a course
.params file, which holds parameters only: --config and --variant describe its model, and the corpus gives the
vocabulary.
"""

import dataclasses
from pathlib import Path

from kgpt_jax.config import UserError
from kgpt_jax.modes.command import Command

SHARED = ("reading_params_path", "writing_params_path")


def run(command: Command):
    from kgpt_jax.model.gpt import count_params
    from kgpt_jax.store.checkpoint import Checkpoints
    from kgpt_jax.store.compatible import open_run
    from kgpt_jax.store.folder import any_saved, locked, set_aside

    source, folder = command.needed("reading_params_path"), Path(command.needed("writing_params_path"))
    read = from_safetensors if source.endswith(".safetensors") else from_course
    config, vocab, facts, params = read(source, command)
    with locked(folder):
        if any_saved(folder):
            raise UserError(f"{folder} holds a run already: give another --writing_params_path")
        set_aside(folder)  # such as the metrics of a training that ended before its first checkpoint
        opened = open_run(folder, config, vocab, facts)
        with Checkpoints(opened) as checkpoints:
            checkpoints.save_params(params)
    print(f"{source} is now the run {folder}: {count_params(config.model):,} parameters")


def from_safetensors(source: str, command: Command):
    """Returns config, vocabulary, facts and parameters of a .safetensors file that --mode=export wrote."""
    from kgpt_jax.store.compatible import fit_to
    from kgpt_jax.store.safetensors_params import load_safetensors

    start, params = load_safetensors(source)
    return fit_to(start, command.config(start)), start.vocab, start.facts, params


def from_course(source: str, command: Command):
    """Returns config, vocabulary, facts and parameters of a course .params file."""
    from kgpt_jax.data import corpus
    from kgpt_jax.data.vocab import Vocab
    from kgpt_jax.store.compatible import with_vocab
    from kgpt_jax.store.torch_params import load_torch_params

    config = command.config()
    documents, characters, notes = corpus.load_documents(config.data)
    corpus.log_notes(notes)
    vocab = Vocab.of(characters)
    config = dataclasses.replace(with_vocab(config, vocab, config.seed), n_seeds=1)
    digest = corpus.digest(documents)
    facts = {"stage": "import", "started_from": source, "data_digest": digest, "corpus_digest": digest}
    return config, vocab, facts, load_torch_params(source, config.model)
