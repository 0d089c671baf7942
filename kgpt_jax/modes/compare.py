"""--mode=compare: trains several variants with several seeds on the built-in people; prints one table.

    python -m kgpt_jax.main --mode=compare --variants=vanilla,rope --seeds=1,2,3 --workdir=runs/compare

Existing results in `--workdir` are reused. The modes copies and ablate use `result` and `table_row`, too.
"""

import dataclasses
import json
import statistics
from itertools import chain
from pathlib import Path

from kgpt_jax.answer.score import mean_interval, percent
from kgpt_jax.config import Config, DataConfig, UserError, from_dict, leaves, override, to_dict
from kgpt_jax.data import corpus
from kgpt_jax.data.mixture import weights
from kgpt_jax.data.stage_data import recipe_of
from kgpt_jax.modes.command import Command
from kgpt_jax.modes.evaluate import PREDICTIONS, check_outputs, evaluate, predictions_kind

SHARED = ("variants", "seeds")
SEED_OF_PEOPLE = "config.data.biographies.seed"  # each seed has its own people


def run(command: Command):
    compare(command.config(), command.variants(), command.seeds(SEED_OF_PEOPLE), command.workdir)


def compare(config: Config, variants: list[str], seeds: list[int], workdir: Path):
    """Trains and evaluates each variant with each seed, and prints a Markdown table.

    Args:
      config: the recipe.
      variants: names of variants, one row of the table each.
      seeds: one training per variant and seed; the seed decides people, initial parameters and data order.
      workdir: results are in `<workdir>/seed_<seed>/<variant>/`. Existing results are reused, so several
        processes may each train some of the seeds.
    """
    from kgpt_jax.model.variants import each

    models = each(config.model, variants)
    results = {variant: [] for variant in variants}
    for seed in seeds:
        for model in models:
            changed = override(config, {"seed": seed, "data.biographies.seed": seed})
            root = workdir / f"seed_{seed}" / model.variant
            results[model.variant].append(result(dataclasses.replace(changed, model=model), root))
    print("\n| variant | right | 95 % interval | seeds | seconds |\n| --- | --- | --- | --- | --- |")
    for variant in variants:
        print(table_row(f"`{variant}`", results[variant]))


def result(config: Config, root: Path) -> dict:
    """Trains and evaluates one config below `root`, or reads the existing result.

    The model is pretrained and then finetuned. If its pretraining mixture contains questions, it is not
    finetuned.

    Returns:
      What `<root>/result.json` holds: `correct` and `total` answers, `seconds` of training, digests of the
      questions that were `asked` and of the documents and pairs that were `read`, and the `config`.

    Raises:
      UserError: the result there belongs to another config, or the questions have no answers.
    """
    from kgpt_jax.store.folder import with_current_names, write_json

    path, questions = root / "result.json", corpus.load_questions(config.data)
    asked = corpus.digest([*questions.questions, *(questions.answers or [])])
    if path.exists():
        found = _read(path)
        there, given = leaves(from_dict(with_current_names(found["config"]))), leaves(config)
        # Results of older versions do not say what was asked or read.
        there["the questions"], given["the questions"] = found.get("asked", asked), asked
        if "read" in found:
            there["the training data"], given["the training data"] = found["read"], digest_of(config.data)
        if changed := [name for name in there if there[name] != given[name]]:
            name = changed[0]
            raise UserError(
                f"{path} is the result with {name} {there[name]!r}, and {given[name]!r} is asked for: "
                "give another --workdir"
            )
    else:
        from kgpt_jax.answer.voters import with_voters
        from kgpt_jax.train.stages import finetune, pretrain

        if questions.answers is None:
            raise UserError("nothing to compare: the questions have no answers")
        check_outputs(root / PREDICTIONS, config.data, predictions_kind(0, 1))
        trained = pretrain(config, root / "pretrain")
        seconds = trained.seconds
        if "question_answer" not in weights(recipe_of(config, "pretrain")):
            trained = finetune(config, root / "finetune", trained.run)
            seconds += trained.seconds
        score = evaluate(with_voters(trained.run, [], config), root / PREDICTIONS).score
        counts = {
            "correct": score.correct,
            "total": score.total,
            "seconds": seconds,
            "asked": asked,
            "read": digest_of(config.data),
        }
        write_json(path, counts | {"config": to_dict(config)})
    return _read(path)


def digest_of(data: DataConfig) -> str:
    """Returns a digest of the documents and training pairs."""
    pairs = chain.from_iterable(corpus.load_pairs(data).pairs)
    return corpus.digest(chain(corpus.load_documents(data).documents, pairs))


def _read(path: Path) -> dict:
    try:
        found = json.loads(path.read_text("utf-8"))
        return found | {name: found[name] for name in ("correct", "total", "seconds", "config")}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no result ({error!r}): remove it") from None


def table_row(name: str, results: list[dict]) -> str:
    """Returns a Markdown row: mean accuracy over the seeds, Student's 95 % interval, seeds, mean seconds.

    >>> table_row("`rope`", [dict(correct=c, total=10, seconds=9) for c in (7, 8, 9)])
    '| `rope` | 80.0% | 55.2% to 100.0% | 3 | 9 |'
    """
    shares = [result["correct"] / result["total"] for result in results]
    mean, seeds = statistics.mean(shares), len(shares)
    interval = percent(mean_interval(shares)) if seeds > 1 else "one seed"
    seconds = statistics.mean(result["seconds"] for result in results)
    return f"| {name} | {mean:.1%} | {interval} | {seeds} | {seconds:.0f} |"
