"""--mode=ablate: what each part of a recipe is worth, by itself and on top of all the others.

python -m kgpt_jax.main --mode=ablate --config=configs/best.py --seeds=1 --workdir=runs/ablate

A part is some fields of the recipe. "Only" is the course's training with these fields as the recipe has them,
"without" is the recipe with these fields as the course has them. What belongs to no part is the recipe's
throughout: the model's size and products, pretraining's epochs and batches, finetuning's schedule and order,
corpora. So all read as many documents, and "course" is not the course's to the letter.
"""

import statistics
from pathlib import Path

from kgpt_jax.answer.score import paired_interval
from kgpt_jax.config import Config, UserError, leaves, load_recipe, override
from kgpt_jax.data.corpus import load_questions
from kgpt_jax.modes.compare import result, table_row
from kgpt_jax.modes.evaluate import PREDICTIONS

SHARED = ("seeds",)
COURSE = "configs/course_2024.py"
PARTS = {
    "positions": ["model.variant"],
    "objective": ["pretrain.objective"],
    "texts behind others": ["pretrain.preceded"],
    "optimiser": ["pretrain.muon_learning_rate", "pretrain.learning_rate", "pretrain.weight_decay"],
    "schedule": ["pretrain.schedule", "pretrain.floor", "pretrain.warmup_tokens"],
    "order of texts": ["pretrain.shuffle", "pretrain.group_by_length"],
    "dropout": ["model.dropout"],
    "finetuning": ["finetune.learning_rate", "finetune.epochs", "finetune.batch_size"],
}


def run(command):
    ablate(command.config(), command.whole_numbers("seeds"), command.workdir)


def ablate(config: Config, seeds: list[int], workdir: Path):
    """Trains the recipe, the course's, and each part alone and left out; prints a table of them.

    What is done already is read from its folder below `workdir`. A seed decides initial parameters and order.
    """
    table = {}
    for seed in seeds:
        for name, changed in trainings(config).items():
            root = workdir / f"seed_{seed}" / name.replace(" ", "_")
            changed = override(changed, {"seed": seed})
            table.setdefault(name, []).append((result(changed, root), right(changed, root)))
    heads = "right | 95 % interval | seeds | seconds | gained | 95 % interval, paired"
    print(f"\n| | {heads} |\n|{' --- |' * 7}")
    for name, done in table.items():
        against = table["whole" if name.startswith("without") else "course"]
        gain = " | |" if name == "course" else f" {_gain(done, against)} |"
        print(table_row(name, [measured for measured, _ in done]) + gain)


def trainings(config: Config) -> dict[str, Config]:
    """Returns the recipe as `whole`, the course's as `course`, and each part as `only` it, all `without` it.

    Parts in which the two do not differ are left out; where none is left, that is a UserError.
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


def right(config: Config, root: Path) -> list[bool]:
    """Returns which questions the training in `root` answered right, in their order."""
    predictions = (root / PREDICTIONS).read_text("utf-8").split("\n")[:-1]
    answers = load_questions(config.data).answers
    return [said == answer for said, answer in zip(predictions, answers, strict=True)]


def _gain(done: list, against: list) -> str:
    """Returns two columns of the table: the mean difference, and its interval over the questions."""
    questions = zip(*(each for _, each in done)), zip(*(each for _, each in against))
    differences = [statistics.mean(a) - statistics.mean(b) for a, b in zip(*questions, strict=True)]
    low, high = paired_interval(differences)
    return f"{statistics.mean(differences):+.1%} | {low:+.1%} to {high:+.1%}"
