"""--mode=copies: how many differently worded copies a fact needs, and what questions in pretraining change.

python -m kgpt_jax.main --mode=copies --seeds=1 --workdir=runs/copies

The finding of arXiv 2309.14316, tried on the built-in people: what was read in one wording only is stored,
but not given out after finetuning; several wordings or, in that paper, questions and answers about other
people mixed into the reading mend that. All cells read as many documents; with questions mixed in they read
these besides, and are not finetuned afterwards.
"""

import statistics
from pathlib import Path

from kgpt_jax.config import Config, UserError, override
from kgpt_jax.modes.compare import result, table_row

SHARED = ("seeds",)
COPIES = (1, 2, 4, 8)  # there are eight wordings of a birth
MIXED = "span_corruption=0.8,question_answer=0.2"


def run(command):
    compare_copies(command.config(), command.whole_numbers("seeds"), command.workdir)


def compare_copies(config: Config, seeds: list[int], workdir: Path):
    """Trains each number of copies with and without mixed questions; prints a table and draws it.

    Results and the picture, `copies.png`, go into `workdir`; what is there already is not done again. A seed
    decides people, initial parameters and order.
    """
    if config.data.pretrain_corpus_path:
        raise UserError("--mode=copies writes its own biographies: leave out --pretrain_corpus_path")
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
    draw(rows, workdir / "copies.png")
    print(f"\nwrote {workdir / 'copies.png'}")


def cell(config: Config, copies: int, mixed: bool, seed: int) -> Config:
    """Returns the config of one training: more copies of a person, fewer epochs of them."""
    documents = config.data.biographies.copies * config.pretrain.epochs
    changes = {
        "seed": seed,
        "data.biographies.seed": seed,
        "data.biographies.copies": copies,
        "pretrain.epochs": max(1, round(documents / copies)),
        "pretrain.objective": MIXED if mixed else "span_corruption",
    }
    return override(config, changes)


def draw(rows: dict[str, list[dict]], path: Path):
    """Draws accuracy against copies, a point for each seed and a line through the means."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(5, 3.5), layout="constrained")
    for mixed, label in ((False, "documents, then questions"), (True, "questions among the documents")):
        cells = [results for name, results in rows.items() if name.endswith("mixed") == mixed]
        shares = [[each["correct"] / each["total"] for each in results] for results in cells]
        (line,) = axis.plot(COPIES, [statistics.mean(each) for each in shares], label=label)
        for copies, each in zip(COPIES, shares):
            axis.scatter([copies] * len(each), each, s=12, color=line.get_color())
    axis.set(
        xscale="log",
        xticks=COPIES,
        xticklabels=COPIES,
        ylim=(0, 1),
        xlabel="differently worded copies of each biography",
        ylabel="right answers about others",
    )
    axis.minorticks_off()
    axis.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
