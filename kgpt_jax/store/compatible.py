"""Checks whether a run may be resumed, and whether another may start from it or read it.

Training calls `open_run` first. Code that reads a run, or starts from it, calls `fit_to` and `check_corpus`.
"""

import dataclasses
import logging
import math
from collections.abc import Iterable
from pathlib import Path

from kgpt_jax.config import Config, DataConfig, UserError, leaves, override, to_dict
from kgpt_jax.data import corpus
from kgpt_jax.data.holdout import UNKNOWN, refuse_learned
from kgpt_jax.data.stage_data import recipe_of
from kgpt_jax.data.vocab import Vocab
from kgpt_jax.devices import barrier, is_first, made_on
from kgpt_jax.model.variants import draws_patterns, without_defaults
from kgpt_jax.store.digests import damage, seal
from kgpt_jax.store.folder import Run, any_saved, read_run, saved_steps, write_json

log = logging.getLogger(__name__)


def open_run(folder: Path, config: Config, vocab: Vocab, facts: dict) -> Run:
    """Returns the run in `folder`: the existing one if the folder has a checkpoint, or else a new one.

    Logs a note if the machine or a library has changed since the run began. Its results may then differ in
    the last bits from those of an uninterrupted run.

    Args:
      folder: the run's folder, created if need be.
      config: the recipe.
      vocab: the characters of the corpus.
      facts: the content of `run.json`.

    Raises:
      UserError: the folder holds a run with another config, vocabulary or data (the message gives both
        values), or the folder cannot be created.
    """
    if not is_first():  # the first process creates the folder
        barrier("the run is open")
        there = read_run(folder)
        return dataclasses.replace(there, config=_with_pattern_of(there, config))
    run = _open(Run(folder, config, vocab, facts | {"made_on": made_on()}))
    barrier("the run is open")
    return run


def _open(run: Run) -> Run:
    """Does the work of `open_run` in the first process."""
    folder, facts = run.folder, run.facts
    if any_saved(folder):
        old = read_run(folder)
        run = dataclasses.replace(run, config=_with_pattern_of(old, run.config))
        _check_same(run, old)
        there = old.facts.get("made_on", {})
        if max(saved_steps(folder)) < facts.get("updates", math.inf):
            for name, value in run.facts["made_on"].items():
                if there.get(name) != value:
                    log.info(
                        f"note: {folder} was begun with {name} {there.get(name)} and goes on with {value}"
                    )
        run = dataclasses.replace(run, facts=facts | {"made_on": there})
        if not damage(folder):
            return run
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, tree in _files(run).items():
            write_json(folder / name, tree)
        seal(folder, list(_files(run)))
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror}") from None
    return run


def _files(run: Run) -> dict:
    """Returns the content of each file of a run's manifest."""
    config, characters = to_dict(run.config), {"characters": run.vocab.characters}
    return {"run.json": run.facts, "vocab.json": characters, "config.json": config}


def fit_to(run: Run, config: Config) -> Config:
    """Returns `config` with the vocabulary size and the pattern seed of an existing run.

    Dropout, dtype, products and remat may differ from the run's, because they do not change the parameters.
    So may the pattern seed: older versions saved one even if the variant has no patterns.

    Args:
      run: the run that is read or that training starts from.
      config: the config that is asked for.

    Raises:
      UserError: another field of the model differs from the run's, or the number of models differs.
    """
    if run.config.n_seeds != config.n_seeds:
        raise UserError(
            f"{run.folder} holds {run.config.n_seeds} models, and n_seeds is {config.n_seeds}: give the same"
        )
    fitted = with_vocab(config, run.vocab, run.config.model.pattern_seed)
    there, asked = leaves(run.config.model), leaves(fitted.model)
    for name in there:
        free = name in ("dropout", "dtype", "products", "remat", "pattern_seed")
        if there[name] != asked[name] and not free:
            raise UserError(
                f"{run.folder} has model.{name} {there[name]!r}, and {asked[name]!r} is asked for: "
                "leave out --config or the flag that says so, or start from another run"
            )
    return fitted


