"""Turns the benchmark's measurements into ratios, exponents, tables and pictures.

    samples = [Sample("float32", [1.0, 2.0], 900.0), Sample("float32, PyTorch", [4.0, 4.0], 1500.0)]
    draw([table("seconds of an update", samples)], Path("train.png"))

prints the table with its ratio and draws it.
"""

import dataclasses
import math
import platform
import statistics
import subprocess
import sys
from collections import Counter
from functools import cache
from importlib import metadata
from pathlib import Path

from kgpt_jax.config import UserError
from kgpt_jax.environment import cores, processor

# If there are more variants than these, only these are drawn in color: the usual attention, two variants
# whose cost is linear in the length, and the one whose cost grows least.
HIGHLIGHTED = ("vanilla", "linformer", "bigbird", "perceiver")
ACCELERATORS = """
import jax
for device in jax.devices():
    if device.platform != "cpu":
        print(device.device_kind)
"""
AXES = {"length": "length of the texts, characters", "width": "width of the model, channels"}


@dataclasses.dataclass(frozen=True)
class Sample:
    """The measurements of one contestant: the seconds of each turn, and its peak memory on the host in MB.

    `turns` has all that the contestant reported in each turn.
    """

    name: str
    seconds: list[float]
    peak_mb: float
    turns: list[dict] = dataclasses.field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def ratios(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """Returns how many times faster ours is: the median, the least and the most over the turns.

    Raises:
      ValueError: the two have different numbers of turns.

    >>> ratios([1.0, 2.0, 1.0], [3.0, 4.0, 5.0])
    (3.0, 2.0, 5.0)
    """
    each = [their / our for our, their in zip(ours, theirs, strict=True)]
    return statistics.median(each), min(each), max(each)


def exponent(xs: list[float], ys: list[float]) -> float:
    """Returns b of the power law y = a x^b, fitted by least squares to the logarithms.

    >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    log_xs, log_ys = ([math.log(value) for value in values] for values in (xs, ys))
    return statistics.linear_regression(log_xs, log_ys).slope


def guarded(main):
    """Returns `main` with errors that the user can correct as one line each, and status 2."""

    def run(argv):
        try:
            main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except subprocess.CalledProcessError as error:
            if error.returncode > 0:  # the command has printed its own message
                sys.exit(error.returncode)
            print(f"error: {error}", file=sys.stderr)  # a signal has ended it
            sys.exit(128 - error.returncode)

    return run


def three_digits(seconds: float) -> str:
    """Returns seconds with three significant digits or more, and never with an exponent.

    >>> three_digits(0.005917), three_digits(2.5), three_digits(1234.5)
    ('0.00592', '2.50', '1234')
    """
    return f"{seconds:.{max(0, 2 - math.floor(math.log10(seconds)))}f}"


def table(title: str, samples: list[Sample]) -> dict:
    """Prints a table of medians, spreads and the host's memory, and returns it as plain JSON types.

    A sample "NAME, PyTorch..." also gets a ratio: how many times faster the sample NAME is.
    """
    print(
        f"\n{title:<46}{'median':>9}{'least':>9}{'most':>9}{'host MB':>10}  kgpt_jax is faster (least, most)"
    )
    rows = []
    for sample in samples:
        row = {"name": sample.name, "seconds": sample.seconds, "peak_mb": sample.peak_mb}
        ours = next((other for other in samples if sample.name.startswith(f"{other.name}, PyTorch")), None)
        beside = ""
        if ours:
            row["ratio"] = ratios(ours.seconds, sample.seconds)
            beside = "  {:.2f} x ({:.2f}, {:.2f})".format(*row["ratio"])
        low, high = min(sample.seconds), max(sample.seconds)
        held = f"{sample.peak_mb:>10,.0f}" if sample.peak_mb else f"{'':>10}"
        seconds = "".join(f"{three_digits(each):>9}" for each in (sample.median, low, high))
        print(f"{sample.name:<46}{seconds}{held}{beside}")
        rows.append(row)
    return {"title": title, "rows": rows}


def shares(title: str, one_core: Sample, all_cores: Sample) -> dict:
    """Prints what an update's time goes into, and returns a table with a row for each kind of operation.

    Args:
      title: of the table.
      one_core, all_cores: the turns of the contestant in `benchmarks/roofline.py`.
    """
    print(f"\n{title}")
    for sample in (one_core, all_cores):
        alone = [turn["alone"] for turn in sample.turns]
        attained = [part / whole for part, whole in zip(alone, sample.seconds)]
        products, share = statistics.median(alone), statistics.median(attained)
        print(
            f"{sample.name}: {sample.median:.3f} s, its matrix products alone {products:.3f} s "
            f"at {sample.turns[0]['flops'] / products / 1e9:.0f} GFLOP/s: {share:.0%} of the attainable rate "
            f"({min(attained):.0%} to {max(attained):.0%})"
        )
    kinds = [turn["kinds"] for turn in one_core.turns]
    whole = statistics.median(sum(turn.values()) for turn in kinds)
    rows = [{"name": name, "seconds": [turn[name] for turn in kinds]} for name in kinds[0]]
    rows.sort(key=lambda row: -statistics.median(row["seconds"]))
    for row in rows:
        median = statistics.median(row["seconds"])
        print(f"  {row['name']:<30}{median:>8.3f} s {median / whole:>6.1%}")
    return {"title": title, "rows": rows}


@cache
def accelerators() -> list[str]:
    """Returns the kind of each device that JAX would use, except the processor.

    It asks in another process, because JAX keeps a GPU's memory from the commands that are measured next.
    """
    return subprocess.check_output([sys.executable, "-c", ACCELERATORS], text=True).splitlines()


def machine(on_cpu: bool = False) -> dict[str, str]:
    """Returns the processor, the other devices that JAX uses, and the versions of Python and the libraries.

    Args:
      on_cpu: whether all that is measured runs on the processor alone, even where there is a GPU.
    """
    name = processor("model name") or platform.processor() or platform.machine()
    if not on_cpu and (kinds := Counter(accelerators())):
        name += " and " + ", ".join(f"{number} {kind}" for kind, number in kinds.items())
    found = {
        "processor": f"{cores()} cores of {name}",
        "python": platform.python_version(),
    }
    for package in ("jax", "flax", "torch"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            pass
    return found


def draw(tables: list[dict], path: Path):
    """Draws tables into a PNG: each table as bars in its own panel, and tables of scaling as lines.

    Args:
      tables: dicts that `table` returned. Tables of scaling also have the keys variant, axis, sizes, exponent
        and theory; those with the same axis share a panel.
      path: the picture to write.
    """
    from matplotlib.figure import Figure

    panels = {}
    for drawn in tables:
        panels.setdefault(drawn.get("axis", drawn["title"]), []).append(drawn)
    size = (6.5 * len(panels), 5)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)
    for axis, together in zip(axes[0], panels.values()):
        (draw_lines if "axis" in together[0] else draw_bars)(axis, together)
    figure.savefig(path, dpi=120)


def draw_bars(axis, tables: list[dict]):
    """Draws the median of each row as a bar, with the least and the most. PyTorch's bars are orange."""
    (drawn,) = tables
    names = [row["name"] for row in drawn["rows"]]
    medians, least, most = medians_and_ends(drawn)
    colors = ["tab:orange" if "PyTorch" in name else "tab:blue" for name in names]
    spread = [[m - low for m, low in zip(medians, least)], [high - m for m, high in zip(medians, most)]]
    axis.barh(names, medians, xerr=spread, color=colors)
    axis.set(xlabel="seconds")
    axis.invert_yaxis()
    axis.set_title(drawn["title"], fontsize=11)


def draw_lines(axis, tables: list[dict]):
    """Draws seconds against size on logarithmic scales: a few variants in color, the others in gray.

    The legend gives the exponent of each colored variant, and the range of exponents of the others.
    """
    highlighted = [
        drawn for drawn in tables if drawn["variant"] in HIGHLIGHTED or len(tables) <= len(HIGHLIGHTED)
    ]
    others = [drawn for drawn in tables if drawn not in highlighted]
    for drawn in others:
        axis.loglog(drawn["sizes"], medians_and_ends(drawn)[0], color="0.75", linewidth=1)
    for drawn in highlighted:
        medians, least, most = medians_and_ends(drawn)
        label = f"{drawn['variant']}: {drawn['exponent']:.2f} ({drawn['theory']:.2f})"
        (line,) = axis.loglog(drawn["sizes"], medians, marker="o", linewidth=2, label=label)
        axis.fill_between(drawn["sizes"], least, most, alpha=0.15, color=line.get_color())
    if others:
        fitted, theory = ([drawn[key] for drawn in others] for key in ("exponent", "theory"))
        ranges = [f"{min(values):.2f} to {max(values):.2f}" for values in (fitted, theory)]
        axis.plot([], [], color="0.75", linewidth=1, label=f"{len(others)} others: {ranges[0]} ({ranges[1]})")
    sizes = tables[0]["sizes"]
    axis.set(xlabel=AXES[tables[0]["axis"]], ylabel="seconds of an update", xticks=sizes, xticklabels=sizes)
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.set_title(f"Time of an update by {tables[0]['axis']}", fontsize=11)
    axis.legend(
        title="fitted exponent (of the multiplications)", loc="lower right", fontsize=9, title_fontsize=9
    )


def medians_and_ends(drawn: dict) -> tuple[list[float], list[float], list[float]]:
    """Returns the median, the least and the most seconds of each row."""
    return tuple([of(row["seconds"]) for row in drawn["rows"]] for of in (statistics.median, min, max))
