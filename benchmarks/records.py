"""Draws the accuracy of several recipes against their minutes, from the table of docs/speedrun.md:

python -m benchmarks.records docs/speedrun.md docs/images/speedrun.png
"""

import re
import sys
from pathlib import Path
from typing import NamedTuple

HEADER = "| recipe | answers | hardware | minutes | right, % | interval |"
MARKERS = {"two cores": "o", "one core": "s", "H100": "^"}


class Record(NamedTuple):
    """A row of the table. `right`, `low` and `high` are percentages."""

    recipe: str
    answers: str
    hardware: str
    minutes: float
    right: float
    low: float
    high: float


def records(page: str) -> list[Record]:
    """Returns the rows of the table of all recipes.

    Args:
      page: the text of docs/speedrun.md.
    """
    rows = page.split(HEADER)[1].split("\n\n")[0].splitlines()[2:]
    found = []
    for row in rows:
        recipe, answers, hardware, *values = [cell.strip() for cell in row.strip("| ").split("|")]
        numbers = map(float, re.findall(r"[\d.]+", " ".join(values)))  # the last cell has two
        found.append(Record(recipe.replace("`", ""), answers, hardware, *numbers))
    return found


def draw(found: list[Record], path: Path):
    """Draws the records into a PNG: a color for each way to answer, a marker for each kind of hardware."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    colors = dict(zip(sorted({record.answers for record in found}), ("tab:blue", "tab:orange", "tab:green")))
    for record in found:
        marker = next(marker for kind, marker in MARKERS.items() if kind in record.hardware)
        errors = [[record.right - record.low], [record.high - record.right]]
        color = colors[record.answers]
        axes.errorbar(
            record.minutes, record.right, errors, marker=marker, color=color, capsize=3, linestyle=""
        )
        where = {"xytext": (7, -3), "textcoords": "offset points", "fontsize": 8}
        axes.annotate(record.recipe, (record.minutes, record.right), **where)
    for answers, color in colors.items():
        axes.plot([], [], color=color, linewidth=4, label=answers)
    for kind, marker in MARKERS.items():
        if any(kind in record.hardware for record in found):
            axes.plot([], [], color="0.3", marker=marker, linestyle="", label=kind)
    axes.set(
        xscale="log", ylim=(0, 100), xlabel="minutes, all commands", ylabel="held-out questions right, %"
    )
    ticks = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    axes.set_xticks(ticks, map(str, ticks))
    axes.minorticks_off()
    axes.set_xlim(1, 1500)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, loc="outside upper center", ncols=5)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    page, picture = map(Path, sys.argv[1:])
    draw(records(page.read_text("utf-8")), picture)
