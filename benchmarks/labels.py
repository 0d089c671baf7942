"""Measures the labels of answers against what models that never read of a person say.

    python -m benchmarks.labels --outputs_path=runs/labels

Each of 16 models reads about a random half of the same made-up people. A third of the last names tell the
birthplace: everyone of that name was born in the same place. The models that have not read of a person decide
what another model's answer about that person is:

    guessed from the name   half of them or more give the same answer
    read                    they do not, the model has read of the person, and the answer is right
    made up                 anything else

The labels at run time use one model alone (`kgpt_jax/answer/label.py`). Some people are in the training
pairs, some calibrate, and N_ASKED are asked about. The constants of the labels were chosen by five-fold
cross-validation on those who calibrate. The truth is uncertain, too. To measure how much, the command splits
the models that have not read of a person into halves, and compares what they decide. It resumes by itself,
and writes labels.json.
"""

import dataclasses
import json
import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
from absl import app, flags

import kgpt_jax
from benchmarks.report import guarded
from kgpt_jax.answer.calibrate import LEAST_PAIRS, calibrate
from kgpt_jax.answer.evidence import WORST
from kgpt_jax.answer.label import GUESSED, LABELS, MADE_UP, READ, label
from kgpt_jax.answer.record import Sure
from kgpt_jax.answer.score import auroc
from kgpt_jax.answer.sure import Judge
from kgpt_jax.answer.voters import Voter, ask
from kgpt_jax.data.biographies import FACTS, FIRST, LAST, PLACES
from kgpt_jax.store.compatible import fit_to
from kgpt_jax.store.outputs import check, write_lines

MODELS, COPIES = 16, 5
N_TRAIN, N_CALIBRATE, N_ASKED = 220, 290, 130
N_LAST = 63  # last names; a third of them tell the place
FLAGS = flags.FLAGS


class Person(NamedTuple):
    """A made-up person."""

    name: str
    place: str


