"""Calibrates a run on held-out pairs, and keeps the calibration in a file.

    made = calibrate(asked, config)
    save(made, folder / "calibration.json")
    made = load(folder / "calibration.json", digests)   # refused if it belongs to another run

The last held-out pairs fit the logistic regression. The first ones, the clean pairs, measure it, give its
probabilities, and set the thresholds of promises (`answer/guarantee.py`). Choose recipes on the last ones
only, or promises are void.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from kgpt_jax.answer import guarantee
from kgpt_jax.answer.confidence import (
    FEATURES,
    WORST,
    Calibration,
    calibration_error,
    evidence,
    fit,
    perfect_error,
    risk_and_coverage,
)
from kgpt_jax.answer.guarantee import Promise
from kgpt_jax.answer.predict import unlearned
from kgpt_jax.answer.score import auroc
from kgpt_jax.config import Config, UserError
from kgpt_jax.data import corpus
from kgpt_jax.data.holdout import fingerprints, learned_rows
from kgpt_jax.data.names import Frame, frame
from kgpt_jax.store.folder import Run
from kgpt_jax.store.params import params_digest

FILE = "calibration.json"
LEAST = 20  # pairs of each part
UNKNOWN_SHARE = 0.02  # of the pairs of the fit have names that count as unknown
FAMILIARITY = list(FEATURES).index("familiarity")


class Quality(NamedTuple):
    """How good the confidences of the clean pairs are.

    Attributes:
      n: the number of pairs.
      accuracy: the share of right answers.
      auroc: how well the confidence tells right from wrong answers; None if there is one kind only.
      error: the expected calibration error over ten bins of equal mass.
      perfect_error: its 95 % quantile for a predictor that knows the exact probabilities.
      brier: the mean squared distance of the confidence from 1 for right and 0 for wrong answers.
      area: the area under the curve of risk against coverage.
      ideal_area: the same if all right answers came before all wrong ones.
    """

    n: int
    accuracy: float
    auroc: float | None
    error: float
    perfect_error: float
    brier: float
    area: float
    ideal_area: float


class Calibrated(NamedTuple):
    """A calibration with what it belongs to.

    Attributes:
      calibration: turns evidence into confidences and probabilities.
      where: the form of the questions.
      digests: of the parameters of the runs that answer, sorted.
      pairs: fingerprints of the questions used.
      confidences_of_fit: of the pairs that fitted the regression; they decide which thresholds are tried.
      least_familiarity: names that are less familiar count as unknown, in nats; 2 % of the pairs of the fit
        are below.
      known: whether the name of each clean pair counts as known.
      quality: measured on the clean pairs.
    """

    calibration: Calibration
    where: Frame
    digests: list[str]
    pairs: list[str]
    confidences_of_fit: list[float]
    least_familiarity: float
    known: list[bool]
    quality: Quality

    def promise(self, wrong_at_most: float, surely: float) -> Promise:
        """Returns what the clean pairs allow to promise. Raises a UserError if a share is not in 0 .. 1."""
        guarantee.check(wrong_at_most, surely)
        confidences, right = zip(*self.calibration.clean)
        # Answers about unknown names are withheld, so they must not count as given here either.
        given = [confidence if known else -1.0 for confidence, known in zip(confidences, self.known)]
        thresholds = guarantee.grid(self.confidences_of_fit, len(right), wrong_at_most, surely)
        return guarantee.promise(given, right, thresholds, wrong_at_most, surely)

    def threshold(self, wrong_at_most: float | None, surely: float) -> float:
        """Returns the least confidence of an answer that may be given; 0 if nothing is to be promised.

        Raises:
          UserError: the promise cannot be made, or a share is not in 0 .. 1.
        """
        if wrong_at_most is None:
            return 0.0
        found = self.promise(wrong_at_most, surely)
        if found.threshold is None:
            raise UserError(
                f"--wrong_at_most={wrong_at_most:g} cannot be promised with {self.quality.n} pairs: of the "
                f"{found.answered} surest answers {found.wrong} are wrong, and it takes {found.needed} right "
                "ones without an error"
            )
        return found.threshold


class Sure(NamedTuple):
    """An answer and how sure it is.

    Attributes:
      answer: the vote of all models.
      known: whether the runs know the name; if not, the other figures mean nothing.
      confidence: from 0 to 1; promises have thresholds on it.
      probability: that the answer is right.
      interval: of the probability.
    """

    answer: str
    known: bool
    confidence: float
    probability: float
    interval: tuple[float, float]


def calibrate(asked: Sequence[tuple[Run, Config, object]], config: Config, n_fit: int = 0) -> Calibrated:
    """Calibrates runs on the held-out training pairs.

    Args:
      asked: runs with their fitting configs and parameters; all of their models vote.
      config: `config.data` names the pairs, and `data.n_validation` says how many are held out.
      n_fit: how many of them, the last ones, fit the regression; 0 takes a third.

    Raises:
      UserError: no pairs are held out, there are too few, all answers are right or all wrong, or a run has
        learned the answers.
    """
    if not config.data.n_validation:
        raise UserError(
            "calibration needs pairs that the run has not learned: train with, say, "
            "--config.data.n_validation=600, and give it here, too"
        )
    table = corpus.load_questions(config.data)
    rows = unlearned([run for run, *_ in asked], table.questions, config.data)
    questions = [table.questions[i] for i in rows]
    all_targets = table.answers or []  # held-out pairs have answers
    targets = [all_targets[i] for i in rows]
    n_fit = n_fit or len(rows) // 3
    if min(n_fit, len(rows) - n_fit) < LEAST:
        raise UserError(
            f"{len(rows)} held-out pairs, {n_fit} of them for the fit: calibration needs {LEAST} for the fit "
            f"and {LEAST} clean ones"
        )
    where = frame([question for question, _ in corpus.load_pairs(config.data).pairs])
    found = evidence(asked, where, questions)
    right_N = np.array([is_right(answer, target) for answer, target in zip(found.answers, targets)])
    clean, last = slice(len(rows) - n_fit), slice(len(rows) - n_fit, None)
    fitted = fit(found.table_NF[last], right_N[last])
    confidence_N = fitted.confidence(found.table_NF)
    pairs = tuple((float(c), bool(r)) for c, r in zip(confidence_N[clean], right_N[clean]))
    familiarity_N = found.table_NF[:, FAMILIARITY]
    least_familiarity = float(np.quantile(familiarity_N[last], UNKNOWN_SHARE))
    return Calibrated(
        dataclasses.replace(fitted, clean=pairs),
        where,
        sorted(params_digest(params) for *_, params in asked),
        fingerprints(questions),
        [float(confidence) for confidence in confidence_N[last]],
        least_familiarity,
        _known(familiarity_N[clean], least_familiarity),
        quality(confidence_N[clean], right_N[clean]),
    )


def is_right(answer: str, target: str) -> bool:
    """Returns whether an answer is right: an exact match, as in evaluation."""
    return answer == target


def quality(confidences: ArrayLike, right: ArrayLike) -> Quality:
    """Measures confidences against the truth."""
    confidence_N, right_N = np.asarray(confidences, float), np.asarray(right, bool)
    both = right_N.any() and not right_N.all()
    wrong = 1 - right_N.mean()
    best_N = risk_and_coverage(right_N, right_N)
    return Quality(
        len(right_N),
        float(1 - wrong),
        auroc(confidence_N[right_N], confidence_N[~right_N]) if both else None,
        calibration_error(confidence_N, right_N),
        perfect_error(confidence_N, np.random.default_rng(0)),
        float(np.mean((confidence_N - right_N) ** 2)),
        float(risk_and_coverage(confidence_N, right_N).mean()),
        float(best_N.mean()),
    )


def save(made: Calibrated) -> str:
    """Returns a calibration as JSON."""
    calibration = made.calibration
    return json.dumps(
        {
            "parameters": made.digests,
            "question": made.where._asdict(),
            "features": {
                name: {"mean": mean, "spread": spread, "weight": weight}
                for name, mean, spread, weight in zip(
                    FEATURES,
                    calibration.mean_F.tolist(),
                    calibration.spread_F.tolist(),
                    calibration.weight_F.tolist(),
                )
            },
            "bias": calibration.bias,
            "quality": made.quality._asdict(),
            "confidences_of_fit": made.confidences_of_fit,
            "least_familiarity": made.least_familiarity,
            "clean": [list(pair) for pair in calibration.clean],
            "known": made.known,
            "pairs": made.pairs,
        },
        indent=1,
    )


def load(path: Path, digests: Sequence[str]) -> Calibrated:
    """Reads a calibration.

    Args:
      path: the file.
      digests: of the parameters of the runs that are to answer.

    Raises:
      UserError: the file cannot be read, or belongs to other runs.
    """
    again = "run --mode=calibrate again"
    try:
        there = json.loads(path.read_text("utf-8"))
        columns = [
            [float(there["features"][name][key]) for name in FEATURES] for key in ("mean", "spread", "weight")
        ]
        calibration = Calibration(
            np.array(columns[0]),
            np.array(columns[1]),
            np.array(columns[2]),
            float(there["bias"]),
            tuple((float(confidence), bool(right)) for confidence, right in there["clean"]),
        )
        made = Calibrated(
            calibration,
            Frame(**there["question"]),
            [str(digest) for digest in there["parameters"]],
            [str(mark) for mark in there["pairs"]],
            [float(confidence) for confidence in there["confidences_of_fit"]],
            float(there["least_familiarity"]),
            [bool(known) for known in there["known"]],
            Quality(**there["quality"]),
        )
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {again}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}): {again}") from None
    if made.digests != sorted(digests):
        raise UserError(f"{path} belongs to other parameters than the runs that answer: {again} for these")
    return made


def check_calibrated(folder: Path, wrong_at_most: float | None):
    """Raises a UserError if a promise is asked of a run that is not calibrated."""
    if wrong_at_most is not None and not (folder / FILE).exists():
        raise UserError(f"--wrong_at_most needs {folder / FILE}: run --mode=calibrate first")


def of_runs(asked: Sequence[tuple[Run, Config, object]]) -> Calibrated | None:
    """Returns the calibration in the folder of the first of the runs that answer; None if there is none.

    Raises:
      UserError: it is damaged, or belongs to other runs.
    """
    path = asked[0][0].folder / FILE
    return load(path, [params_digest(params) for *_, params in asked]) if path.exists() else None


def _known(familiarity_N: np.ndarray, least: float) -> list[bool]:
    """Returns whether each name counts as known. Names with unknown letters never do."""
    return [bool(value >= least and value > WORST) for value in familiarity_N]


def sure(
    made: Calibrated,
    asked: Sequence[tuple[Run, Config, object]],
    questions: Sequence[str],
    given: Sequence[list[str]] = (),
) -> list[Sure]:
    """Answers questions, and says how sure each answer is.

    Args:
      made: the calibration of the runs.
      asked: the runs with their fitting configs and parameters.
      questions: the questions. A question of another form than the training questions has no known name.
      given: each model's answers, if they were asked already.
    """
    found = evidence(asked, made.where, questions, given)
    confidences = [float(confidence) for confidence in made.calibration.confidence(found.table_NF)]
    known = _known(found.table_NF[:, FAMILIARITY], made.least_familiarity)
    probabilities = made.calibration.probability(confidences)
    rows = zip(found.answers, known, confidences, probabilities)
    return [Sure(answer, read, sure, p, (low, high)) for answer, read, sure, (p, low, high) in rows]


def refuse_used(made: Calibrated, questions: Sequence[str]):
    """Raises a UserError if a question was used for the calibration, which would flatter its figures."""
    if rows := learned_rows(questions, set(made.pairs)):
        raise UserError(
            f"{len(rows)} of the {len(questions)} questions were used for the calibration, the first "
            f"{questions[rows[0]]!r}: ask others"
        )
