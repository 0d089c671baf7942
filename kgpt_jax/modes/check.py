"""--mode=check: says whether answers to the assignment's mathematical questions are right.

python -m kgpt_jax.main --mode=check --template=2021 > mine.toml
python -m kgpt_jax.main --mode=check --answers_path=mine.toml --outputs_path=results.json

docs/exercises.md describes the questions and how to write answers. The right answer is never printed.
"""

import json
import os
import sys
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
        "Print a file with blanks for the answers to the questions of this year.",
        flag_values=values,
    )


def run(command: Command):
    from kgpt_jax.exercises import grading

    if command.flags.template is not None:
        print(grading.template(command.flags.template), end="")
        return
    path, seed = Path(command.needed("answers_path")), command.flags.seed or 0
    if os.path.isdir(path):  # unlike Path.is_dir, it raises nothing for a name that is too long
        grade_folder(path, command.flags.outputs_path, seed)
        return
    written = Path(command.flags.outputs_path) if command.flags.outputs_path else None
    if written:
        outputs.check(written, REPORT, inputs=[path])
    try:
        report = grading.grade(grading.read_answers(path), seed)
    except UserError as error:
        # Gradescope takes a missing report for a failure of the grader.
        if written:
            write(written, grading.Report([], 0, error=str(error)))
        raise
    print(report.text)
    if written:
        write(written, report)


def grade_folder(folder: Path, outputs_path: str | None, seed: int):
    """Grades each TOML file of a folder, and writes a report for each and the table grades.csv."""
    from kgpt_jax.exercises import grading

    paths = sorted(path for path in folder.glob("*.toml") if path.is_file())
    if not paths:
        raise UserError(f"{folder} has no file whose name ends in .toml")
    if not outputs_path:
        raise UserError(f"{folder} is a folder: give --outputs_path, the folder of the reports")
    written = {path: Path(outputs_path) / f"{path.stem}.json" for path in paths}
    grades = Path(outputs_path) / "grades.csv"
    for report_path in written.values():
        outputs.check(report_path, REPORT, inputs=paths)
    outputs.check(grades, GRADES, inputs=paths)
    reports = {}
    for number, (path, report_path) in enumerate(written.items(), 1):
        try:
            report = grading.grade(grading.read_answers(path), seed)
        except UserError as error:
            report = grading.Report([], 0, error=str(error))
        write(report_path, report)
        reports[path.name] = report
        if sys.stderr.isatty():
            print(f"\r{number} of {len(paths)}", end="", file=sys.stderr, flush=True)
        shown = report.error or report.text.splitlines()[-1 - bool(report.unasked)]
        print(f"{grading.readable(path.name)}: {shown}")
    outputs.write_lines(grades, grading.table(reports).splitlines(), GRADES)
    print(f"wrote {grades} and {len(reports)} report{'s' if len(reports) > 1 else ''}")


def write(path: Path, report):
    """Writes a report in the form of Gradescope's results.json."""
    text = json.dumps(report.gradescope(), indent=1, ensure_ascii=False, allow_nan=False)
    outputs.write_lines(path, [text], REPORT)