def people(rng: np.random.Generator) -> list[Person]:
    """Draws people with different names. Every third last name tells its place."""
    lasts = [str(last) for last in rng.permutation(LAST)[:N_LAST]]
    firsts, n = list(FIRST), N_TRAIN + N_CALIBRATE + N_ASKED
    told = {last: str(rng.choice(PLACES)) for last in lasts[::3]}
    chosen = rng.permutation(len(firsts) * len(lasts))[:n]
    drawn = [(firsts[i // len(lasts)], lasts[i % len(lasts)]) for i in chosen]
    return [Person(f"{first} {last}", told.get(last) or str(rng.choice(PLACES))) for first, last in drawn]


def halves(n: int, rng: np.random.Generator) -> np.ndarray:
    """Returns (MODELS, n) of bool: whom each model reads of. Everyone is in exactly half of the rows."""
    rows = []
    for _ in range(MODELS // 2):
        chosen_N = np.zeros(n, bool)
        chosen_N[rng.permutation(n)[: n // 2]] = True
        rows += [chosen_N, ~chosen_N]
    return np.array(rows)


def documents(of: list[Person], rng: np.random.Generator) -> list[str]:
    """Returns COPIES differently worded biographies of each person, shuffled."""
    wordings = FACTS["birthplace"]
    lines = [
        wordings[w].format(name=person.name, value=person.place)
        for person in of
        for w in rng.permutation(len(wordings))[:COPIES]
    ]
    return [lines[i] for i in rng.permutation(len(lines))]


def question(person: Person) -> str:
    return f"Where was {person.name} born?"


def train(folder: Path, read: list[Person], pairs: list[Person], held_out: list[Person]) -> kgpt_jax.Run:
    """Trains a model on documents about people and on questions about some of them.

    Args:
      folder: of the run.
      read: the people in the documents.
      pairs: those whose question is trained on.
      held_out: those whose question is held out for calibration.
    """
    config = kgpt_jax.load_recipe("quickstart")
    lines = documents(read, np.random.default_rng(0))
    pretrained = kgpt_jax.pretrain(config, lines, folder)
    table = [(question(person), person.place) for person in [*pairs, *held_out]]
    config = dataclasses.replace(
        pretrained.config, data=dataclasses.replace(pretrained.config.data, n_validation=len(held_out))
    )
    return kgpt_jax.finetune(pretrained, table, config=config)


def answers_of(run: kgpt_jax.Run, asked: list[Person]) -> list[Sure]:
    """Calibrates a run on its held-out pairs, and returns its labelled answers."""
    stored = run._stored
    config = fit_to(stored, run.config)
    voters = [Voter(stored, config, run.params)]
    # Few answers are wrong, and the regression needs some, so all but the fewest clean pairs fit it.
    made = calibrate(voters, config.data, n_fit=config.data.n_validation - LEAST_PAIRS)
    questions = [question(person) for person in asked]
    found = Judge(voters, made).sure(questions, ask(voters, questions))
    return [sure for sure in found if sure]


def truth(
    answers: list[list[str]], read_MN: np.ndarray, asked: list[Person], voters: slice = slice(None)
) -> list[list[str]]:
    """Returns the true label of each model's answer about each person.

    Args:
      answers: of each model about each person.
      read_MN: whom each model has read of.
      asked: the people.
      voters: which of the models that have not read of a person decide.
    """
    found = []
    for model, of_model in enumerate(answers):
        labels = []
        for n, (person, answer) in enumerate(zip(asked, of_model)):
            unread = [k for k in range(len(answers)) if k != model and not read_MN[k, n]][voters]
            same = np.mean([answers[k][n] == answer for k in unread]) if unread else 0.0
            was_read = read_MN[model, n] and answer == person.place
            labels.append(GUESSED if same >= 0.5 else READ if was_read else MADE_UP)
        found.append(labels)
    return found


def f1(given: np.ndarray, true: np.ndarray, label: str) -> float:
    """Returns the harmonic mean of precision and recall of one label."""
    both = ((given == label) & (true == label)).sum()
    return float(2 * both / max((given == label).sum() + (true == label).sum(), 1))


def measure(given_MN: np.ndarray, true_MN: np.ndarray) -> dict[str, float]:
    """Returns F1 by label, their mean, and the precision of `read`. `not sure` counts as a miss."""
    found = {label: f1(given_MN, true_MN, label) for label in (READ, GUESSED, MADE_UP)}
    said = given_MN == READ
    return found | {
        "macro F1": float(np.mean(list(found.values()))),
        "precision of read": float((true_MN[said] == READ).mean()),
    }


def with_intervals(given_MN: np.ndarray, true_MN: np.ndarray, rng: np.random.Generator, draws: int = 500):
    """Returns each figure with its 95 % interval, by a bootstrap over the people."""
    n = given_MN.shape[1]
    chosen = [rng.integers(n, size=n) for _ in range(draws)]
    drawn = [measure(given_MN[:, chosen_N], true_MN[:, chosen_N]) for chosen_N in chosen]
    ends = {name: np.quantile([each[name] for each in drawn], [0.025, 0.975]) for name in drawn[0]}
    return {name: (value, *map(float, ends[name])) for name, value in measure(given_MN, true_MN).items()}


def main(_):
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    path = Path(FLAGS.outputs_path, "labels.json")
    check(path, "measured labels")
    rng = np.random.default_rng(FLAGS.seed)
    everyone = people(rng)
    read_MN = halves(len(everyone), rng)
    position_N = np.arange(len(everyone))
    train_N, asked_N = position_N < N_TRAIN, position_N >= N_TRAIN + N_CALIBRATE
    asked = [person for person, chosen in zip(everyone, asked_N) if chosen]
    sure_MN = []
    for number, read_N in enumerate(read_MN):
        groups = [
            [person for person, chosen in zip(everyone, mask_N) if chosen]
            for mask_N in (read_N, read_N & train_N, read_N & ~train_N & ~asked_N)
        ]
        sure_MN.append(answers_of(train(path.parent / str(number), *groups), asked))
    read_MN = read_MN[:, asked_N]
    answers = [[each.answer for each in of_model] for of_model in sure_MN]
    true_MN = np.array(truth(answers, read_MN, asked))
    given_MN = np.array([[each.label for each in of_model] for of_model in sure_MN])
    by_confidence_MN = np.array(
        [[label(each.known, each.confidence, WORST) for each in of_model] for of_model in sure_MN]
    )
    known_MN = np.array([[each.evidence["familiarity"] for each in of_model] for of_model in sure_MN])
    halved = slice(MODELS // 4), slice(MODELS // 4, None)
    two_truths = [np.array(truth(answers, read_MN, asked, voters)) for voters in halved]
    result = {
        "labels": with_intervals(given_MN, true_MN, rng),
        "by confidence and familiarity alone": with_intervals(by_confidence_MN, true_MN, rng),
        "the truth by some models against that by others": with_intervals(two_truths[0], two_truths[1], rng),
        "AUROC of familiarity, people read of against people left out": [
            auroc(known_N[read_N], known_N[~read_N]) for known_N, read_N in zip(known_MN, read_MN)
        ],
        "confusion": {
            true: {given: int(((true_MN == true) & (given_MN == given)).sum()) for given in LABELS}
            for true in (READ, GUESSED, MADE_UP)
        },
        "answers": [
            [
                dict(zip(("name", "place", "read", "true"), (*person, bool(was_read), true))) | each._asdict()
                for person, each, was_read, true in zip(asked, *row)
            ]
            for row in zip(sure_MN, read_MN, true_MN.tolist())
        ],
    }
    write_lines(path, [json.dumps(result, indent=1)], "measured labels")
    for title in list(result)[:3]:
        print(f"{title}:")
        for name, (value, low, high) in result[title].items():
            print(f"  {name:<22}{value:.3f}  95% interval {low:.3f} to {high:.3f}")
    scores = list(result.values())[3]
    print(f"AUROC of familiarity, read of against left out: {min(scores):.4f} to {max(scores):.4f}")
    print(f"{'truth, answers':<24}" + "".join(f"{given:>24}" for given in LABELS))
    for true, row in result["confusion"].items():
        print(f"{true:<24}" + "".join(f"{count:>24}" for count in row.values()))


if __name__ == "__main__":
    flags.DEFINE_string("outputs_path", "runs/labels", "Folder of the runs and of labels.json.")
    flags.DEFINE_integer("seed", 0, "Decides the people, and who reads of whom.")
    app.run(guarded(main))
