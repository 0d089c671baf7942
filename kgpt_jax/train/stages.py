"""The stages of training: `pretrain` on documents, `finetune` on questions with their answers.

    trained = pretrain(config, Path("runs/vanilla/pretrain"))
    trained = finetune(config, Path("runs/vanilla/finetune"), start=trained.run)

Both resume an interrupted run, and return at once if the run is finished.
"""

import logging
from pathlib import Path
from typing import NamedTuple

from kgpt_jax.config import Config
from kgpt_jax.data import corpus
from kgpt_jax.data.stage_data import NOT_TAUGHT, Taught, load_stage_data
from kgpt_jax.data.vocab import Vocab
from kgpt_jax.model.gpt import count_params
from kgpt_jax.store.compatible import (
    check_corpus,
    fit_to,
    learned_by,
    open_run,
    refuse_held_out,
    teachers_of,
    with_vocab,
)
from kgpt_jax.store.folder import Run, locked, set_aside
from kgpt_jax.store.params import load_params, params_digest
from kgpt_jax.train.loop import check_fits, train

log = logging.getLogger(__name__)


class Trained(NamedTuple):
    """A finished run, and the seconds of training without compilation."""

    run: Run
    seconds: float


def pretrain(
    config: Config,
    folder: Path,
    tensorboard: bool = False,
    taught: Taught = NOT_TAUGHT,
    start_anew: bool = False,
) -> Trained:
    """Trains a new model on documents.

    Args:
      config: the recipe; `config.data` says where the documents are.
      folder: the run's folder, created if need be; an interrupted run in it is resumed.
      tensorboard: whether to write event files for TensorBoard, too.
      taught: further questions to learn, with answers that other models gave (distillation).
      start_anew: whether to move a run in the folder aside. This happens when all inputs have been read.

    Raises:
      UserError: the corpus cannot be read, the model cannot fit into memory, or the folder holds another run.
    """
    documents, characters, notes = corpus.load_documents(config.data)
    corpus.log_notes(notes)
    vocab = Vocab.of(characters)
    config = with_vocab(config, vocab, config.seed)
    check_fits(config, "pretrain")
    data, facts = load_stage_data(config, "pretrain", vocab, taught, documents)
    # If no questions are learned, the data consist of the documents alone.
    facts["corpus_digest"] = corpus.digest(documents) if facts["learned"] else facts["data_digest"]
    with locked(folder):
        if start_anew:  # only now: all inputs have been read
            set_aside(folder)
        run = open_run(folder, config, vocab, facts)
        log.info(
            f"pretraining: {config.model.variant}, {count_params(config.model):,} parameters, "
            f"{len(documents):,} documents, {len(vocab)} symbols, into {folder}"
        )
        _, seconds = train(run, config.pretrain, data, tensorboard=tensorboard)
    return Trained(run, seconds)


def finetune(
    config: Config,
    folder: Path,
    start: Run | None,
    tensorboard: bool = False,
    taught: Taught = NOT_TAUGHT,
    start_anew: bool = False,
) -> Trained:
    """Trains a model on questions with answers: the run `start` or, if that is None, a new model.

    Args:
      config: the recipe; `config.data` says where the training pairs are.
      folder: the run's folder, created if need be; an interrupted run in it is resumed.
      start: the run whose parameters and vocabulary training starts with; None trains from scratch.
      tensorboard: whether to write event files for TensorBoard, too.
      taught: further questions to learn, with answers that other models gave (distillation).
      start_anew: as in `pretrain`.

    Raises:
      UserError: the data cannot be read, `start` does not fit `config` or has learned a question that is held
        out, the model cannot fit into memory, or the folder holds another run.
    """
    table = corpus.load_pairs(config.data)
    corpus.log_notes(table.notes)
    if start is None:
        stage, params = "scratch", None
        documents, characters, _ = corpus.load_documents(config.data)
        vocab, corpus_digest = Vocab.of(characters), corpus.digest(documents)
        config = with_vocab(config, vocab, config.seed)
        check_fits(config, stage)
        log.info("starting from scratch")
    else:
        config = fit_to(start, config)
        check_corpus(start, config.data)
        refuse_held_out([start], config.data)
        stage, vocab, corpus_digest = "finetune", start.vocab, start.facts.get("corpus_digest", "")
        by = list(dict.fromkeys([*teachers_of([start]), *taught.by]))
        taught = taught._replace(by=by, learned=taught.learned | learned_by([start]))
        check_fits(config, stage)
        params = load_params(start, "starting from", config.model_devices)
    data, facts = load_stage_data(config, stage, vocab, taught)
    if corpus_digest:
        facts["corpus_digest"] = corpus_digest
    if start is not None:
        facts |= {"started_from": str(start.folder), "start_digest": params_digest(params)}
    with locked(folder):
        if start_anew:
            set_aside(folder)
        run = open_run(folder, config, vocab, facts)
        n_questions = len(table.questions) + len(taught.pairs)
        log.info(f"finetuning: {config.model.variant}, {n_questions:,} questions, into {folder}")
        _, seconds = train(run, getattr(config, stage), data, params, tensorboard)
    return Trained(run, seconds)
