"""How sure a run is of an answer: what speaks for the answer, and the probability that it is right.

    found = evidence(asked, asks, questions)           # one row of numbers for each answer
    calibration = fit(found.table_NF, right)           # logistic regression
    calibration.confidence(found.table_NF)             # from 0 to 1

The evidence for an answer is a row of FEATURES. A logistic regression turns it into a confidence. Venn-Abers
prediction (arXiv 1511.00213) turns the confidence into a probability with an interval.

Axes: `N` answers, `F` features.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from kgpt_jax.answer.familiar import name_texts, of_reads
from kgpt_jax.answer.predict import ask, read_texts, with_answers
from kgpt_jax.answer.score import vote
from kgpt_jax.config import Config, UserError
from kgpt_jax.data.mixture import weights
from kgpt_jax.data.names import Frame, Part, sharing
from kgpt_jax.data.stage_data import recipe_of
from kgpt_jax.data.vocab import MASK
from kgpt_jax.model.gpt import GPT
from kgpt_jax.store.folder import Run
from kgpt_jax.store.params import models

FEATURES = {
    "log_probability": "log probability of the whole answer and its end, in nats",
    "lead": "the least lead of a character of the answer over the next likeliest one, in nats",
    "votes": "share of the models that give the answer",
    "cloze": "log probability of the answer after the name alone, as in pretraining; 0 without such texts",
    "familiarity": "how well the run knows the name, in nats (answer/familiar.py)",
    "strangers": "log of the mean probability of the answer for strangers with the same first part, or with "
    "the same last part of the name, whichever is higher",
}
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
      table_NF: a row of FEATURES for each answer.
    """

    answers: list[str]
    table_NF: np.ndarray


def evidence(
    asked: Sequence[tuple[Run, Config, object]],
    asks: Asks,
    questions: Sequence[str],
    given: Sequence[list[str]] = (),
) -> Evidence:
    """Collects what speaks for each answer.

    Args:
      asked: runs with their fitting configs and parameters; all of their models vote.
      asks: the form of the questions, and parts of names.
      questions: the questions.
      given: each model's answers, if they were asked already.
    """
    each = given or [
        answers
        for run, config, params in asked
        for answers in ask(run, config, list(questions), purpose="", params=params).answers
    ]
    answers = vote(list(each))
    votes_N = np.mean([[a == b for a, b in zip(one, answers)] for one in each], axis=0)
    names = [asks.where.name(question) or "" for question in questions]
    tables = [
        _read(run, config, one, asks, questions, names, answers)
        for run, config, params in asked
        for one in models(run, params)
    ]
    table_NF = np.maximum(np.mean(tables, axis=0), WORST)
    table_NF[:, list(FEATURES).index("votes")] = votes_N
    return Evidence(answers, table_NF)


