"""Audits a run with people who do not exist: does it refuse to answer about them?

    found = audit(run, config)
    found.kinds["recombined"].auroc, found.kinds["recombined"].refused

A run refuses to answer about a name whose familiarity (`answer/familiar.py`) is below a threshold. The threshold
refuses a small share of the people that the run has read of. It is chosen on half of them and measured on the other
half. Nobody in either half is in a training question, so the run knows their names from its documents alone.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kgpt_jax.answer.familiar import familiarity
from kgpt_jax.answer.predict import ask
from kgpt_jax.answer.score import wilson_interval
from kgpt_jax.answer.vote import unpaired_questions
from kgpt_jax.config import Config, UserError
from kgpt_jax.data import corpus, names
from kgpt_jax.store.compatible import check_corpus, fit_to
from kgpt_jax.store.folder import Run
from kgpt_jax.store.params import load_params

READ = "read of"
STRANGERS = {
    "recombined": names.recombined,
    "same last part": names.relatives,
    "one letter changed": names.misspelled,
}
MOST = 1_000  # names of each kind


class Share(NamedTuple):
    """A count among a total, with Wilson's 95 % interval of the share."""

    count: int
    total: int

    @property
    def value(self) -> float | None:
        return self.count / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.count, self.total) if self.total else (0.0, 1.0)


class Kind(NamedTuple):
    """What a run does with names of one kind.

    Attributes:
      n: the number of names.
      auroc: how well familiarity tells people that were read of from these: 1 is perfect, 0.5 is chance.
      auroc_of_length: the same by the shortness of the name, which should tell nothing.
      refused: names whose familiarity is below the threshold.
      most_frequent: among the answers to the rest, the training pairs' most frequent answer.
      nearest: among the answers to the rest, those that are also the answer about the most similar name that was
        read of.
      examples: up to three names with their answers.
    """

    n: int
    auroc: float | None
    auroc_of_length: float | None
    refused: Share
    most_frequent: Share
    nearest: Share
    examples: list[tuple[str, str]]


class Audit(NamedTuple):
    """The result of an audit.

    Attributes:
      frame: the question, with a blank for the name.
      threshold: names whose familiarity is below are refused, in nats.
      most_frequent: the most frequent answer of the training pairs.
      kinds: by kind of name; "read of" is the half of the people on whom the threshold was not chosen.
      familiarities: by kind of name.
    """

    frame: names.Frame
    threshold: float
    most_frequent: str
    kinds: dict[str, Kind]
    familiarities: dict[str, np.ndarray]


def audit(run: Run, config: Config, refuse: float = 0.02) -> Audit:
    """Audits a run with made-up names.

    Args:
      run: the run.
      config: a config that fits it; `config.data` names its documents and training pairs, `config.seed` decides
        the made-up names.
      refuse: the share of people read of that the threshold refuses.

    Raises:
      UserError: the questions do not have one form, or there are too few people to choose the threshold.
    """
    config = fit_to(run, config)
    check_corpus(run, config.data)
    pairs = corpus.load_pairs(config.data).pairs
    where = names.frame([question for question, _ in pairs])
    rng = np.random.default_rng((config.seed, 0))
    everyone = {where.name(question) for question, _ in pairs}
    read = [name for each in unpaired_questions(config, pairs) if (name := where.name(each))]
    everyone |= set(read)
    if len(read) * refuse < 2:
        raise UserError(
            f"{len(read)} people without a training question are too few to refuse {refuse:.1%} of half of them: "
            f"{math.ceil(2 / refuse)} are needed"
        )
    read = [read[i] for i in rng.permutation(len(read))]
    chosen_on, measured = read[: len(read) // 2], read[len(read) // 2 :][:MOST]
    kinds = {READ: measured}
    kinds |= {kind: make(read, everyone, rng)[:MOST] for kind, make in STRANGERS.items()}
    params = load_params(run, "auditing", config.model_devices)

    def known(of: Sequence[str]) -> np.ndarray:
        return familiarity(run, config.model, params, of)

    threshold = float(np.quantile(known(chosen_on), refuse, method="higher"))
    familiarities = {kind: known(of) for kind, of in kinds.items()}
    most_frequent = corpus.most_frequent([answer for _, answer in pairs])
    found = {}
    for kind, of in kinds.items():
        passed = [name for name, value in zip(of, familiarities[kind]) if value >= threshold]
        others = [names.nearest(name, read) for name in passed] if kind != READ else passed
        questions = [where.question(name) for name in (*of, *others)]
        answers = ask(run, config, questions, purpose="", params=params).answers[0]
        answer_of = dict(zip(of, answers))
        of_passed, of_others = [answer_of[name] for name in passed], answers[len(of) :]
        stranger = kind != READ
        found[kind] = Kind(
            len(of),
            auroc(familiarities[READ], familiarities[kind]) if stranger else None,
            auroc([-len(name) for name in measured], [-len(name) for name in of]) if stranger else None,
            Share(len(of) - len(passed), len(of)),
            Share(of_passed.count(most_frequent), len(passed)),
            Share(
                sum(map(str.__eq__, of_passed, of_others)) if stranger else 0, len(passed) if stranger else 0
            ),
            [(name, answer_of[name]) for name in of[:3]],
        )
    return Audit(where, threshold, most_frequent, found, familiarities)


def auroc(positives: Sequence[float], negatives: Sequence[float]) -> float:
    """Returns the area under the ROC curve: the chance that a positive has the higher score, ties counting half.

    >>> auroc([2, 3], [1, 2])
    0.875
    """
    from scipy.stats import rankdata  # here: the import takes up to a second

    n = len(positives)
    ranks = rankdata(np.concatenate([positives, negatives]))[:n]
    return float((ranks.sum() - n * (n + 1) / 2) / (n * len(negatives)))
