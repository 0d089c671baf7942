"""Loads the data of a stage of training: its examples, in chunks, and facts about them for `run.json`."""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from kgpt_jax.config import Config, UserError
from kgpt_jax.data import corpus
from kgpt_jax.data.chunks import Chunks, bounds, count_shards
from kgpt_jax.data.mixture import examples_of, mixture, preceded, weights
from kgpt_jax.data.objectives import NEED_PAIRS, Material, Objective
from kgpt_jax.data.vocab import Vocab

STAGE_OBJECTIVES = {
    "pretrain": "span_corruption",
    "finetune": "question_answer",
    "scratch": "question_answer",
}


class Taught(NamedTuple):
    """Questions that teachers answered, to train on in addition to the training pairs (distillation).

    Attributes:
      pairs: (question, answer).
      by: the folders of the runs that answered, or the open-book reader.
      learned: fingerprints of the questions that these teachers have learned (`data/holdout.py`).
    """

    pairs: list[tuple[str, str]]
    by: list[str]
    learned: frozenset[str]


NOT_TAUGHT = Taught([], [], frozenset())


class StageData(NamedTuple):
    """The data of a stage of training.

    Attributes:
      chunks: the examples of an epoch.
      facts: facts for `run.json`: stage, updates, digest of the texts, fingerprints of learned questions.
    """

    chunks: Chunks
    facts: dict


def recipe_of(config: Config, stage: str) -> str:
    """Returns the objective or mixture in a stage's config or, if that is empty, the stage's default."""
    return getattr(config, stage).objective or STAGE_OBJECTIVES[stage]


def load_stage_data(
    config: Config,
    stage: str,
    vocab: Vocab,
    taught: Taught = NOT_TAUGHT,
    documents: Sequence[str] | None = None,
) -> StageData:
    """Reads the data of a stage of training, and no other files.

    Args:
      config: `config.data` names the files, and `config.<stage>` says how to read them.
      stage: pretrain, finetune or scratch.
      vocab: must have every character of the documents and of the training pairs.
      taught: further questions with answers.
      documents: the corpus, if the caller has read it; None reads the one in `config.data`.

    Raises:
      UserError: a file cannot be read, a training pair is too long or has an unknown character, or
        `data.shards` does not fit.
    """
    cfg = getattr(config, stage)
    needed = weights(recipe_of(config, stage)).keys()
    if needed == {"question_answer"}:
        documents = []
    elif documents is None:
        documents = corpus.load_documents(config.data).documents
    own_pairs = corpus.load_pairs(config.data).pairs if needed & NEED_PAIRS else []
    _check_characters(own_pairs, vocab)
    pairs = [*own_pairs, *taught.pairs]
    chunks = _chunks(config, stage, vocab, documents, pairs)

    questions, answers = zip(*pairs) if pairs else ((), ())
    learned = taught.learned | (corpus.learned_from(config.data) if own_pairs else set())
    facts = {
        "stage": stage,
        "updates": sum(chunks.updates(cfg)) * cfg.epochs,
        "data_digest": corpus.digest(chain(documents, questions, answers)),
        "learned": " ".join(sorted(learned)),
    }
    if own_pairs:
        facts["most_frequent_answer"] = corpus.most_frequent([answer for _, answer in own_pairs])
    if taught.by:
        facts["taught_by"] = taught.by
    if len(chunks.sizes) > 1 or chunks.n_shards > 1:
        facts["shards"] = chunks.n_shards
    return StageData(chunks, facts)


def _check_characters(pairs: list[tuple[str, str]], vocab: Vocab):
    for line, pair in enumerate(pairs, 1):
        if unknown := vocab.unknown("".join(pair)):
            raise UserError(
                f"training pair {line} has {unknown!r}, which the vocabulary lacks, in {pair}: "
                "give the pairs as --finetune_corpus_path when pretraining, too, or remove this one"
            )


def _chunks(
    config: Config, stage: str, vocab: Vocab, documents: Sequence[str], pairs: list[tuple[str, str]]
) -> Chunks:
    """Returns the examples of a stage. A single chunk with a single shard is made at once."""
    cfg, recipe, text_length = getattr(config, stage), recipe_of(config, stage), config.model.seq_len + 1
    shards = count_shards(config.data.shards, cfg, len(documents), text_length)
    ranges = bounds(len(documents), shards, text_length)
    sizes = [_sizes(recipe, of_shards, len(pairs)) for of_shards in ranges]
    answers = {answer for _, answer in pairs}

    def make(chunk: int, shard: int) -> Objective:
        first, end = ranges[chunk][shard]
        asked = pairs[shard::shards] or pairs  # its own questions, so that all are asked equally often
        material = Material(documents[first:end], asked, answers)
        n_questions = sizes[chunk][shard] - len(material.documents)
        objective = mixture(recipe, material, n_questions, vocab, config.model)
        return preceded(objective, cfg.preceded) if cfg.preceded else objective

    if len(ranges) == shards == 1:
        return Chunks.of(make(0, 0), sizes[0][0])
    return Chunks(make, sizes)


def _sizes(recipe: str, ranges: list[tuple[int, int]], n_pairs: int) -> list[int]:
    """Returns the number of examples in each shard of a chunk, given its ranges (first, end) of documents.

    These are differences of rounded running totals, so that their sum does not depend on the number of
    shards.
    """
    first = ranges[0][0]
    totals = [examples_of(recipe, end - first, n_pairs) for _, end in ranges]
    return [total - before for total, before in zip(totals, [0, *totals])]