def _read(
    run: Run,
    config: Config,
    params,
    asks: Asks,
    questions: Sequence[str],
    names: list[str],
    answers: list[str],
) -> np.ndarray:
    """Returns the evidence that one model gives, (N, F), without the votes.

    All texts are read together, so that one question takes one compiled program.
    """
    length = config.model.seq_len + 1
    shared = [sharing(name, asks.parts) for name in names]  # for each name, groups of strangers
    strangers = [
        (asks.where.question(name), i) for i, groups in enumerate(shared) for name in sum(groups, [])
    ]
    texts = with_answers(run.vocab, questions, answers, length)
    texts += with_answers(run.vocab, [f"{name}. {MASK}" for name in names], answers, length)
    texts += [(text, 1) for text in name_texts(run.vocab, names, length)]
    texts += with_answers(
        run.vocab, [name for name, _ in strangers], [answers[i] for _, i in strangers], length
    )
    reads = read_texts(GPT(config.model), params, [text for text, _ in texts], [given for _, given in texts])
    gains = [of.gain_T[given - 1 :] if given else np.zeros(0) for of, (_, given) in zip(reads, texts)]
    logs = np.array([gain_T.sum() if len(gain_T) else WORST for gain_T in gains], float)
    n = len(answers)
    lead_N = [of.lead_T[given - 1 :].min() if given else WORST for of, (_, given) in zip(reads[:n], texts)]
    cloze_N = logs[n : 2 * n]
    if not CLOZE_OBJECTIVES & weights(recipe_of(run.config, "pretrain")).keys():
        cloze_N = np.zeros(n)
    known_N = of_reads(names, reads[2 * n : 3 * n])
    rest, strangers_N = iter(np.exp(logs[3 * n :])), np.zeros(n)
    for i, groups in enumerate(shared):
        strangers_N[i] = max([np.mean([next(rest) for _ in group]) for group in groups if group], default=0)
    log_strangers_N = np.log(np.maximum(strangers_N, np.exp(WORST)))
    columns = {"log_probability": logs[:n], "lead": lead_N, "votes": np.zeros(n), "cloze": cloze_N}
    columns |= {"familiarity": known_N, "strangers": log_strangers_N}
    return np.array([columns[name] for name in FEATURES]).T


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Turns evidence into a confidence, and a confidence into a probability.

    Attributes:
      mean_F, spread_F: the mean and the standard deviation of each feature among the pairs of the fit.
      weight_F, bias: of the logistic regression on the standardized features.
      clean: (confidence, right) of other pairs, for the probability.
    """

    mean_F: np.ndarray
    spread_F: np.ndarray
    weight_F: np.ndarray
    bias: float
    clean: tuple[tuple[float, bool], ...] = ()

    def confidence(self, table_NF: np.ndarray) -> np.ndarray:
        """Returns the confidence of each answer, from 0 to 1."""
        score_N = (table_NF - self.mean_F) / self.spread_F @ self.weight_F + self.bias
        return 1 / (1 + np.exp(-np.clip(score_N, -500, 500)))

    def probability(self, confidences: Sequence[float]) -> list[tuple[float, float, float]]:
        """Returns the probability that each answer is right, and its interval: (probability, low, high).

        The two ends are the isotonic regression of the clean pairs and the answer, first taken as wrong, then
        as right. The probability is high / (1 - low + high), as in Venn-Abers prediction.
        """
        found = []
        for confidence in confidences:
            low, high = (_isotonic([*self.clean, (confidence, right)], confidence) for right in (False, True))
            found.append((high / (1 - low + high), low, high))
        return found


def fit(table_NF: np.ndarray, right: ArrayLike) -> Calibration:
    """Fits a logistic regression.

    Raises:
      UserError: scikit-learn is not installed, or all answers are right, or all wrong.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise UserError("calibration needs scikit-learn: pip install scikit-learn") from None
    right_N = np.asarray(right, bool)
    if not len(right_N) or right_N.all() or not right_N.any():
        all_of = f"all {len(right_N)} answers are {'right' if right_N.any() else 'wrong'}"
        raise UserError(f"{all_of if len(right_N) else 'there are no answers'}: calibration needs both kinds")
    mean_F, spread_F = table_NF.mean(0), table_NF.std(0)
    spread_F = np.where(spread_F > 0, spread_F, 1.0)
    model = LogisticRegression().fit((table_NF - mean_F) / spread_F, right_N)
    return Calibration(mean_F, spread_F, model.coef_[0], float(model.intercept_[0]))


def _isotonic(pairs: Sequence[tuple[float, bool]], at: float) -> float:
    """Returns the isotonic regression of right on confidence, at one of the confidences.

    Take the mean of right over a range of confidences that includes this one. For each beginning of the range
    the end with the lowest mean counts, and of these means the highest is the result (the max-min formula:
    Barlow et al., Statistical Inference under Order Restrictions, 1972). SciPy takes longer to import.
    """
    confidence_N, right_N = np.array(sorted(pairs), float).T
    first_N = np.searchsorted(confidence_N, confidence_N, "left")
    last_N = np.searchsorted(confidence_N, confidence_N, "right")
    first, last = np.searchsorted(confidence_N, at, "left"), np.searchsorted(confidence_N, at, "right")
    sum_N = np.concatenate([[0.0], np.cumsum(right_N)])
    begins, ends = np.unique(first_N[:last]), np.unique(last_N[first:])
    mean_NN = (sum_N[ends][None] - sum_N[begins][:, None]) / (ends[None] - begins[:, None])
    return float(mean_NN.min(1).max())


def calibration_error(confidences: ArrayLike, right: ArrayLike, bins: int = 10) -> float:
    """Returns the expected calibration error over bins of equal mass.

    It is the mean distance between a bin's mean confidence and its share of right answers, weighted by size.
    """
    order = np.argsort(np.asarray(confidences), kind="stable")
    confidence_N, right_N = np.asarray(confidences, float)[order], np.asarray(right, float)[order]
    parts = [part for part in np.array_split(np.arange(len(order)), bins) if len(part)]
    return sum(abs(confidence_N[p].mean() - right_N[p].mean()) * len(p) for p in parts) / len(order)


def perfect_error(confidences: ArrayLike, rng: np.random.Generator, draws: int = 1_000) -> float:
    """Returns the 95 % quantile of the calibration error if each confidence were the exact probability."""
    confidence_N = np.asarray(confidences, float)
    errors = [
        calibration_error(confidence_N, rng.random(len(confidence_N)) < confidence_N) for _ in range(draws)
    ]
    return float(np.quantile(errors, 0.95))


def risk_and_coverage(confidences: ArrayLike, right: ArrayLike) -> np.ndarray:
    """Returns (N,): the share of wrong answers among the 1, 2, ... N most confident ones."""
    order = np.argsort(-np.asarray(confidences, float), kind="stable")
    return np.cumsum(~np.asarray(right, bool)[order]) / np.arange(1, len(order) + 1)
