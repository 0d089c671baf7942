"""Audits a run with people who do not exist: does it refuse to answer about them?

    found = audit(run, config)
    found.kinds["recombined"].auroc, found.kinds["recombined"].refused

A run refuses to answer about a name whose familiarity (`answer/familiar.py`) is below a threshold. The
threshold refuses a small share of the people that the run has read of. It is chosen on half of them and
measured on the other half. Nobody in either half is in a training question, so the run knows their names from
its documents alone.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kgpt_jax.answer.familiar import familiarity
from kgpt_jax.answer.score import auroc, wilson_interval
from kgpt_jax.answer.voters import ask, load_voters
from kgpt_jax.config import Config, UserError
from kgpt_jax.data import corpus, names
from kgpt_jax.data.holdout import learned_rows
from kgpt_jax.data.people import unpaired_questions
from kgpt_jax.store.compatible import check_corpus, fit_to, learned_by
from kgpt_jax.store.folder import Run

READ_OF = "read of"
MAKERS = {
    "recombined": names.recombined,
    "same last part": names.relatives,
    "one letter changed": names.misspelled,
}
MAX_NAMES = 1_000  # names of each kind
SHUFFLES = 200  # to estimate what links arise by chance


class Share(NamedTuple):
    """A number of cases among a total, with Wilson's 95 % interval of their share."""

    cases: int
    total: int

    @property
    def value(self) -> float | None:
        return self.cases / self.total if self.total else None

    @property
    def interval(self) -> tuple[float, float]:
        return wilson_interval(self.cases, self.total) if self.total else (0.0, 1.0)


class Kind(NamedTuple):
    """What a run does with names of one kind.

    Attributes:
      n: the number of names.
      auroc: how well familiarity tells people that were read of from these: 1 is perfect, 0.5 is chance.
      auroc_of_length: the same by the shortness of the name, which should tell nothing.
      refused: names whose familiarity is below the threshold.
      most_frequent: among the answers to the rest, the training pairs' most frequent answer.
      nearest: among the answers to the rest, those that equal the answer about the most similar name. All
        people are compared, with or without a training question.
      answers: each name with the run's answer, refused or not.
    """

    n: int
    auroc: float | None
    auroc_of_length: float | None
    refused: Share
    most_frequent: Share
    nearest: Share
    answers: list[tuple[str, str]]


class Group(NamedTuple):
    """What a run does with a group of the people that it has read of.

    Attributes:
      answered: those that it does not refuse.
      wrong: among the answered ones whose right answer is known, those whose answer is wrong.
    """

    answered: Share
    wrong: Share


class Link(NamedTuple):
    """A group of made-up names that gets an answer more, or less, often than the other names.

    Attributes:
      group: the group.
      answer: the answer.
      difference: its share inside the group less its share outside.
      p: how often a link as strong arises by chance, from shuffles; of links by chance, 5 % are below 0.05.
    """

    group: str
    answer: str
    difference: float
    p: float


class Audit(NamedTuple):
    """The result of an audit.

    Attributes:
      frame: the question, with a blank for the name.
      threshold: names whose familiarity is below are refused, in nats.
      most_frequent: the most frequent answer of the training pairs.
      kinds: by kind of name; "read of" is the half of the people on whom the threshold was not chosen.
      groups: groups of these people.
      link: the strongest link between a group of recombined names and an answer.
      familiarities: by kind of name.
    """

    frame: names.Frame
    threshold: float
    most_frequent: str
    kinds: dict[str, Kind]
    groups: dict[str, Group]
    link: Link | None
    familiarities: dict[str, np.ndarray]


