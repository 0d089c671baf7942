"""A speedrun: how many minutes does a recipe need until its models answer a given share of questions right?

    python -m benchmarks.speedrun --target=0.75 --pretrain_corpus_path=wiki.txt \
        --finetune_corpus_path=birth_places_train.tsv

trains one model after the other, with the seeds 1 to --seeds, from nothing: no checkpoint, no compiled
program. The clock runs from the start of the first command to the end of the last: pretrain, finetune,
evaluate. For each seed, the command prints the minutes and how many questions are answered right, and in the
end whether the mean over the seeds reaches the target. docs/speedrun.md has the rules and the records.

The last 600 training pairs are held out. --questions=clean, for records, counts the answers about the first
397 of their questions. --questions=spent, for trials, counts the others, on which this project's recipes were
chosen.

The pretrained model recites what it has read. For a recipe whose models answer directly, give --norecite and
--finetune. Further settings follow `--`, as in `-- --config.pretrain.epochs=40`.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from os import environ
from pathlib import Path
from typing import NamedTuple

from absl import app, flags

from benchmarks.report import guarded, machine
from kgpt_jax.answer.score import Score, mean_interval, percent
from kgpt_jax.data.holdout import parts
from kgpt_jax.modes.evaluate import beside

N_HELD_OUT, N_SPENT = 600, 198  # five of the 600 are also in earlier pairs and do not count: 595 remain
PREDICTIONS = "predictions.txt"
MOST_PARAMETERS, SEEDS = 3_330_000, 3
FIXED = (
    "config.data",
    "seed",
    "mode",
    "workdir",
    "reading_params_path",
    "writing_params_path",
    "outputs_path",
)
FLAGS = flags.FLAGS


class Run(NamedTuple):
    """The training of one model.

    Attributes:
      seconds: of each command.
      score: the right answers.
      parameters: of the model, without the reader.
    """

    seconds: dict[str, float]
    score: Score
    parameters: int

    @property
    def minutes(self) -> float:
        """From the start of the first command to the end of the last."""
        return sum(self.seconds.values()) / 60


def commands(values, seed: int, folder: Path, settings: list[str]) -> dict[str, list[str]]:
    """Returns the arguments of each command that a model needs, from pretraining to its evaluation.

    Args:
      values: has an attribute for each of this command's flags.
      seed: of the model.
      folder: for its runs and its answers.
      settings: further flags of all commands.
    """
    shared = [f"--seed={seed}", f"--workdir={folder}", f"--config.data.n_validation={N_HELD_OUT}"]
    for name in ("variant", "config", "pretrain_corpus_path", "finetune_corpus_path"):
        shared.append(f"--{name}={getattr(values, name)}")
    modes = ["pretrain"] + ["finetune"] * values.finetune
    asked = [
        f"--reading_params_path={folder / values.variant / modes[-1]}",
        f"--outputs_path={folder / PREDICTIONS}",
    ]
    arguments = {mode: [f"--mode={mode}", *shared, *settings] for mode in [*modes, "evaluate"]}
    arguments["evaluate"] += [*asked, *["--recite"] * values.recite]
    return arguments


def score(rows: list[dict], asked: str) -> Score:
    """Returns how many of the clean or the spent questions are answered right.

    Args:
      rows: the records of answers.jsonl, in the order of the questions.
      asked: clean or spent.
    """
    clean, spent = parts([row["question"] for row in rows], N_SPENT)
    chosen = clean if asked == "clean" else spent
    return Score(sum(rows[i]["right"] for i in chosen), len(chosen))


def run(seed: int, settings: list[str]) -> Run:
    """Trains and evaluates one model in an empty folder, with an empty cache of compiled programs."""
    with tempfile.TemporaryDirectory() as name:
        folder, seconds = Path(name), {}
        environment = {**environ, "XDG_CACHE_HOME": name}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        for mode, arguments in commands(FLAGS, seed, folder, settings).items():
            # The score of all questions would tell that of the clean ones during trials.
            shown = subprocess.DEVNULL if mode == "evaluate" else sys.stderr
            command = [sys.executable, "-m", "kgpt_jax.main", *arguments]
            began = time.perf_counter()
            subprocess.run(command, env=environment, stdout=shown, check=True)
            seconds[mode] = time.perf_counter() - began
        predictions = folder / PREDICTIONS
        lines = beside(predictions, "answers", ".jsonl").read_text("utf-8").splitlines()
        results = json.loads(beside(predictions, "results", ".json").read_text("utf-8"))
        return Run(
            seconds,
            score([json.loads(line) for line in lines], FLAGS.questions),
            results["config"]["model_num_parameters"],
        )


def verdict(done: list[Run], target: float, is_record: bool) -> str:
    """Returns the last line: accuracy and minutes over all seeds, and whether the target is reached.

    Args:
      done: one run for each seed.
      target: the accuracy to reach.
      is_record: whether these are the questions and the settings of a record.
    """
    accuracies, minutes = [run.score.accuracy for run in done], [run.minutes for run in done]
    mean = statistics.mean(accuracies)
    spread = f" ({percent(mean_interval(accuracies))} over seeds)" if len(done) > 1 else ""
    if not is_record or len(done) < SEEDS:
        reached = "a trial, no record"
    elif max(run.parameters for run in done) > MOST_PARAMETERS:
        reached = f"no record, because the model has more than {MOST_PARAMETERS:,} parameters"
    else:
        reached = f"{target:.1%} {'reached' if mean >= target else 'not reached'}"
    return (
        f"mean of {len(done)}: {mean:.1%}{spread} in {statistics.mean(minutes):.1f} minutes "
        f"({min(minutes):.1f} to {max(minutes):.1f}): {reached}"
    )


def main(argv):
    fixed = [one for one in argv[1:] if one.lstrip("-").startswith(FIXED)]
    if fixed:
        sys.exit(f"error: {fixed[0]} would change what is measured: leave it out")
    done = []
    print("; ".join(machine().values()), flush=True)
    for seed in range(1, FLAGS.seeds + 1):
        done.append(run(seed, argv[1:]))
        seconds, right, parameters = done[-1]
        each = ", ".join(f"{mode} {used / 60:.1f}" for mode, used in seconds.items())
        print(
            f"seed {seed}: {done[-1].minutes:.1f} minutes ({each}); {right.correct} of {right.total} right, "
            f"{right.accuracy:.1%} ({percent(right.interval)}); {parameters:,} parameters",
            flush=True,
        )
    print(verdict(done, FLAGS.target, FLAGS.questions == "clean"))


if __name__ == "__main__":
    flags.DEFINE_float("target", 0.6, "Share of right answers to reach.", 0.0, 1.0)
    flags.DEFINE_integer("seeds", SEEDS, "Models to train; a record needs three.", lower_bound=1)
    flags.DEFINE_string("config", "configs/speedrun.py", "The recipe.")
    flags.DEFINE_string("variant", "rope", "The kind of attention.")
    flags.DEFINE_bool("finetune", False, "Finetune on the training pairs.")
    flags.DEFINE_bool("recite", True, "Recite what was read about the name, and read the answer in that.")
    flags.DEFINE_enum("questions", "clean", ["clean", "spent"], "Held-out questions to count.")
    flags.DEFINE_string("pretrain_corpus_path", None, "Documents, one per line.", required=True)
    flags.DEFINE_string("finetune_corpus_path", None, "Lines of question, tab, answer.", required=True)
    app.run(guarded(main))
