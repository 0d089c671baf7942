"""A run's folder: `config.json`, `vocab.json`, and `run.json`; beside them lie its checkpoints.

Everything that a later stage needs is in the folder it starts from. `run.json` holds the stage, where it
started, and digests of its data and first parameters, so that a run is only ever resumed as itself.
"""

import dataclasses
import json
import os
from pathlib import Path

from kgpt_jax.config import Config, UserError, from_dict, leaves, to_dict
from kgpt_jax.data import corpus
from kgpt_jax.data.vocab import Vocab


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run is; `folder` is where it lives."""

    folder: Path
    config: Config
    vocab: Vocab
    facts: dict  # stage, corpus digest, where it started, most frequent answer


def open_run(folder: Path, config: Config, vocab: Vocab, facts: dict) -> Run:
    """Returns the run in `folder`, made now or, if it has a checkpoint, checked to be the same run.

    Raises a UserError that names both values where config, vocabulary or data differ.
    """
    run = Run(folder, config, vocab, facts)
    if (folder / "config.json").exists() and any((folder / "checkpoints").glob("[0-9]*")):
        _check_same(run, read_run(folder))
        return run
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "run.json", facts)
        write_json(folder / "vocab.json", {"characters": vocab.characters})
        write_json(folder / "config.json", to_dict(config))  # last: it says that all are there
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from None
    return run


def read_run(folder: Path) -> Run:
    """Returns the run that a folder holds, or raises a UserError that says what is missing."""
    if folder.is_file():
        raise UserError(f"{folder} is a file: --mode=import makes a run of a course .params file")
    try:
        config = from_dict(json.loads((folder / "config.json").read_text("utf-8")))
        vocab = Vocab(json.loads((folder / "vocab.json").read_text("utf-8"))["characters"])
        facts = json.loads((folder / "run.json").read_text("utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{folder} is not a run's folder: it has no {Path(error.filename).name}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder} is damaged: {error}") from None
    return Run(folder, config, vocab, facts)


def fit_to(run: Run, config: Config) -> Config:
    """Returns `config` with the run's vocabulary size; a UserError where model or vocabulary differ.

    Dropout, dtype and products may differ: they are no part of the parameters' shapes.
    """
    if not run.config.data.pretrain_corpus_path:
        there, asked = leaves(run.config.data.biographies), leaves(config.data.biographies)
        for name in ("n_train", "n_dev", "n_test", "seed"):
            if there[name] != asked[name]:
                raise UserError(
                    f"{run.folder} knows the people of data.biographies.{name} {there[name]}, and "
                    f"{asked[name]} is asked for, which are other people: leave it out"
                )
    path = config.data.pretrain_corpus_path
    if path and path != run.config.data.pretrain_corpus_path:
        characters = corpus.read_documents(path).characters
        if unknown := run.vocab.unknown(characters):
            raise UserError(
                f"{path} has characters that the vocabulary of {run.folder} lacks, {unknown!r}: "
                "leave it out, or start from a run that was pretrained on it"
            )
    if config.data.n_validation:
        seen, left = run.facts.get("n_pairs", 0), len(corpus.load_pairs(config.data).questions)
        if seen > left:
            raise UserError(
                f"{run.folder} has learnt from {seen} training pairs, and data.n_validation "
                f"{config.data.n_validation} leaves {left}: use a run that was trained with it"
            )
    if run.config.n_seeds != config.n_seeds:
        raise UserError(
            f"{run.folder} holds {run.config.n_seeds} models, and n_seeds is {config.n_seeds}: give the same"
        )
    fitted = with_vocab(config, run.vocab)
    there, asked = leaves(run.config.model), leaves(fitted.model)
    for name in there:
        if there[name] != asked[name] and name not in ("dropout", "dtype", "products"):
            raise UserError(
                f"{run.folder} has model.{name} {there[name]!r}, and {asked[name]!r} is asked for: "
                "leave it out, or start from another run"
            )
    return fitted


def with_vocab(config: Config, vocab: Vocab) -> Config:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=len(vocab)))


def _check_same(new: Run, old: Run):
    stage = old.facts["stage"]
    relevant = ("seed", "n_seeds", "model.", f"{stage}.")
    there, asked = leaves(old.config), leaves(new.config)
    for name in there:
        if name.startswith(relevant) and not name.endswith(".save_every") and there[name] != asked[name]:
            _refuse(new.folder, name, there[name], asked[name])
    if old.vocab != new.vocab:
        _refuse(new.folder, "the vocabulary", old.vocab.characters, new.vocab.characters)
    for name in ("stage", "data_digest", "start_digest"):
        if old.facts.get(name) != new.facts.get(name):
            _refuse(new.folder, name, old.facts.get(name), new.facts.get(name))


def _refuse(folder: Path, name: str, there, asked):
    raise UserError(
        f"{folder} holds a run with {name} {there!r}, and {asked!r} is asked for: "
        "give the same, another --workdir, or delete the folder"
    )


def write_json(path: Path, tree):
    """Writes a JSON file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(tree, indent=2, ensure_ascii=False) + "\n", "utf-8")
    os.replace(temporary, path)
