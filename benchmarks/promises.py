"""Measures how often promises about errors are broken: python -m benchmarks.promises --calibration=FILE

FILE is the calibration.json of a run (--mode=calibrate). Its clean pairs stand for all people that one could
ask about, so that the true share of wrong answers above a threshold is known. In each of 500 trials, pairs
are drawn from them, with replacement, and set the threshold. A promise of 90 % may break in 10 % of trials.
For comparison, the naive threshold is the lowest at which the drawn pairs themselves keep the promise.
"""

import json
from pathlib import Path

import numpy as np
from absl import app, flags

from benchmarks.report import guarded
from kgpt_jax.answer import guarantee
from kgpt_jax.answer.calibrated import WITHHELD, load
from kgpt_jax.answer.score import percent, wilson_interval

TRIALS, SURELY = 500, 0.9
FLAGS = flags.FLAGS


def naive(confidence_N: np.ndarray, right_N: np.ndarray, wrong_at_most: float) -> float | None:
    """Returns the least confidence from which on the pairs' own share of errors keeps the promise."""
    values = np.unique(confidence_N[confidence_N > WITHHELD])
    return next((float(v) for v in values if (~right_N[confidence_N >= v]).mean() <= wrong_at_most), None)


def main(_):
    path = Path(FLAGS.calibration)
    made = load(path, json.loads(path.read_text("utf-8"))["parameters"])
    confidence_N, right_N = map(np.array, zip(*made.given()))
    rng = np.random.default_rng(0)
    print(f"{len(right_N)} clean pairs, {FLAGS.n_pairs} of them drawn in each of {TRIALS} trials")
    for wrong_at_most in (0.1, 0.05):
        thresholds = guarantee.grid(made.confidences_of_fit, FLAGS.n_pairs, wrong_at_most, SURELY)
        for name in ("promise", "naive"):
            broken, answered = 0, []
            for _ in range(TRIALS):
                drawn = rng.integers(len(right_N), size=FLAGS.n_pairs)
                pairs = confidence_N[drawn], right_N[drawn]
                if name == "naive":
                    threshold = naive(*pairs, wrong_at_most)
                else:
                    threshold = guarantee.promise(*pairs, thresholds, wrong_at_most, SURELY).threshold
                given_N = confidence_N >= (np.inf if threshold is None else threshold)
                answered.append(given_N.mean())
                broken += bool(given_N.any()) and (~right_N[given_N]).mean() > wrong_at_most
            print(
                f"wrong at most {wrong_at_most:.0%}, {name}: broken in {broken / TRIALS:.1%} "
                f"({percent(wilson_interval(broken, TRIALS))}), answers {np.mean(answered):.1%} on average"
            )


if __name__ == "__main__":
    flags.DEFINE_string("calibration", None, "A calibration.json.", required=True)
    flags.DEFINE_integer("n_pairs", 400, "Pairs that set the threshold.", lower_bound=1)
    app.run(guarded(main))
