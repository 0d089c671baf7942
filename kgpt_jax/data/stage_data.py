"""What a stage of training reads: its objective, how many examples an epoch has, and their digest."""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from kgpt_jax.config import Config, UserError
from kgpt_jax.data import corpus
from kgpt_jax.data.batches import steps_per_epoch
from kgpt_jax.data.chunks import Chunks, cut_up, in_chunks, n_shards
from kgpt_jax.data.mixture import examples_of, mixture, preceded, weights
from kgpt_jax.data.objectives import NEED_PAIRS, Material, Objective
from kgpt_jax.data.vocab import Vocab

STAGE_OBJECTIVES = {
    "pretrain": "span_corruption",
    "finetune": "question_answer",
    "scratch": "question_answer",
}


class Taught(NamedTuple):
    """Questions with answers besides the training pairs, and the runs whose models gave the answers."""

    pairs: list[tuple[str, str]]
    by: list[str]
    learned: frozenset[str]  # fingerprints of the questions whose true answers these have learned


NOT_TAUGHT = Taught([], [], frozenset())


def recipe_of(config: Config, stage: str) -> str:
    """Returns a stage's objective or mixture, as the config says it or as the stage has it."""
    return getattr(config, stage).objective or STAGE_OBJECTIVES[stage]


def objective_of(
    config: Config,
    stage: str,
    vocab: Vocab,
    taught: Taught = NOT_TAUGHT,
    documents: Sequence[str] | None = None,
) -> tuple[Objective | Chunks, int, dict]:
    """Returns a stage's objective, how many examples an epoch has, and what `run.json` says of both.

    The objective of many documents comes in chunks; None reads those of the config. A UserError names the
    training pair that does not fit.
    """
    cfg = getattr(config, stage)
    recipe = recipe_of(config, stage)
    needed = weights(recipe).keys()
    if needed == {"question_answer"}:
        documents = []
    elif documents is None:
        documents = corpus.load_documents(config.data).documents
    pairs = corpus.load_pairs(config.data).pairs if needed & NEED_PAIRS else []
    all_pairs = [*pairs, *taught.pairs]
    for line, texts in enumerate(pairs, 1):
        if unknown := vocab.unknown("".join(texts)):
            raise UserError(
                f"training pair {line} has {unknown!r}, which the vocabulary lacks, in {texts}: "
                "give the pairs as --finetune_corpus_path when pretraining, too, or remove this one"
            )

    def made(documents: list[str], *questions) -> Objective:
        objective, _ = mixture(recipe, Material(documents, all_pairs), vocab, config.model, *questions)
        return preceded(objective, cfg.preceded) if cfg.preceded else objective

    n_documents, text_length = len(documents), config.model.seq_len + 1
    shards = n_shards(config.data.shards, cfg, n_documents, text_length)
    cuts = cut_up(n_documents, shards, text_length)
    more_facts, learned = {}, taught.learned
    if pairs:
        learned |= corpus.learned_from(config.data)
        more_facts["most_frequent_answer"] = corpus.most_frequent([answer for _, answer in pairs])
    if taught.by:
        more_facts["taught_by"] = taught.by
    if len(cuts) == len(cuts[0]) == 1:
        objective, n = made(documents[:]), examples_of(recipe, len(documents), len(all_pairs))
    else:
        objective = in_chunks(recipe, documents, all_pairs, cuts, made)
        n = sum(objective.updates(cfg)) * cfg.batch_size  # chunks' last batches are filled up
        more_facts["shards"] = objective.n_shards
    texts = chain(documents, (text for texts in zip(*all_pairs) for text in texts))
    facts = {
        "stage": stage,
        "updates": steps_per_epoch(n, cfg) * cfg.epochs,
        "data_digest": corpus.digest(texts),
        "learned": " ".join(sorted(learned)),
    }
    return objective, n, facts | more_facts
