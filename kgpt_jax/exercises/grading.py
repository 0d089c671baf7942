"""Grades answers: TOML files in, reports out.

verdict = check("average", {"large": "L", "q": "..."}, year=2021)
report = grade(read_answers(Path("mine.toml")))
print(report.text)
"""

import csv
import difflib
import io
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kgpt_jax.config import UserError
from kgpt_jax.exercises.answer import Answer, Topic, is_blank
from kgpt_jax.exercises.expression import Unreadable
from kgpt_jax.exercises.questions import NEWEST, TOPICS, YEARS
from kgpt_jax.exercises.verdict import RIGHT, UNREADABLE, WRONG, Verdict

PROSE = ("synthesizer",)  # questions that ask for prose, and have no verdict
MAX_BYTES = 64_000
MAX_DOTS = 5_000  # the TOML parser's time grows with the square of the parts of a dotted key


def check(topic: str, fields: Mapping[str, Any], year: int = NEWEST, seed: int = 0) -> Verdict:
    """Says whether an answer is right.

    Args:
      topic: the question, a key of `TOPICS`.
      fields: the fields of the answer, as in a TOML file.
      year: the year of the handout.
      seed: decides the vectors that are drawn. The verdict is the same for every seed.

    Returns:
      The verdict. An answer that cannot be read is no error, but "unreadable".

    Raises:
      UserError: there is no such topic or year, or the seed is negative.
    """
    if topic not in TOPICS:
        raise UserError(_unknown(topic))
    if year not in YEARS:
        raise UserError(f"year is {year!r}: choose from {YEARS[0]} to {YEARS[-1]}")
    try:
        with np.errstate(all="ignore"):  # the judges report values that are not finite
            return TOPICS[topic].judge(Answer(topic, TOPICS[topic], fields, year, seed))
    except Unreadable as error:
        return Verdict(UNREADABLE, reason=" ".join(str(error).split()))


class Graded(NamedTuple):
    """An answer with its verdict. `points` is 0 if the year's handout does not ask the question."""

    topic: str
    about: str
    number: str
    points: float
    verdict: Verdict

    @property
    def score(self) -> float:
        return self.points if self.verdict.right else 0


class Report(NamedTuple):
    """The verdicts on the answers of one file.

    Attributes:
      graded: one entry per answer, in the order of the file; also for unknown topics and a wrong year.
      total: the points of all questions of the year or, if no year is given, of those that are answered.
      unasked: topics with answers that the year does not ask, or asks as prose.
      error: why the file could not be read; "" if it could.
    """

    graded: list[Graded]
    total: float
    unasked: list[str] = []
    error: str = ""

    @property
    def score(self) -> float:
        return sum(each.score for each in self.graded)

    def count(self, verdict: str) -> int:
        return sum(each.verdict.verdict == verdict for each in self.graded)

    @property
    def summary(self) -> str:
        """Returns the line with counts and points, or the error."""
        counts = ", ".join(f"{self.count(verdict)} {verdict}" for verdict in (RIGHT, WRONG, UNREADABLE))
        return self.error or f"{counts}; {self.score:g} of {self.total:g} points"

    @property
    def text(self) -> str:
        """Returns the table for the screen, or the error."""
        if self.error:
            return self.error
        lines = [_row("topic", "number", "verdict", "residual", "from", "")]
        for topic, _, number, _, verdict in self.graded:
            residual = "" if verdict.residual is None else f"{verdict.residual:.1e}"
            lines.append(
                _row(topic, number, verdict.verdict, residual, verdict.holds_from or "", verdict.reason)
            )
        lines.append(self.summary)
        if self.unasked:
            lines.append(f"no points, as the handout asks for no formula here: {', '.join(self.unasked)}")
        return "\n".join(lines)

    def gradescope(self) -> dict[str, Any]:
        """Returns the report in the form of Gradescope's results.json."""
        tests = [
            {
                "name": each.topic,
                "number": each.number,
                "score": each.score,
                "max_score": each.points,
                "status": "passed" if each.verdict.right else "failed",
                "output": each.verdict.reason or each.verdict.verdict,
                "extra_data": {"question": each.about, **each.verdict._asdict()},
            }
            for each in self.graded
        ]
        return {
            "score": self.score,
            "output": self.text,
            "stdout_visibility": "visible",
            "tests": tests,
            "extra_data": {"unasked": self.unasked},
        }


