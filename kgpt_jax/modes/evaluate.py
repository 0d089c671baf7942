"""--mode=evaluate: answers the evaluation questions and prints how many answers are right.

    python -m kgpt_jax.main --mode=evaluate --variant=synthesizer

asks the newest finetuned run, or the one that --reading_params_path names. With --beams=4 answers come from a
list of places only; with --voters=RUN,RUN further runs vote.
"""

from contextlib import suppress
from pathlib import Path

from absl import flags

from kgpt_jax.config import UserError

SHARED = ("reading_params_path", "outputs_path", "checkpoint", "voters")
PREDICTIONS = Path("evaluate") / "predictions.txt"  # below <workdir>/<variant>/


def define_flags(values):
    flags.DEFINE_integer(
        "beams",
        0,
        "Search among places only, with so many beams; 0: any text.",
        lower_bound=0,
        flag_values=values,
    )


def run(command):
    start = command.start("finetune")
    runs = voters(start.folder, command.flags.voters)
    config, beams = command.config(start), command.flags.beams
    named = start.folder if command.flags.reading_params_path else command.workdir / config.model.variant
    folder = named if command.flags.reading_params_path else named / PREDICTIONS.parent
    outputs = Path(command.flags.outputs_path or folder / predictions_name(beams, len(runs)))
    evaluate(config, start, outputs, beams, runs[1:])


def voters(start: Path, further: list[str]) -> list[Path]:
    """Returns the runs that vote, the one read first; a UserError if one is named twice."""
    runs = [start, *map(Path, further)]
    if len({run.resolve() for run in runs}) < len(runs):
        raise UserError(f"--voters={','.join(further)} with {start} names a run twice: each votes once")
    return runs


def predictions_name(beams: int, n_runs: int) -> str:
    """Returns the default name of a predictions file; each kind of prediction has its own.

    >>> predictions_name(4, 2)
    'predictions_4_beams_of_2_runs.txt'
    """
    searched = f"_{beams}_beams" if beams else ""
    return f"predictions{searched}{f'_of_{n_runs}_runs' if n_runs > 1 else ''}.txt"


def predictions_kind(beams: int, n_runs: int) -> str:
    """Returns in a few words how predictions were made; those of another kind are not overwritten."""
    how = f"answers by {beams} beams" if beams else "greedy answers"
    return f"{how}, a vote of {n_runs} runs" if n_runs > 1 else how


def evaluate(config, run, outputs: Path, beams: int = 0, further: list[Path] = ()):
    """Evaluates, writes one prediction a line to `outputs`, prints the scores, and returns the evaluation."""
    from kgpt_jax.answer import evaluate as evaluation
    from kgpt_jax.answer.score import constants, mean_interval, percent
    from kgpt_jax.devices import is_first
    from kgpt_jax.store.outputs import check, write_lines

    data, kind = config.data, predictions_kind(beams, 1 + len(further))
    if is_first():  # an output that cannot be written is better known before the work than after
        check(outputs, kind, [data.pretrain_corpus_path, data.finetune_corpus_path, data.eval_corpus_path])
    found = evaluation.evaluate(config, run, beams, further)
    if is_first():
        write_lines(outputs, found.predictions, kind)
    print(f"wrote {len(found.predictions):,} predictions to {outputs}")
    if found.score is None:
        print("the questions have no answers to compare with: nothing scored")
        return found
    if len(found.each) > 1:
        shares = [each.accuracy for each in found.each]
        print(f"{len(shares)} models, each: {', '.join(f'{share:.1%}' for share in shares)}")
        mean = sum(shares) / len(shares)
        print(f"their mean: {mean:.1%}, 95% interval {percent(mean_interval(shares))}")
        print("their vote:")
    correct, total = float(found.score.correct), float(found.score.total)
    print(f"Correct: {correct} out of {total}: {correct / total * 100}%")
    print(f"95% interval: {percent(found.score.interval)}")
    if is_first() and not further and not beams and run.checkpoint == "newest":
        draw_score(run.folder, found.score)
    right = [found.targets[i] for i in found.scored]
    print_constants(constants(right, run.facts.get("most_frequent_answer", "London")))
    return found


def draw_score(folder: Path, score):
    """Redraws a run's `loss.png` with the score in its title. More training draws it without, as it was."""
    from kgpt_jax.answer.score import percent
    from kgpt_jax.train.progress import draw_loss

    right = f"{score.correct} of {score.total} held-out questions right"
    with suppress(OSError):  # another user's run
        draw_loss(folder, f"{right}: {score.accuracy:.1%}, 95% interval {percent(score.interval)}")


def print_constants(scores):
    """Prints the scores of answers that are always the same."""
    from kgpt_jax.answer.score import percent

    for answer, score in scores:
        print(
            f"always {answer!r}: {score.correct} out of {score.total}: "
            f"{score.accuracy:.1%}, 95% interval {percent(score.interval)}"
        )
