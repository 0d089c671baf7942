"""One model out of several: it is trained on what they say by vote."""

import dataclasses
import os
from pathlib import Path

from kgpt_jax import stages
from kgpt_jax.answer import evaluate as scoring
from kgpt_jax.config import Config, UserError
from kgpt_jax.data import corpus
from kgpt_jax.data.batches import steps_per_epoch
from kgpt_jax.data.mixture import weights
from kgpt_jax.data.spans import title_length
from kgpt_jax.model.gpt import GPT
from kgpt_jax.train.checkpoint import open_run, params_digest, read_run
from kgpt_jax.train.loop import train


def distill(config: Config, folder: Path, source: Path, tensorboard: bool = False) -> float:
    """Pretrains a model on the corpus, the training pairs, and what the models in `source` say by vote.

    They are asked about everybody who has a document and no training pair; what at least half of them say
    is taken for an answer (arXiv 1503.02531 with labels for soft targets). Returns the seconds of training.
    """
    teachers = read_run(source)
    model = GPT(stages.fit_to(teachers, dataclasses.replace(config, n_seeds=teachers.config.n_seeds)).model)
    if "question_answer" not in weights(config.pretrain.objective or stages.STAGE_OBJECTIVES["pretrain"]):
        raise UserError("distilling needs question_answer in --objective: that is how the vote is learnt")
    params = stages.load_params(teachers, "learning from")
    pairs = corpus.load_pairs(config.data).pairs
    questions = questions_like(pairs, corpus.load_documents(config.data).documents)
    each_model = stages.models(teachers, params)
    said = [scoring.predict(model, one, teachers.vocab, questions)[0] for one in each_model]
    voted = [
        (question, answer)
        for question, answer, each in zip(questions, scoring.vote(said), zip(*said))
        if answer and 2 * each.count(answer) >= len(said)
    ]
    print(f"{len(said)} models agree on {len(voted):,} answers to {len(questions):,} new questions")
    config = stages.with_vocab(config, teachers.vocab)
    objective, n_examples = stages.objective_of(config, "pretrain", teachers.vocab, voted)
    facts = {
        "stage": "pretrain",
        "data_digest": corpus.digest([text for pair in voted for text in pair]),
        "updates": steps_per_epoch(n_examples, config.pretrain) * config.pretrain.epochs,
        "most_frequent_answer": scoring.most_frequent([answer for _, answer in pairs]),
        "started_from": str(source),
        "start_digest": params_digest(params),
    }
    run = open_run(folder, config, teachers.vocab, facts)
    print(f"distilling: {config.model.variant}, {len(pairs) + len(voted):,} questions, into {folder}")
    return train(run, config.pretrain, objective, n_examples, tensorboard=tensorboard)[1]


def questions_like(pairs: list[tuple[str, str]], documents: list[str]) -> list[str]:
    """Returns the question of the training pairs about everybody who has a document and no pair.

    >>> pairs = [("Where was Al Bo born?", "Oslo"), ("Where was Cy Do born?", "Rome")]
    >>> questions_like(pairs, ["Al Bo. He sang.", "Ed Fa. She sang.", "Ed Fa. She danced."])
    ['Where was Ed Fa born?']
    """
    asked = [question for question, _ in pairs]
    before = os.path.commonprefix(asked)
    after = os.path.commonprefix([question[::-1] for question in asked])[::-1]
    # Names may begin or end alike: the question's own words end at spaces.
    before, after = before[: before.rfind(" ") + 1], after[max(after.find(" "), 0) :]
    names = [document[: title_length(document)].removesuffix(". ") for document in documents]
    return sorted({f"{before}{name}{after}" for name in names if name} - set(asked))
