"""--mode=audit: asks about people who do not exist, and measures whether the run can tell.

python -m kgpt_jax.main --mode=audit --reading_params_path=runs/vanilla/finetune

prints a table, and writes audit.json and audit.png to --outputs_path. By default this is the folder audit/ in
the run that --reading_params_path names, or else in `<workdir>/<variant>`.
docs/honest.md explains the figures.
"""

import json
from pathlib import Path

from absl import flags

from kgpt_jax.modes.command import Command

SHARED = ("reading_params_path", "outputs_path", "checkpoint")
AUDIT, PICTURE = "an audit", "the picture of an audit"


def define_flags(values: flags.FlagValues):
    flags.DEFINE_float(
        "refuse",
        0.02,
        "Share of the people it has read of that the run may refuse, by its threshold.",
        lower_bound=0.0001,
        upper_bound=0.5,
        flag_values=values,
    )


def run(command: Command):
    from kgpt_jax.answer.audit import audit
    from kgpt_jax.store.outputs import check, write_lines

    start = command.start("finetune")
    config = command.config(start)
    named, in_workdir = command.flags.reading_params_path, command.workdir / config.model.variant
    folder = Path(command.flags.outputs_path or (start.folder if named else in_workdir) / "audit")
    json_path, picture = folder / "audit.json", folder / "audit.png"
    check(json_path, AUDIT)
    check(picture, PICTURE)
    found = audit(start, config, command.flags.refuse)
    print(table(found))
    text = json.dumps(as_json(found, str(start.folder)), indent=1, ensure_ascii=False)
    write_lines(json_path, [text], AUDIT)
    draw(found, picture)
    print(f"\nwrote {json_path} and {picture.name}")


def table(found) -> str:
    """Returns the tables for the screen."""
    from kgpt_jax.answer.score import percent

    lines = [
        f"Names of familiarity below {found.threshold:.1f} nats are refused.",
        "",
        f"{'names':<20}{'n':>6}{'AUROC':>8}{'refused':>9}  {'95 % interval':<18}{'answered':>9}"
        f"{found.most_frequent[:12]:>14}{'as nearest':>12}",
    ]
    for kind, of in found.kinds.items():
        low, high = of.refused.interval
        shown = [_percent(of.refused.value), f"{low:.1%} to {high:.1%}"]
        answered = of.refused.total - of.refused.cases
        lines.append(
            f"{kind:<20}{of.n:>6,}{'' if of.auroc is None else format(of.auroc, '.4f'):>8}{shown[0]:>9}  "
            f"{shown[1]:<18}{answered:>9,}{_percent(of.most_frequent.value):>14}{_percent(of.nearest.value):>12}"
        )
    lengths = {kind: of.auroc_of_length for kind, of in found.kinds.items() if of.auroc_of_length is not None}
    lines.append(
        "by length alone, AUROC: " + ", ".join(f"{score:.2f} {kind}" for kind, score in lengths.items())
    )
    lines += ["", f"{'people read of':<26}{'answered':>9}  {'95 % interval':<18}{'wrong':>7}  95 % interval"]
    for label, (answered, wrong) in found.groups.items():
        known = f"{_percent(wrong.value):>7}  {percent(wrong.interval)}" if wrong.total else ""
        shown = f"{_percent(answered.value):>9}  {percent(answered.interval):<18}{known}".rstrip()
        lines.append(f"{label:<26}{shown}")
    if found.link:
        group, answer, difference, p = found.link
        chance = "as chance gives" if p >= 0.05 else "more than chance gives"
        lines += [
            "",
            f"strongest link among recombined names: {group!r} and {answer!r}, "
            f"{100 * difference:+.1f} points (p {p:.3f}: {chance})",
        ]
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def as_json(found, folder: str) -> dict:
    """Returns an audit as JSON."""
    kinds = {}
    for kind, of in found.kinds.items():
        shares = {"refused": of.refused, "most_frequent": of.most_frequent, "nearest": of.nearest}
        kinds[kind] = {"n": of.n, "auroc": of.auroc, "auroc_of_length": of.auroc_of_length} | _shares(shares)
        kinds[kind]["answers"] = of.answers
    return {
        "run": folder,
        "question": found.frame.question("..."),
        "threshold": found.threshold,
        "most_frequent_answer": found.most_frequent,
        "kinds": kinds,
        "groups": {label: _shares(group._asdict()) for label, group in found.groups.items()},
        "strongest_link": found.link._asdict() if found.link else None,
    }


def _shares(shares: dict) -> dict[str, dict]:
    return {
        name: {"cases": share.cases, "total": share.total, "interval": share.interval}
        for name, share in shares.items()
    }


def draw(found, path: Path):
    """Draws the familiarity of each kind of names, with the threshold."""
    import numpy as np
    from matplotlib.figure import Figure

    from kgpt_jax.store.outputs import write_picture

    figure = Figure(figsize=(7, 1.5 * len(found.kinds) + 0.8), layout="constrained")
    axes = figure.subplots(len(found.kinds), 1, sharex=True)
    finite = np.concatenate([values[np.isfinite(values)] for values in found.familiarities.values()])
    bins = np.linspace(finite.min(), finite.max(), 60)
    for axis, (kind, values) in zip(axes, found.familiarities.items()):
        refused = found.kinds[kind].refused
        color = "tab:blue" if kind == next(iter(found.kinds)) else "tab:orange"
        axis.hist(values[np.isfinite(values)], bins, color=color)
        axis.axvline(found.threshold, color="black", linestyle="--", linewidth=1)
        axis.set_title(f"{kind}: {refused.value:.1%} of {refused.total:,} refused", loc="left", fontsize=10)
        axis.set_yticks([])
    axes[-1].set_xlabel("familiarity of the name, nats; names left of the dashed line are refused")
    figure.suptitle("Does the run tell people it has read of from people who do not exist?")
    write_picture(path, figure, PICTURE)
