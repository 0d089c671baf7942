"""What speaks for an answer: the evidence that a run's models give about their own answers.

    found = evidence(voters, asks, questions)
    found.table_NF                                     # a row of FEATURES for each answer

Axes: `N` answers, `F` features.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kgpt_jax.answer.familiar import name_texts, of_reads
from kgpt_jax.answer.predict import read_texts, with_answers
from kgpt_jax.answer.voters import Answers, Voter
from kgpt_jax.data.mixture import weights
from kgpt_jax.data.names import Frame, Part, sharing
from kgpt_jax.data.stage_data import recipe_of
from kgpt_jax.data.vocab import MASK
from kgpt_jax.model.gpt import GPT

FEATURES = {
    "log_probability": "log probability of the whole answer and its end, in nats",
    "lead": "the least lead of a character of the answer over the next likeliest one, in nats",
    "votes": "share of the models that give the answer",
    "cloze": "log probability of the answer after the name alone, as in pretraining; 0 without such texts",
    "familiarity": "how well the run knows the name, in nats (answer/familiar.py)",
    "recited": "the probability of the answer as the likeliest one in what the run recites; 0 if it is not",
    "strangers": "log of the mean probability of the answer for strangers with the same first part, or with "
    "the same last part of the name, whichever is higher",
}
SPEAKS_AGAINST = "strangers"  # all others speak for an answer
CLOZE_OBJECTIVES = {"answer_span", "entity_span"}  # they show `Name. ` and a masked span
WORST = -50.0  # nats; stands for -inf, as of names with unknown letters


class Asks(NamedTuple):
    """What questions have in common.

    Attributes:
      where: their form. A question of another form has an unknown name.
      parts: parts of names, from which strangers are made who share the other part of a name.
    """

    where: Frame
    parts: list[Part]


class Evidence(NamedTuple):
    """Answers with what speaks for them.

    Attributes:
      answers: the vote of all models on each question.
      table_NF: a row of FEATURES for each answer; values below WORST are raised to WORST.
      familiarity_N: of each name, not raised (`answer/familiar.py`); -inf in a question of another form.
    """

    answers: list[str]
    table_NF: np.ndarray
    familiarity_N: np.ndarray


def evidence(voters: Sequence[Voter], asks: Asks, questions: Sequence[str], given: Answers) -> Evidence:
    """Collects what speaks for each answer.

    Args:
      voters: the runs that answer; all of their models vote.
      asks: the form of the questions, and parts of names.
      questions: the questions.
      given: the answers of all models.
    """
    answers = given.vote
    votes_N = np.mean([[a == b for a, b in zip(one, answers)] for one in given.answers], axis=0)
    recited = [
        [there.probability if there and there.answer == answer else 0.0 for there, answer in zip(of, answers)]
        for of in given.recited
    ]
    names = [asks.where.name(question) or "" for question in questions]
    tables = [
        _read(voter, params, asks, questions, names, answers) for voter in voters for params in voter.models
    ]
    column = list(FEATURES).index
    mean_NF = np.mean(tables, axis=0)
    table_NF = np.maximum(mean_NF, WORST)
    table_NF[:, column("votes")] = votes_N
    table_NF[:, column("recited")] = np.mean(recited, axis=0) if recited else 0.0
    return Evidence(answers, table_NF, mean_NF[:, column("familiarity")])


def weakest(table_NF: np.ndarray) -> np.ndarray:
    """Returns (F,): of each feature, the value that speaks least for an answer."""
    against_F = np.array([name == SPEAKS_AGAINST for name in FEATURES])
    return np.where(against_F, table_NF.max(0), table_NF.min(0))


def _read(
    voter: Voter, params, asks: Asks, questions: Sequence[str], names: list[str], answers: list[str]
) -> np.ndarray:
    """Returns the evidence that one model of a run gives, (N, F), without "votes" and "recited".

    All texts are read together, so that one question takes one compiled program.
    """
    run, config, _ = voter
    length = config.model.seq_len + 1
    shared = [sharing(name, asks.parts) for name in names]  # for each name, groups of strangers
    strangers = [
        (asks.where.question(name), i) for i, groups in enumerate(shared) for name in sum(groups, [])
    ]
    by_kind = {
        "questions": with_answers(run.vocab, questions, answers, length),
        "names": [(text, 1) for text in name_texts(run.vocab, names, length)],
        "strangers": with_answers(
            run.vocab, [name for name, _ in strangers], [answers[i] for _, i in strangers], length
        ),
    }
    if CLOZE_OBJECTIVES & weights(recipe_of(run.config, "pretrain")).keys():
        by_kind["cloze"] = with_answers(run.vocab, [f"{name}. {MASK}" for name in names], answers, length)
    texts, given = zip(*sum(by_kind.values(), []))
    all_reads = iter(read_texts(GPT(config.model), params, texts, given))
    reads = {kind: [next(all_reads) for _ in texts] for kind, texts in by_kind.items()}

    def logs(kind: str) -> np.ndarray:
        """Returns the log probability of each answer of a kind of texts."""
        of = zip(reads[kind], by_kind[kind])
        return np.array(
            [read.gain_T[given - 1 :].sum() if given else WORST for read, (_, given) in of], float
        )

    leads = zip(reads["questions"], by_kind["questions"])
    rest, strangers_N = iter(np.exp(logs("strangers"))), np.zeros(len(answers))
    for i, groups in enumerate(shared):
        strangers_N[i] = max([np.mean([next(rest) for _ in group]) for group in groups if group], default=0)
    columns = {
        "log_probability": logs("questions"),
        "lead": np.array([read.lead_T[given - 1 :].min() if given else WORST for read, (_, given) in leads]),
        "votes": np.zeros(len(answers)),
        "recited": np.zeros(len(answers)),
        "cloze": logs("cloze") if "cloze" in by_kind else np.zeros(len(answers)),
        "familiarity": of_reads(names, reads["names"]),
        "strangers": np.log(np.maximum(strangers_N, np.exp(WORST))),
    }
    return np.array([columns[name] for name in FEATURES]).T
