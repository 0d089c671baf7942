"""Variants side by side on the built-in people: several seeds each, one table."""

import json
import statistics
from pathlib import Path

from kgpt_jax import stages
from kgpt_jax.config import Config, UserError, override
from kgpt_jax.train.checkpoint import write_json

# Student's t, two-sided 95 %, by degrees of freedom.
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


def compare(config: Config, variants: list[str], seeds: list[int], workdir: Path):
    """Pretrains, finetunes and evaluates each variant with each seed, and prints a Markdown table.

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
        print(table_row(variant, results[variant]))


def result(config: Config, root: Path) -> dict:
    """Returns what `<root>/result.json` holds: right answers, questions, seconds of training."""
    path = root / "result.json"
    if not path.exists():
        seconds = stages.pretrain(config, root / "pretrain")
        seconds += stages.finetune(config, root / "finetune", root / "pretrain")
        evaluated = stages.evaluate(config, root / "finetune", root / "evaluate" / "predictions.txt")
        if evaluated is None:
            raise UserError("nothing to compare: the questions have no answers")
        score = evaluated[0]
        write_json(path, {"correct": score.correct, "total": score.total, "seconds": seconds})
    return json.loads(path.read_text())


def table_row(variant: str, results: list[dict]) -> str:
    """Returns a Markdown row: the mean accuracy over seeds, its Student interval, mean seconds of training.

    >>> table_row("rope", [dict(correct=c, total=10, seconds=9) for c in (7, 8, 9)])
    '| `rope` | 80.0% | 55.2% to 100.0% | 3 | 9 |'
    """
    shares = [result["correct"] / result["total"] for result in results]
    mean, seeds = statistics.mean(shares), len(shares)
    interval = "one seed"
    if seeds > 1:
        half = T_95.get(seeds - 1, 2.262) * statistics.stdev(shares) / seeds**0.5
        interval = f"{max(mean - half, 0):.1%} to {min(mean + half, 1):.1%}"
    seconds = statistics.mean(result["seconds"] for result in results)
    return f"| `{variant}` | {mean:.1%} | {interval} | {seeds} | {seconds:.0f} |"