def audit(run: Run, config: Config, refuse: float = 0.02) -> Audit:
    """Audits a run with made-up names.

    Args:
      run: the run.
      config: a config that fits it; `config.data` names its documents and training pairs, `config.seed`
        decides the made-up names.
      refuse: the share of people read of that the threshold refuses.

    Raises:
      UserError: the questions do not have one form, `refuse` is no share, or there are too few people to
        choose the threshold.
    """
    config = fit_to(run, config)
    check_corpus(run, config.data)
    pairs = corpus.load_pairs(config.data).pairs
    where = names.frame([question for question, _ in pairs])
    rng = np.random.default_rng((config.seed, 0))
    everyone = {name for question, _ in pairs if (name := where.name(question))}
    read = [name for each in unpaired_questions(config.data, pairs) if (name := where.name(each))]
    everyone |= set(read)
    if not 0 < refuse < 1:
        raise UserError(f"refuse is {refuse}: give a share between 0 and 1")
    if len(read) * refuse < 2:
        raise UserError(
            f"there are {len(read)} people without a training question: to refuse {100 * refuse:g} % of half "
            f"of them takes {math.ceil(2 / refuse)}"
        )
    read = [read[i] for i in rng.permutation(len(read))]
    chosen_on, measured = read[: len(read) // 2], read[len(read) // 2 :][:MAX_NAMES]
    kinds = {READ_OF: measured}
    kinds |= {kind: make(read, everyone, rng)[:MAX_NAMES] for kind, make in MAKERS.items()}
    kinds["unknown letter"] = names.foreign(read, run.vocab.characters, rng)[:MAX_NAMES]
    kinds = {kind: of for kind, of in kinds.items() if of}  # names of one part cannot be recombined
    voters = load_voters([(run, config)], "auditing")

    def known(of: Sequence[str]) -> np.ndarray:
        return familiarity(run, config.model, voters[0].params, of)

    threshold = float(np.quantile(known(chosen_on), refuse, method="higher"))
    familiarities = {kind: known(of) for kind, of in kinds.items()}
    most_frequent = corpus.most_frequent([answer for _, answer in pairs])
    found = {}
    for kind, of in kinds.items():
        passed = [name for name, value in zip(of, familiarities[kind]) if value >= threshold]
        others = [] if kind == READ_OF else names.nearest(passed, sorted(everyone))
        questions = [where.question(name) for name in (*of, *others)]
        answers = ask(voters, questions).vote
        answer_of = dict(zip(of, answers))
        of_passed = [answer_of[name] for name in passed]
        agree = [given == other for given, other in zip(of_passed, answers[len(of) :])]
        scores: tuple[float | None, float | None] = (None, None)
        if kind != READ_OF:
            by_length = auroc([-len(name) for name in measured], [-len(name) for name in of])
            scores = auroc(familiarities[READ_OF], familiarities[kind]), by_length
        found[kind] = Kind(
            len(of),
            *scores,
            refused=Share(len(of) - len(passed), len(of)),
            most_frequent=Share(of_passed.count(most_frequent), len(passed)),
            nearest=Share(sum(agree), len(agree)),
            answers=[(name, answer_of[name]) for name in of],
        )
    targets, values = dict(_targets(run, config, where)), dict(zip(measured, familiarities[READ_OF]))
    groups, answer_of = {}, dict(found[READ_OF].answers)
    for label, members in groups_of(measured).items():
        answered = [name for name in members if values[name] >= threshold]
        asked = [name for name in answered if name in targets]
        wrong = sum(answer_of[name] != targets[name] for name in asked)
        groups[label] = Group(Share(len(answered), len(members)), Share(wrong, len(asked)))
    link = strongest_link(found["recombined"].answers, rng) if "recombined" in found else None
    return Audit(where, threshold, most_frequent, found, groups, link, familiarities)


def _targets(run: Run, config: Config, where: names.Frame) -> list[tuple[str, str]]:
    """Returns the names in the evaluation questions that the run has not learned, with the right answers."""
    data = config.data
    built_in = 0 if data.pretrain_corpus_path else data.biographies.n_dev
    if not (data.n_validation or data.eval_corpus_path or built_in):
        return []
    table = corpus.load_questions(data)
    learned = set(learned_rows(table.questions, learned_by([run])))
    named = [where.name(question) for question in table.questions]
    answers = table.answers or []
    return [
        (name, answer) for i, (name, answer) in enumerate(zip(named, answers)) if name and i not in learned
    ]


def groups_of(people: Sequence[str]) -> dict[str, list[str]]:
    """Returns groups of names, by what anyone can see in a name: its length, its parts, its letters."""
    low, high = np.quantile([len(name) for name in people], [1 / 3, 2 / 3])
    firsts = Counter(parts[0] for name in people if (parts := names.divided(name)))
    tests = {
        "short": lambda name: len(name) <= low,
        "long": lambda name: len(name) > high,
        "more than two words": lambda name: len(name.split()) > 2,
        "first letter A to M": lambda name: name[:1].upper() <= "M",
        "letters beyond ASCII": lambda name: not name.isascii(),
        "a first part of its own": lambda name: firsts.get((names.divided(name) or ("",))[0], 1) == 1,
    }
    groups = {"all": list(people)} | {
        label: [name for name in people if test(name)] for label, test in tests.items()
    }
    return {label: members for label, members in groups.items() if len(members) >= 10}


def strongest_link(answers: Sequence[tuple[str, str]], rng: np.random.Generator) -> Link | None:
    """Finds the group of names and the answer that go together most, and whether by more than chance.

    The strength of a link is the difference between the answer's share inside and outside of the group, in
    standard errors. It is compared with the strongest link after answers were shuffled among the names.

    Args:
      answers: (name, answer).
      rng: decides the shuffles.

    Returns:
      The link, or None if no group has ten names inside and outside.
    """
    people = [name for name, _ in answers]
    groups = {
        label: np.isin(people, members)
        for label, members in groups_of(people).items()
        if 10 <= len(members) <= len(people) - 10
    }
    if not groups:
        return None
    labels, member_GN = list(groups), np.array(list(groups.values()), float)
    places, place_N = np.unique([answer for _, answer in answers], return_inverse=True)
    is_place_NP = (place_N[:, None] == np.arange(len(places))[None]).astype(float)
    inside_G1 = member_GN.sum(1, keepdims=True)
    outside_G1 = len(people) - inside_G1
    share_1P = is_place_NP.mean(0, keepdims=True)
    error_GP = np.sqrt(np.maximum(share_1P * (1 - share_1P), 1e-12) * (1 / inside_G1 + 1 / outside_G1))

    def differences(order: np.ndarray) -> np.ndarray:
        count_GP = member_GN @ is_place_NP[order]
        return count_GP / inside_G1 - (share_1P * len(people) - count_GP) / outside_G1

    there_GP = differences(np.arange(len(people)))
    strength_GP = np.abs(there_GP) / error_GP
    g, p = np.unravel_index(int(strength_GP.argmax()), strength_GP.shape)
    by_chance = [
        (np.abs(differences(rng.permutation(len(people)))) / error_GP).max() >= strength_GP[g, p]
        for _ in range(SHUFFLES)
    ]
    return Link(labels[g], str(places[p]), float(there_GP[g, p]), (1 + sum(by_chance)) / (1 + SHUFFLES))
