"""--mode=copies: measures how many differently worded biographies a fact needs to be recalled.

python -m kgpt_jax.main --mode=copies --seeds=1 --workdir=runs/copies

This repeats the experiment of arXiv 2309.14316 on the built-in people. In that paper, a model stores a fact
that it reads in one wording only, but cannot recall it after finetuning. Two things help: several wordings of
the fact, or questions about other people among the pretraining texts. Here every training reads about the
same number of biographies. Models that are pretrained on questions read these in addition, and are not
finetuned.
"""

import statistics
from pathlib import Path

from kgpt_jax.answer.score import constants, mean_interval, wilson_interval
from kgpt_jax.config import Config, UserError, override
from kgpt_jax.data.corpus import load_questions
from kgpt_jax.modes.command import Command
from kgpt_jax.modes.compare import SEED_OF_PEOPLE, result, table_row
from kgpt_jax.store.outputs import check, write_picture

SHARED = ("seeds",)
COPIES = (1, 2, 4, 8)  # the corpus has eight wordings of a birthplace
PICTURE = "the picture of copies"
MIXED = "span_corruption=0.8,question_answer=0.2"


def run(command: Command):
    for name in ("objective", "config.pretrain.objective"):
        if command.flags[name].present:
            raise UserError(f"--mode=copies has its own objectives: leave out --{name}")
    compare_copies(command.config(), command.seeds(SEED_OF_PEOPLE), command.workdir)


def compare_copies(config: Config, seeds: list[int], workdir: Path):
    """Trains with each number of copies, with and without mixed questions; prints a table and draws it.

    Args:
      config: the recipe. Every model reads about `data.biographies.copies` * `pretrain.epochs` biographies of
        each person.
      seeds: one training per row and seed; the seed decides people, initial parameters and data order.
      workdir: folder of the results and of `copies.png`. Existing results are reused.

    Raises:
      UserError: the recipe names a corpus, but this mode writes its own biographies.
    """
    if config.data.pretrain_corpus_path:
        raise UserError("--mode=copies writes its own biographies: leave out --pretrain_corpus_path")
    picture = workdir / "copies.png"
    check(picture, PICTURE)
    rows = {}
    for mixed in (False, True):
        for copies in COPIES:
            name = f"{copies} {'copy' if copies == 1 else 'copies'}{', mixed' if mixed else ''}"
            rows[name] = []
            for seed in seeds:
                root = workdir / f"seed_{seed}" / name.replace(", ", "_").replace(" ", "_")
                rows[name].append(result(cell(config, copies, mixed, seed), root))
    print("\n| read in | right | 95 % interval | seeds | seconds |\n| --- | --- | --- | --- | --- |")
    for name, results in rows.items():
        print(table_row(name, results))
    draw(rows, statistics.mean(london(config, seed) for seed in seeds), picture)
    print(f"\nwrote {picture}")


def cell(config: Config, copies: int, mixed: bool, seed: int) -> Config:
    """Returns the config of one training: the more copies of a biography, the fewer epochs."""
    documents = config.data.biographies.copies * config.pretrain.epochs
    changes = {
        "seed": seed,
        "data.biographies.seed": seed,
        "data.biographies.copies": copies,
        "pretrain.epochs": max(1, round(documents / copies)),
        "pretrain.objective": MIXED if mixed else "span_corruption",
    }
    return override(config, changes)


def london(config: Config, seed: int) -> float:
    """Returns the accuracy of always answering London about the people of a seed, from 0 to 1."""
    answers = load_questions(override(config, {"data.biographies.seed": seed}).data).answers
    return constants(answers)[0][1].accuracy


def draw(rows: dict[str, list[dict]], always_london: float, path: Path):
    """Draws accuracy against copies, with 95 % intervals and the accuracy of always answering London.

    The intervals are Wilson's over the questions for one seed, Student's over the seeds for several.

    Args:
      rows: by row name, the results (`correct`, `total`), one per seed.
      always_london: an accuracy from 0 to 1.
      path: the picture to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4.5), layout="constrained")
    axis = figure.subplots()
    for mixed, label, marker, shift in (  # shifted sideways, so that intervals do not hide each other
        (False, "biographies, then finetuned on questions", "o", 0.975),
        (True, "questions among the biographies", "s", 1.025),
    ):
        cells = [results for name, results in rows.items() if name.endswith("mixed") == mixed]
        means = [100 * _mean(results) for results in cells]
        ends = [_interval(results) for results in cells]
        bars = [
            [mean - 100 * low for mean, (low, _) in zip(means, ends)],
            [100 * high - mean for mean, (_, high) in zip(means, ends)],
        ]
        xs = [copies * shift for copies in COPIES]
        axis.errorbar(xs, means, yerr=bars, marker=marker, capsize=3, label=label)
    label = f"always London ({always_london:.1%})"
    axis.axhline(100 * always_london, color="gray", linestyle="--", label=label)
    seeds, questions = len(cells[0]), cells[0][0]["total"]
    over = f"{questions:,} questions, one seed" if seeds == 1 else f"{seeds} seeds"
    title = "What is recalled of facts that were read in several wordings"
    axis.set_title(f"{title}\n95 % intervals over {over}", fontsize=11)
    axis.set(
        xscale="log",
        xticks=COPIES,
        xticklabels=COPIES,
        ylim=(0, 102),
        xlabel="wordings of each biography",
        ylabel="right answers about held-out people, %",
    )
    axis.minorticks_off()
    axis.grid(axis="y", alpha=0.3)
    axis.legend(loc="lower right", bbox_to_anchor=(1.0, 0.1))  # above the line for London
    write_picture(path, figure, PICTURE)


def _mean(results: list[dict]) -> float:
    return statistics.mean(each["correct"] / each["total"] for each in results)


def _interval(results: list[dict]) -> tuple[float, float]:
    if len(results) == 1:
        return wilson_interval(results[0]["correct"], results[0]["total"])
    return mean_interval([each["correct"] / each["total"] for each in results])
