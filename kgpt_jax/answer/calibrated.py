"""A calibration, and the file that stores it.

path.write_text(save(made))
made = load(path, digests)                   # refused if it belongs to other runs
made.threshold(wrong_at_most=0.1, surely=0.9)
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kgpt_jax.answer import guarantee, hybrid
from kgpt_jax.answer.confidence import Calibration
from kgpt_jax.answer.evidence import FEATURES, Asks
from kgpt_jax.answer.guarantee import Promise
from kgpt_jax.answer.record import NEVER
from kgpt_jax.answer.voters import Voter
from kgpt_jax.config import UserError
from kgpt_jax.data.names import Frame
from kgpt_jax.store.params import params_digest

CALIBRATION_FILE = "calibration.json"
CANDIDATES = 8  # answers to a question that may come into a set
WITHHELD = -1.0  # a confidence below all thresholds


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
      asks: what questions have in common.
      digests: of the parameters of the runs that answer, sorted.
      pairs: fingerprints of the questions used.
      recites: whether the run recites before it answers (`answer/recite.py`).
      confidences_of_fit: of the pairs that fitted the regression; they decide which thresholds are tried.
      least_familiarity: names that are less familiar count as unknown, in nats; 2 % of the pairs of the fit
        are below.
      known: whether the name of each clean pair counts as known.
      read: what the documents answer to each clean pair, as (probability, right); None where no line is about
        the name. None as a whole if the documents could not be asked.
      read_of_fit: the probability of the documents' answer to each pair of the fit; None as in `read`.
      of_right: the probability of the right answer among the candidates for each clean pair; none if the
        run recites.
      quality: measured on the clean pairs.
    """

    calibration: Calibration
    asks: Asks
    digests: list[str]
    pairs: list[str]
    recites: bool
    confidences_of_fit: list[float]
    least_familiarity: float
    known: list[bool]
    read: list[tuple[float, bool] | None] | None
    read_of_fit: list[float | None] | None
    of_right: list[float]
    quality: Quality

    def given(self, look_up: str = NEVER) -> list[tuple[float, bool]]:
        """Returns (confidence, right) of the answer to each clean pair, from the model or the documents.

        Args:
          look_up: never, unsure or always (`answer/hybrid.py`).

        Raises:
          UserError: answers are to be looked up, and the documents could not be asked.
        """
        if look_up != NEVER and self.read is None:
            raise UserError(
                "nothing can be promised about answers that are looked up: when the run was calibrated, the "
                "documents could not be asked; run --mode=calibrate again"
            )
        pairs = []
        reads = self.read or [None] * len(self.known)
        for (confidence, right), known, there in zip(self.calibration.clean, self.known, reads):
            own = confidence if known else None
            if there and hybrid.wins(there[0], look_up, own):
                pairs.append(there)
            else:  # answers about unknown names are withheld
                pairs.append((WITHHELD if own is None else own, right))
        return pairs

    def promise(self, wrong_at_most: float, surely: float, look_up: str = NEVER) -> Promise:
        """Returns what the clean pairs allow to promise.

        Args:
          wrong_at_most, surely: the promise.
          look_up: as in `given`.

        Raises:
          UserError: a share is not in 0 .. 1, or as for `given`.
        """
        guarantee.check_shares(wrong_at_most=wrong_at_most, surely=surely)
        confidences, right = zip(*self.given(look_up))
        of_fit = self.confidences_of_fit
        if self.read_of_fit:
            both = zip(of_fit, self.read_of_fit)
            of_fit = [there if there and hybrid.wins(there, look_up, own) else own for own, there in both]
        thresholds = guarantee.grid(of_fit, len(right), wrong_at_most, surely)
        return guarantee.promise(confidences, right, thresholds, wrong_at_most, surely)

    def threshold(self, wrong_at_most: float | None, surely: float, look_up: str = NEVER) -> float:
        """Returns the least confidence of an answer that may be given; 0 if nothing is to be promised.

        Raises:
          UserError: the promise cannot be made, or as for `promise`.
        """
        if wrong_at_most is None:
            return 0.0
        found = self.promise(wrong_at_most, surely, look_up)
        if found.threshold is None:
            raise UserError(
                f"--wrong_at_most={wrong_at_most:g} cannot be promised with {self.quality.n} pairs: of the "
                f"{found.answered} surest answers {found.wrong} are wrong, and it takes {found.needed} right "
                "ones without an error"
            )
        return found.threshold

    def least_probability(self, one_of: float) -> float:
        """Returns the least probability of an answer in a set that holds the right one at a level.

        Raises:
          UserError: the level is not in 0 .. 1, or higher than the clean pairs allow.
        """
        guarantee.check_shares(one_of=one_of)
        if self.recites:
            raise UserError(
                "--one_of makes sets of what the model writes without reciting, and it was calibrated with "
                "--recite: leave one of them out"
            )
        least = guarantee.least_probability(self.of_right, one_of)
        if least is None:
            found = sum(value > 0 for value in self.of_right)
            raise UserError(
                f"--one_of={one_of:g} cannot be kept: the right answer is among the {CANDIDATES} likeliest "
                f"for {found} of {len(self.of_right)} pairs"
            )
        return least


def save(made: Calibrated) -> str:
    """Returns a calibration as JSON."""
    calibration = made.calibration
    return json.dumps(
        {
            "parameters": made.digests,
            "question": made.asks.where._asdict(),
            "parts": made.asks.parts,
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
            "read": made.read,
            "read_of_fit": made.read_of_fit,
            "of_right": made.of_right,
            "recites": made.recites,
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
            Asks(Frame(**there["question"]), [(str(first), str(last)) for first, last in there["parts"]]),
            [str(digest) for digest in there["parameters"]],
            [str(mark) for mark in there["pairs"]],
            bool(there["recites"]),
            [float(confidence) for confidence in there["confidences_of_fit"]],
            float(there["least_familiarity"]),
            [bool(known) for known in there["known"]],
            there["read"] and [pair and (float(pair[0]), bool(pair[1])) for pair in there["read"]],
            there["read_of_fit"],
            [float(value) for value in there["of_right"]],
            Quality(**there["quality"]),
        )
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {again}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error!r}): {again}") from None
    if made.digests != sorted(digests):
        raise UserError(f"{path} belongs to other parameters than the runs that answer: {again} for these")
    return made


def of_runs(voters: Sequence[Voter]) -> Calibrated | None:
    """Returns the calibration in the folder of the first of the runs that answer; None if there is none.

    Raises:
      UserError: it is damaged, or belongs to other runs.
    """
    path = voters[0].run.folder / CALIBRATION_FILE
    return load(path, [params_digest(voter.params) for voter in voters]) if path.exists() else None
