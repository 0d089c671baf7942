"""--mode=check: says whether answers to the assignment's mathematical questions are right.

python -m kgpt_jax.main --mode=check --template=2021 > mine.toml
python -m kgpt_jax.main --mode=check --answers_path=mine.toml --outputs_path=results.json

docs/exercises.md describes the questions and how to write answers. The right answer is never printed.
"""

import json
import os
from pathlib import Path

from absl import flags

from kgpt_jax.config import UserError
from kgpt_jax.modes.command import Command
from kgpt_jax.store import outputs

SHARED = ("outputs_path",)
REPORT, GRADES = "a report on answers", "a table of grades"


def define_flags(values: flags.FlagValues):
    flags.DEFINE_string(
        "answers_path", None, "TOML file of answers, or a folder of such files.", flag_values=values
    )
    flags.DEFINE_integer(
        "template",
        None,
        "Print an answer file with blanks for the questions of this year, 2021 to 2026.",
        flag_values=values,
    )


def run(command: Command):
    from kgpt_jax.exercises import grading

    if command.flags.template is not None:
        if command.flags.answers_path or command.flags.outputs_path:
            raise UserError("--template prints a file: give it alone, and redirect it, as in > mine.toml")
        print(grading.template(command.flags.template), end="")
        return
    path, seed = Path(command.needed("answers_path")), command.config().seed
    if os.path.isdir(path):  # Path.is_dir raises an error if the name is too long
        grade_folder(path, command.flags.outputs_path, seed)
        return
    report_path = Path(command.flags.outputs_path) if command.flags.outputs_path else None
    if report_path:
        outputs.check(report_path, REPORT, inputs=[path])
    report = grade_file(path, seed)
    # Also if the file cannot be read: without a report, Gradescope shows a failure of the grader.
    if report_path:
        write(report_path, report)
    if report.error:
        raise UserError(report.error)
    print(report.text)


def grade_file(path: Path, seed: int):
    """Returns the report on a file, with its `error` if the file cannot be read."""
    from kgpt_jax.exercises import grading

    try:
        return grading.grade(grading.read_answers(path), seed)
    except UserError as error:
        return grading.Report([], 0, error=grading.readable(str(error)))


def grade_folder(folder: Path, outputs_path: str | None, seed: int):
    """Grades each TOML file of a folder, and writes a report for each and the table grades.csv.

    Args:
      folder: the folder of the answers.
      outputs_path: the folder of the reports.
      seed: decides the vectors that are drawn.

    Raises:
      UserError: there are no TOML files, `outputs_path` is missing, or an output cannot be written.
    """
    from kgpt_jax.exercises import grading

    paths = sorted(path for path in folder.glob("*.toml") if path.is_file())
    if not paths:
        raise UserError(f"{folder} has no file whose name ends in .toml")
    if not outputs_path:
        raise UserError(f"{folder} is a folder: give --outputs_path, the folder of the reports")
    report_paths = [Path(outputs_path) / f"{path.stem}.json" for path in paths]
    grades = Path(outputs_path) / "grades.csv"
    for output, kind in (*((each, REPORT) for each in report_paths), (grades, GRADES)):
        outputs.check(output, kind, inputs=paths)
    reports = {}
    for path, report_path in zip(paths, report_paths):
        reports[path.name] = report = grade_file(path, seed)
        write(report_path, report)
        print(f"{grading.readable(path.name)}: {report.summary}", flush=True)
    outputs.write_lines(grades, grading.table(reports).splitlines(), GRADES)
    print(f"wrote {grades} and {len(reports)} report{'s' if len(reports) > 1 else ''}")


def write(path: Path, report):
    """Writes a `Report` in the form of Gradescope's results.json. Raises a UserError if that fails."""
    text = json.dumps(report.gradescope(), indent=1, ensure_ascii=False, allow_nan=False)
    outputs.write_lines(path, [text], REPORT)
