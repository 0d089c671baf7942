"""The list of topics, and how their findings become a table, lines of JSON and a picture."""

import json
import textwrap

import numpy as np

from kgpt_jax.config import UserError
from kgpt_jax.exercises import claims, layers, places, word_claims
from kgpt_jax.exercises.figures import Bars, Figure, Findings, Histogram, Lines, Matrix

TOPICS = {
    "copying": claims.copying,
    "average": claims.average,
    "noisy_average": claims.noisy_average,
    "scaled_key": claims.scaled_key,
    "two_heads": claims.two_heads,
    "same_vectors": word_claims.same_vectors,
    "key_query_value": word_claims.key_query_value,
    "permutation": places.permutation,
    "positions": places.positions,
    "rope": places.rope,
    "costs": layers.costs,
    "synthesizer": layers.synthesizer,
    "scaling": layers.scaling,
}
# Questions that belong to a topic of another name. `extract` and `baseline` have no experiment.
QUESTIONS = {
    "two_heads_scaled_key": "two_heads",
    "rope_complex": "rope",
    "rope_relative": "rope",
    "perceiver_cost": "costs",
}
FEW = 26  # a topic with more figures shows those of n = 8 only
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")  # told apart by color-blind readers, too
INCHES, DPI = 5.2, 110  # of a panel


def chosen(names: list[str]) -> list[str]:
    """Returns the topics of these names, each once, in the order of `TOPICS`.

    Raises:
      UserError: a name is neither a topic nor a key of QUESTIONS.
    """
    topics = [QUESTIONS.get(name, name) for name in names]
    if unknown := [name for name in topics if name not in TOPICS]:
        raise UserError(f"unknown topic {unknown[0]!r}; choose from {', '.join(TOPICS)}")
    return [name for name in TOPICS if name in topics]


def json_line(figure: Figure) -> str:
    """Returns a figure as a line of figures.jsonl, with every field."""
    return json.dumps(figure._asdict(), allow_nan=False)


def table(found: Findings) -> str:
    """Returns a topic's table as text: one line for each figure; of many figures, those of n = 8."""
    rows = found.figures
    if len(rows) > FEW:
        rows = [row for row in rows if row.n in (None, 8)]
    heads = ("quantity", "n", "d", "beta", "alpha", "value", "standard error", "theory")
    cells = [heads, *(_cells(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
        for row in cells
    ]
    if left := len(found.figures) - len(rows):
        lines.append(f"and {left} figures of other n")
    if found.remark:
        lines.append(found.remark)
    return "\n".join(lines)


def _cells(row: Figure) -> list[str]:
    error = "" if row.standard_error is None else f"± {row.standard_error:.2g}"
    place = ["" if part is None else f"{part:g}" for part in (row.beta, row.alpha)]
    whole = ["" if part is None else str(part) for part in (row.n, row.d)]
    return [row.quantity, *whole, *place, f"{row.value:.4g}", error, _short(row.theory)]


def _short(number: float | None) -> str:
    return "" if number is None else f"{number:.4g}"


def draw(found: Findings):
    """Returns a figure of a topic's panels side by side, below a title that states the finding."""
    from matplotlib.figure import Figure as Page

    panels = found.panels
    size = (max(INCHES * len(panels), 7.5), 4.6)
    page = Page(figsize=size, layout="constrained")
    for axis, panel in zip(page.subplots(1, len(panels), squeeze=False)[0], panels):
        DRAW[type(panel)](axis, panel)
        axis.set_title(panel.title, fontsize=10)
    title = textwrap.fill(found.title, int(9.5 * size[0]))
    page.suptitle(title, fontsize=12, fontweight="bold")
    return page


def draw_lines(axis, panel: Lines):
    """Draws curves and points, with a legend."""
    for line in panel.lines:
        points = line.style in (".", "o")
        axis.plot(
            line.x,
            line.y,
            line.style,
            color=COLORS[line.color],
            markersize=3 if line.style == "." else 5,
            alpha=0.6 if line.style == "." else 1,
            label=line.label or None,
            zorder=3 if points else 2,
        )
    axis.set(
        xscale=panel.xscale, yscale=panel.yscale, ylim=panel.ylim, xlabel=panel.xlabel, ylabel=panel.ylabel
    )
    if panel.equal:
        axis.set_aspect("equal")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)


def draw_histogram(axis, panel: Histogram):
    """Draws shares in percent as bars, and the expected shares as their outline."""
    count_W, _ = np.histogram(panel.values_S, panel.edges_E)
    axis.stairs(
        100 * count_W / len(panel.values_S), panel.edges_E, fill=True, color=COLORS[panel.color], alpha=0.6
    )
    axis.stairs(panel.shares_W, panel.edges_E, color="black", linewidth=1, label=panel.label)
    axis.set(xlim=(-0.02, 1.02), ylim=(0, 90), xlabel=panel.xlabel, ylabel=panel.ylabel)
    axis.grid(axis="y", alpha=0.3)
    axis.legend(fontsize=8)


def draw_bars(axis, panel: Bars):
    """Draws horizontal bars with their values."""
    colors = [COLORS[2] if good else COLORS[1] for good in panel.good]
    axis.barh(panel.names, [max(value, panel.left) for value in panel.values], color=colors)
    axis.set(xscale="log", xlim=(panel.left, 100 * max(panel.values)), xlabel=panel.xlabel)
    for i, value in enumerate(panel.values):
        axis.text(max(value, panel.left) * 1.3, i, f"{value:.2g}", va="center", fontsize=8)
    axis.invert_yaxis()


def draw_matrix(axis, panel: Matrix):
    """Draws a matrix in colors, with its numbers if there are few."""
    diverging = panel.vmin is not None and panel.vmin < 0
    image = axis.imshow(
        panel.values, cmap="RdBu_r" if diverging else "viridis", vmin=panel.vmin, vmax=panel.vmax
    )
    axis.figure.colorbar(image, ax=axis, shrink=0.8)
    if panel.columns:
        axis.set_xticks(range(len(panel.columns)), panel.columns)
        axis.set_yticks(range(len(panel.rows)), panel.rows)
    if panel.values.size <= 16:
        for (row, column), value in np.ndenumerate(panel.values):
            axis.text(
                column, row, f"{round(value, 2) + 0.0:.2f}", ha="center", va="center", color="0.5", fontsize=9
            )
    axis.set(xlabel=panel.xlabel, ylabel=panel.ylabel)


DRAW = {Lines: draw_lines, Histogram: draw_histogram, Bars: draw_bars, Matrix: draw_matrix}
