"""--mode=calibrate: measures how sure a run may be of its answers, on pairs that it has not learned.

    python -m kgpt_jax.main --mode=calibrate --config.data.n_validation=600 --n_fit=200

writes calibration.json into the run's folder, or to --outputs_path, and reliability.png beside it. It needs
`pip install scikit-learn`. Once calibration.json is in the run's folder, --mode=ask says how sure each answer
is, and keeps a promise about errors.
"""

from pathlib import Path

from absl import flags

from kgpt_jax.config import UserError
from kgpt_jax.modes.command import Command

SHARED = ("reading_params_path", "outputs_path", "checkpoint", "voters", "recite")
KIND, PICTURE = "a calibration", "the picture of a calibration"


def define_flags(values: flags.FlagValues):
    flags.DEFINE_integer(
        "n_fit",
        0,
        "How many of the held-out pairs, the last ones, fit the regression; 0: a third.",
        lower_bound=0,
        flag_values=values,
    )


def run(command: Command):
    from kgpt_jax.answer.calibrate import calibrate
    from kgpt_jax.answer.calibrated import CALIBRATION_FILE, save
    from kgpt_jax.answer.voters import load_voters, with_voters
    from kgpt_jax.store.outputs import check, write_lines

    start = command.start("finetune")
    config = command.config(start)
    path = Path(command.flags.outputs_path or start.folder / CALIBRATION_FILE)
    picture = path.with_name("reliability.png")
    if path == picture:
        raise UserError(f"{path} is the name of the picture: give another --outputs_path")
    check(path, KIND)
    check(picture, PICTURE)
    recites = command.flags.recite
    voters = load_voters(with_voters(start, command.flags.voters, config), "calibrating", recites)
    made = calibrate(voters, config.data, command.flags.n_fit, recites)
    write_lines(path, [save(made)], KIND)
    draw(made, picture)
    print(table(made))
    print(f"\nwrote {path} and {picture.name}")


def table(made) -> str:
    """Returns the table for the screen."""
    import numpy as np

    from kgpt_jax.answer.evidence import FEATURES
    from kgpt_jax.answer.record import LOOK_UP, NEVER

    quality, calibration = made.quality, made.calibration
    auroc = "-" if quality.auroc is None else f"{quality.auroc:.3f}"
    lines = [
        f"{len(made.confidences_of_fit)} pairs fitted the regression. On {quality.n} clean pairs:",
        f"  right answers                 {quality.accuracy:.1%}",
        f"  AUROC, right against wrong    {auroc}",
        f"  calibration error, 10 bins    {quality.error:.3f} (perfect: up to {quality.perfect_error:.3f})",
        f"  Brier score                   {quality.brier:.3f}",
        f"  area under risk and coverage  {quality.area:.3f}, ideally {quality.ideal_area:.3f}",
        "",
        f"{'evidence':<18}{'weight':>8}  per standard deviation",
    ]
    lines += [f"{name:<18}{weight:>+8.2f}" for name, weight in zip(FEATURES, calibration.weight_F)]
    for look_up in LOOK_UP if made.read else [NEVER]:
        of_all = np.mean([right for _, right in made.given(look_up)])
        lines += ["", f"promises, with 90 % certainty, --look_up={look_up}, {of_all:.1%} right:"]
        for wrong in (0.1, 0.05, 0.02):
            found = made.promise(wrong, 0.9, look_up)
            said = f"answers {found.answered / quality.n:.0%} of the questions"
            if found.threshold is None:
                said = (
                    f"not possible with these pairs: of the {found.answered} surest answers {found.wrong} "
                    f"are wrong, and it takes {found.needed} right ones without an error"
                )
            lines.append(f"  wrong at most {wrong:.0%}: {said}")
    return "\n".join(lines)


def draw(made, path: Path):
    """Draws the reliability diagram, and risk against coverage."""
    import numpy as np
    from matplotlib.figure import Figure

    from kgpt_jax.answer.confidence import risk_and_coverage
    from kgpt_jax.answer.score import wilson_interval
    from kgpt_jax.store.outputs import write_picture

    confidence_N, right_N = map(np.array, zip(*made.calibration.clean))
    order = np.argsort(confidence_N, kind="stable")
    parts = [part for part in np.array_split(order, 10) if len(part)]
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    means = np.array([confidence_N[part].mean() for part in parts])
    shares = np.array([right_N[part].mean() for part in parts])
    ends = np.array([wilson_interval(int(right_N[part].sum()), len(part)) for part in parts])
    left.plot([0, 1], [0, 1], color="gray", linestyle="--", label="perfect")
    bars = np.maximum([shares - ends[:, 0], ends[:, 1] - shares], 0)
    left.errorbar(
        means, shares, yerr=bars, marker="o", linestyle="none", capsize=3, label="tenths of the answers"
    )
    left.set(xlabel="confidence", ylabel="share of right answers", xlim=(0, 1.02), ylim=(0, 1.02))
    left.set_title(
        f"Of answers this sure, this many are right\n{len(order)} clean pairs, 95 % intervals", fontsize=11
    )
    left.legend(loc="upper left")
    coverage = np.arange(1, len(order) + 1) / len(order)
    right.plot(coverage, risk_and_coverage(confidence_N, right_N), label="by confidence")
    right.plot(coverage, risk_and_coverage(right_N, right_N), color="gray", linestyle="--", label="ideal")
    right.axhline(1 - right_N.mean(), color="tab:red", linewidth=1, label="without confidence")
    right.set(xlabel="share of the questions that are answered", ylabel="share of wrong answers", xlim=(0, 1))
    right.set_title("Wrong answers if only the surest are given", fontsize=11)
    right.legend(loc="center left")
    write_picture(path, figure, PICTURE)
