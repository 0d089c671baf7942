"""Kills, interrupts and damages tiny training runs, and counts the failures.

python -m tests.torture [--trials=kill,signal,...] [--times=100] [--seed=0]

Each trial tests one promise; the docstring of its function says how. The command prints the numbers of tries
and failures of each trial, and writes them to `--outputs_path`. The exit status is 1 if anything failed. The
seed decides everything random, but not the moments at which signals arrive.
"""

import json
import os
import random
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from absl import app, flags, logging

from kgpt_jax.config import UserError, check_local
from kgpt_jax.environment import prepare
from kgpt_jax.store.outputs import check, record
from tests.torture.harms import files, harmed, large, not_finite
from tests.torture.kills import full_disk, interrupt, kill, second
from tests.torture.tiny_run import Result

FLAGS = flags.FLAGS
TRIALS = {
    "kill": kill,
    "signal": interrupt,
    "damage": harmed,
    "disk": full_disk,
    "second": second,
    "nan": not_finite,
    "files": files,
    "large": large,
}


def define_flags():
    flags.DEFINE_list("trials", list(TRIALS), f"Some of: {', '.join(TRIALS)}.")
    flags.DEFINE_integer(
        "times", 100, "Repetitions of each trial; the large corpus is tried once.", lower_bound=1
    )
    flags.DEFINE_integer("seed", 0, "Seed of everything random.")
    flags.DEFINE_integer("corpus_mb", 100, "Size of the large corpus.", lower_bound=11)
    flags.DEFINE_string("outputs_path", "runs/torture.json", "File for the results, as JSON.")


def run_trials(names: list[str], times: int, seed: int, folder: Path) -> list[Result]:
    """Runs trials one after another, prints a line about each and returns their results.

    Args:
      names: keys of TRIALS.
      times: how often to repeat each.
      seed: seed of everything random.
      folder: an existing folder; each trial works in `<folder>/<name>`, and all share `<folder>/whole`.
    """
    results = []
    for name in names:
        root = folder / name
        root.mkdir()
        began = time.perf_counter()
        result = TRIALS[name](root, times, random.Random(f"{seed} {name}"))
        results.append(result)
        took = time.perf_counter() - began
        print(f"{result.promise:<56}{result.tried:>5} tried, {len(result.failures)} failed", end="")
        print(f"{'; ' + result.remark if result.remark else ''}  ({took:.0f} s)", flush=True)
        for failure in result.failures[:5]:
            print(f"    {failure}")
    return results


def main(_):
    try:
        check_local("--outputs_path", FLAGS.outputs_path)
        if unknown := [name for name in FLAGS.trials if name not in TRIALS]:
            raise UserError(f"unknown trial {unknown[0]!r}; choose from {', '.join(TRIALS)}")
        path = Path(FLAGS.outputs_path)
        check(path, "trials")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    logging.set_verbosity(logging.FATAL)  # of Orbax
    TRIALS["large"] = partial(large, size=FLAGS.corpus_mb)
    with tempfile.TemporaryDirectory() as folder:
        results = run_trials(FLAGS.trials, FLAGS.times, FLAGS.seed, Path(folder))
    path.write_text(json.dumps([result._asdict() for result in results], indent=1) + "\n")
    record(path, "trials")
    print(f"wrote {path}")
    sys.exit(any(result.failures for result in results))


if __name__ == "__main__":
    prepare()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    define_flags()
    app.run(main)
