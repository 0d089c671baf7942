"""--mode=ablate: measures what each part of a recipe is worth, alone and on top of all other parts.

python -m kgpt_jax.main --mode=ablate --config=configs/best.py --seeds=1 --workdir=runs/ablate

A part is a group of config fields. "only X" takes the recipe's values for the fields of part X and the
course's values for all other parts. "without X" is the reverse. Fields in no part always have the recipe's
values: size and products of the model, epochs and batches of pretraining, schedule and order of finetuning,
corpora. So every training reads the same number of documents. For the same reason the row "course" is not
exactly the course's own training.
"""

import json
import statistics
from pathlib import Path

from kgpt_jax.answer.score import paired_interval
from kgpt_jax.config import Config, UserError, leaves, load_recipe, override
from kgpt_jax.modes.command import Command
from kgpt_jax.modes.compare import result, table_row
from kgpt_jax.modes.evaluate import PREDICTIONS, beside
from kgpt_jax.store.folder import JSON_ERRORS

SHARED = ("seeds",)
COURSE = "configs/course_2024.py"
PARTS = {
    "positions": ["model.variant", "model.options"],
    "objective": ["pretrain.objective"],
    "texts behind others": ["pretrain.preceded"],
    "optimiser": ["pretrain.muon_learning_rate", "pretrain.learning_rate", "pretrain.weight_decay"],
    "schedule": ["pretrain.schedule", "pretrain.floor", "pretrain.warmup_tokens"],
    "order of texts": ["pretrain.shuffle", "pretrain.group_by_length"],
    "dropout": ["model.dropout"],
    "finetuning": ["finetune.learning_rate", "finetune.epochs", "finetune.batch_size"],
}


def run(command: Command):
    ablate(command.config(), command.seeds(), command.workdir)


def ablate(config: Config, seeds: list[int], workdir: Path):
    """Trains the recipe, the course's recipe, and each part alone and left out; prints a Markdown table.

    Args:
      config: the recipe.
      seeds: one training per row and seed; the seed decides initial parameters and data order.
      workdir: folder of the results. Existing results are reused.
    """
    table = {}
    for seed in seeds:
        for name, changed in trainings(config).items():
            root = workdir / f"seed_{seed}" / name.replace(" ", "_")
            changed = override(changed, {"seed": seed})
            table.setdefault(name, []).append((result(changed, root), right(root)))
    heads = "right | 95 % interval | seeds | seconds | gained | 95 % interval, paired"
    print(f"\n| | {heads} |\n|{' --- |' * 7}")
    for name, done in table.items():
        against = table["whole" if name.startswith("without") else "course"]
        gain = " | |" if name == "course" else f" {_gain(done, against)} |"
        print(table_row(name, [measured for measured, _ in done]) + gain)


def trainings(config: Config) -> dict[str, Config]:
    """Returns the configs to train: `whole`, `course`, and for each part `without PART` and `only PART`.

    Parts in which the recipe equals the course's are left out.

    Raises:
      UserError: the recipe equals the course's in all parts.
    """
    ours, theirs = leaves(config), leaves(load_recipe(COURSE))
    parts = {
        part: fields for part, fields in PARTS.items() if any(ours[name] != theirs[name] for name in fields)
    }
    if not parts:
        raise UserError("the recipe trains as the course does: give another, as in --config=configs/best.py")

    def like_the_course(*chosen: str) -> Config:
        return override(config, {name: theirs[name] for part in chosen for name in parts[part]})

    named = {"whole": config, "course": like_the_course(*parts)}
    named |= {f"without {part}": like_the_course(part) for part in parts}
    named |= {f"only {part}": like_the_course(*(parts.keys() - {part})) for part in parts}
    return named


def right(root: Path) -> list[bool]:
    """Returns for each question that counts, in order, whether the model in `root` answered it right."""
    path = beside(root / PREDICTIONS, "answers", ".jsonl")
    try:
        records = [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]
        return [record["right"] for record in records if record["scored"]]
    except (*JSON_ERRORS, OSError) as error:
        raise UserError(
            f"cannot read {path} ({error!r}): remove {root / 'result.json'}, and the model is asked again"
        ) from None


def _gain(done: list, against: list) -> str:
    """Returns two columns of the table: the mean difference in accuracy, and its paired 95 % interval."""
    questions = zip(*(each for _, each in done)), zip(*(each for _, each in against))
    differences = [statistics.mean(a) - statistics.mean(b) for a, b in zip(*questions, strict=True)]
    low, high = paired_interval(differences)
    return f"{statistics.mean(differences):+.1%} | {low:+.1%} to {high:+.1%}"