def read_answers(path: Path) -> dict[str, Any]:
    """Reads a TOML file of answers.

    Raises:
      UserError: the file cannot be read, is a pipe, is larger than 64 kB, has more than 5,000 dots, or is not
        valid TOML.
    """
    try:
        if path.is_fifo():
            raise UserError(f"cannot read {path}: it is a pipe; give a file")
        with path.open("rb") as file:
            read = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if len(read) > MAX_BYTES:
        raise UserError(f"{path} is larger than {MAX_BYTES // 1000} kB: leave out what is not an answer")
    if read.count(b".") > MAX_DOTS:
        raise UserError(f"{path} has more than {MAX_DOTS:,} dots: leave out what is not an answer")
    try:
        return tomllib.loads(read.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 at byte {error.start}: save it as UTF-8") from None
    except (ValueError, RecursionError, MemoryError) as error:
        why = " ".join(str(error).split())[:200]
        if not isinstance(error, tomllib.TOMLDecodeError):
            why = "it is nested too deeply, or has a number of too many digits"
        raise UserError(f"{path} is not valid TOML: {why}") from None


def grade(answers: Mapping[str, Any], seed: int = 0) -> Report:
    """Grades the answers of one file. Blank answers are skipped.

    Args:
      answers: a dict of fields for each topic, and "year".
      seed: decides the vectors that are drawn.

    Returns:
      The report. If an answer cannot be read, the others are graded all the same.
    """
    year = answers.get("year")
    known = type(year) is int and year in YEARS
    graded, unasked = [], []
    for topic, fields in answers.items():
        if topic == "year":
            if not known:
                given = repr(year) if type(year) is str else f"of the type {type(year).__name__}"
                given = str(year) if type(year) is int and 0 <= year < 10_000 else given[:30]
                why = f"year is {given}: choose from {YEARS[0]} to {YEARS[-1]}"
                graded.append(
                    Graded("year", "the year of the handout", "", 0, Verdict(UNREADABLE, reason=why))
                )
        elif topic in PROSE:
            unasked.append(topic)
        elif topic not in TOPICS:
            graded.append(Graded(_shown(topic), "", "", 0, Verdict(UNREADABLE, reason=_unknown(topic))))
        elif not isinstance(fields, dict):
            why = f"give a section [{topic}] with {', '.join(TOPICS[topic].fields)}"
            graded.append(Graded(topic, TOPICS[topic].about, "", 0, Verdict(UNREADABLE, reason=why)))
        elif not all(is_blank(value) for field, value in fields.items() if field != "large"):
            asked = TOPICS[topic].asked
            when = year if known else max(asked)
            if when not in asked:
                unasked.append(topic)
            number, points = asked.get(when, ("", 0))
            verdict = check(topic, fields, when, seed)
            graded.append(Graded(topic, TOPICS[topic].about, number, points, verdict))
    if known:
        total = sum(topic.asked.get(year, ("", 0))[1] for topic in TOPICS.values())
    else:
        total = sum(each.points for each in graded)
    return Report(graded, total, unasked)


def table(reports: Mapping[str, Report]) -> str:
    """Returns a CSV table with a line for each file: points, counts of verdicts, verdicts on the topics."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "points", "max_points", RIGHT, WRONG, UNREADABLE, *TOPICS, "error"])
    for name, report in reports.items():
        verdicts = {each.topic: each.verdict.verdict for each in report.graded}
        counts = [report.count(verdict) for verdict in (RIGHT, WRONG, UNREADABLE)]
        row = [_cell(readable(name)), f"{report.score:g}", f"{report.total:g}", *counts]
        writer.writerow([*row, *(verdicts.get(topic, "") for topic in TOPICS), _cell(report.error)])
    return text.getvalue()


def template(year: int) -> str:
    """Returns a TOML file with blanks for the answers to the questions of a year.

    Raises:
      UserError: we do not know the questions of that year.
    """
    if year not in YEARS:
        raise UserError(f"--template={year}: choose a year from {YEARS[0]} to {YEARS[-1]}")
    lines = [
        f"# Answers to the mathematical questions of {year}. Fill in the blanks.",
        "# What you leave blank counts as not answered.",
        "# Check them with: python -m kgpt_jax.main --mode=check --answers_path=FILE",
        f"year = {year}",
    ]
    for name, topic in TOPICS.items():
        if year in topic.asked:
            number, points = topic.asked[year]
            worth = f", {points:g} point{'s' if points != 1 else ''}" if points else ""
            lines += ["", f"# {number}{worth}: {topic.about}", *_given(topic), f"[{name}]"]
            lines += ['large = "beta"'] * bool(topic.large)
            lines += [_blank(field, kind, topic) for field, kind in topic.fields.items()]
    return "\n".join(lines) + "\n"


def _given(topic: Topic) -> list[str]:
    """Returns comment lines with the names and functions that a question gives."""
    language = topic.language
    sums = [f"{sum_of}({family})" for family in language.families for sum_of in ("total", "others")]
    functions = [f"{name}()" for name in (*language.functions, *language.own)]
    lines = []
    if language.names:
        lines.append(f"# given: {', '.join([*language.names, *sums])}")
    if functions:
        lines.append(f"# functions: {', '.join(functions)}")
    return lines


def _blank(field: str, kind: str, topic: Topic) -> str:
    """Returns the line of a blank field."""
    if kind == "steps":
        return f'{field} = ["", ""]  # as many steps as you need'
    optional = ", only if can_coincide is true" if field in topic.optional else ""
    return f'{field} = ""  # {kind}{optional}'


def _row(topic: str, number: str, verdict: str, residual: str, since: str, reason: str) -> str:
    return f"{topic:<22}{number:<8}{verdict:<12}{residual:<10}{since + ' ':<14}{reason}".rstrip()


def _unknown(topic: str) -> str:
    near = difflib.get_close_matches(topic[:40], TOPICS, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"there is no topic {_shown(topic)}: {hint}--mode=check --template=YEAR lists the topics"


def _shown(name: str) -> str:
    """Returns a name from a file so that it fits a line."""
    text = name if name.isprintable() else ascii(name)
    return text if len(text) <= 21 else f"{text[:18]}..."


def readable(name: str) -> str:
    """Returns a file's name with escapes for what cannot be printed."""
    return name if name.isprintable() else ascii(name)[1:-1]


def _cell(text: str) -> str:
    """Returns a text so that no spreadsheet takes it for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
