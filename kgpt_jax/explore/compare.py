"""Variants side by side on the built-in people: several seeds each, one table."""

import json
import statistics
from pathlib import Path

from kgpt_jax import stages
from kgpt_jax.answer.evaluate import mean_interval
from kgpt_jax.config import Config, UserError, override
from kgpt_jax.data.mixture import weights
from kgpt_jax.stages import percent
from kgpt_jax.train.run import write_json


def compare(config: Config, variants: list[str], seeds: list[int], workdir: Path):
    """Trains (see `result`) and evaluates each variant with each seed, and prints a Markdown table.

    A seed decides people, initial parameters and order. What is done already is read from its folder,
    `<workdir>/seed_<seed>/<variant>/`, so that seeds may be spread over processes.
    """
    results = {variant: [] for variant in variants}
    for seed in seeds:
        for variant in variants:
            changes = {"seed": seed, "data.biographies.seed": seed, "model.variant": variant}
            root = workdir / f"seed_{seed}" / variant
            results[variant].append(result(override(config, changes), root))
    print("\n| variant | right | 95 % interval | seeds | seconds |\n| --- | --- | --- | --- | --- |")
    for variant in variants:
        print(table_row(f"`{variant}`", results[variant]))


def result(config: Config, root: Path) -> dict:
    """Returns what `<root>/result.json` holds: right answers, questions, seconds of training.

    A model is pretrained and finetuned, or only pretrained where that shows it the questions.
    """
    path = root / "result.json"
    if not path.exists():
        seconds = stages.pretrain(config, root / "pretrain")
        trained = root / "pretrain"
        if "question_answer" not in weights(stages.recipe_of(config, "pretrain")):
            trained = root / "finetune"
            seconds += stages.finetune(config, trained, root / "pretrain")
        evaluated = stages.evaluate(config, trained, root / stages.PREDICTIONS)
        if evaluated is None:
            raise UserError("nothing to compare: the questions have no answers")
        score = evaluated[0]
        write_json(path, {"correct": score.correct, "total": score.total, "seconds": seconds})
    return json.loads(path.read_text())


def table_row(name: str, results: list[dict]) -> str:
    """Returns a Markdown row: the mean accuracy over seeds, its Student interval, mean seconds of training.

    >>> table_row("`rope`", [dict(correct=c, total=10, seconds=9) for c in (7, 8, 9)])
    '| `rope` | 80.0% | 55.2% to 100.0% | 3 | 9 |'
    """
    shares = [result["correct"] / result["total"] for result in results]
    mean, seeds = statistics.mean(shares), len(shares)
    interval = percent(mean_interval(shares)) if seeds > 1 else "one seed"
    seconds = statistics.mean(result["seconds"] for result in results)
    return f"| {name} | {mean:.1%} | {interval} | {seeds} | {seconds:.0f} |"