def check_corpus(run: Run, data: DataConfig):
    """Raises a UserError if a run was pretrained on other documents than those of `data`.

    Built-in documents are compared by the people that they are about. With `data.other_corpus`, other
    documents are allowed if the run's vocabulary has all their characters. If the file of the run's documents
    no longer exists, nothing is compared, because a run can answer without it.
    """
    path, there = data.pretrain_corpus_path, run.config.data
    if there.pretrain_corpus_path and not path and not data.other_corpus:
        raise UserError(
            f"{run.folder} was pretrained on {there.pretrain_corpus_path}, and the built-in people are asked "
            "for: give --pretrain_corpus_path, or --config.data.other_corpus=true if they are meant to differ"
        )
    if not path and not there.pretrain_corpus_path:
        known, asked = leaves(there.biographies), leaves(data.biographies)
        for name in ("n_train", "n_dev", "n_test", "seed"):
            if known[name] != asked[name]:
                raise UserError(
                    f"{run.folder} was trained on the people of data.biographies.{name}={known[name]}; "
                    f"{asked[name]} gives other people: use {known[name]}"
                )
        return
    if not path or (path == there.pretrain_corpus_path and not Path(path).exists()):
        return
    documents, characters, _ = corpus.read_documents(path)
    known, asked = run.facts.get("corpus_digest"), corpus.digest(documents)
    if known not in (None, asked) and not data.other_corpus:
        raise UserError(
            f"{run.folder} was pretrained on {there.pretrain_corpus_path or 'the built-in people'} (digest "
            f"{known}), and {path} (digest {asked}) has other documents: give the same, or "
            "--config.data.other_corpus=true if they are meant to differ"
        )
    if unknown := run.vocab.unknown(characters):
        raise UserError(
            f"{path} has characters that the vocabulary of {run.folder} lacks, {unknown!r}: "
            "leave it out, or start from a run that was pretrained on it"
        )


def learned_by(runs: Iterable[Run]) -> frozenset[str]:
    """Returns the fingerprints of the questions that runs learned, including the runs they started from.

    The set contains UNKNOWN if a run does not record what it learned.
    """
    return frozenset(mark for run in runs for mark in run.facts.get("learned", UNKNOWN).split())


def refuse_held_out(runs: Iterable[Run], data: DataConfig):
    """Raises a UserError if a run has learned a held-out question, unless `data.skip_learned` allows it."""
    if data.n_validation and not data.skip_learned:
        held_out = corpus.load_questions(data).questions
        for run in runs:
            refuse_learned(held_out, learned_by([run]), str(run.folder))


def teachers_of(runs: Iterable[Run]) -> list[str]:
    """Returns who taught the runs, or the runs they started from: folders, or the open-book reader."""
    return list(dict.fromkeys(by for run in runs for by in run.facts.get("taught_by", [])))


def with_vocab(config: Config, vocab: Vocab, pattern_seed: int = 0) -> Config:
    """Returns the config with the size of the vocabulary, the pattern seed, and no option at its default.

    Args:
      config: the recipe.
      vocab: the vocabulary.
      pattern_seed: seeds the untrained patterns. A new model takes the run's seed; a run that starts from
        another keeps that run's pattern seed. A variant without patterns gets 0, so that runs with different
        seeds have the same model, and share its compiled programs.

    Raises:
      UserError: there is no such variant, it has no such option, or an option's value is out of range.
    """
    model = without_defaults(config.model)
    pattern_seed = pattern_seed if draws_patterns(model) else 0
    model = dataclasses.replace(model, vocab_size=len(vocab), pattern_seed=pattern_seed)
    return dataclasses.replace(config, model=model)


def _with_pattern_of(run: Run, config: Config) -> Config:
    """Returns `config` with the pattern seed of the run to resume, which is 0 in runs of older versions."""
    return override(config, {"model.pattern_seed": run.config.model.pattern_seed})


def _check_same(new: Run, old: Run):
    """Raises a UserError unless `new` may resume from the checkpoints of `old`."""
    stage = old.facts["stage"]
    relevant = ("seed", "n_seeds", "model.", f"{stage}.")
    there, asked = (leaves(run.config) for run in (old, new))
    if (objective := f"{stage}.objective") in there:  # an empty one means the default
        there[objective], asked[objective] = (recipe_of(run.config, stage) for run in (old, new))
    for name in there:
        free = name.endswith(".save_every") or name == "model.remat"
        if name.startswith(relevant) and not free and there[name] != asked[name]:
            _refuse(new.folder, name, there[name], asked[name])
    if old.vocab != new.vocab:
        _refuse(new.folder, "the vocabulary", old.vocab.characters, new.vocab.characters)
    for name in ("stage", "data_digest", "start_digest", "shards"):
        if old.facts.get(name) != new.facts.get(name):
            _refuse(new.folder, name, old.facts.get(name), new.facts.get(name))


def _refuse(folder: Path, name: str, there, asked):
    raise UserError(
        f"{folder} holds a run with {name} {there!r}, and {asked!r} is asked for: "
        "give the same, another --workdir, or --start_anew, which sets aside what is there"
    )
