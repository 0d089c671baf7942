import json
import os
import tomllib

import pytest

from tests.commands import refused, run

ANSWERS = """
year = 2021
[average]
large = "L"
q = "L * (k_a + k_b)"
[key_query_value]
V = "(u_b @ u_b.T - u_c @ u_c.T) / beta**2"
K = "I"
Q = "0 * I"
"""


@pytest.fixture
def answers(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(ANSWERS, "utf-8")
    return path


def check(*flags):
    return run("--mode=check", *flags)


def test_prints_a_table_and_writes_the_report_of_gradescope(answers, tmp_path):
    results = tmp_path / "results" / "results.json"
    printed = check(f"--answers_path={answers}", f"--outputs_path={results}")
    assert printed.splitlines() == [
        "topic                 number  verdict     residual  from",
        "average               1(b)    right       5.3e-07   L 20",
        "key_query_value       1(e)ii  wrong       7.4e-01                 c_1 = 0.667 u_b - 0.333 u_c, "
        "looks at 0.333 0.333 0.333 (d 4, beta 64, seed 0)",
        "1 right, 1 wrong, 0 unreadable; 4 of 21 points",
    ]
    written = results.read_text("utf-8")
    report = json.loads(written)
    assert report["output"] + "\n" == printed
    assert (report["score"], report["stdout_visibility"]) == (4, "visible")
    assert report["tests"][1]["extra_data"]["counterexample"] == {
        "d": 4,
        "beta": 64.0,
        "seed": 0,
        "found": "c_1 = 0.667 u_b - 0.333 u_c",
        "weights": [0.333, 0.333, 0.333],
    }
    check(f"--answers_path={answers}", f"--outputs_path={results}")
    assert results.read_text("utf-8") == written


def test_a_file_that_cannot_be_read_still_gives_a_report(answers, tmp_path):
    answers.write_text("average = ", "utf-8")
    results = tmp_path / "results.json"
    line = refused("--mode=check", f"--answers_path={answers}", f"--outputs_path={results}")
    assert "is not valid TOML: Invalid value" in line
    assert json.loads(results.read_text("utf-8")) == {
        "score": 0,
        "output": line.removeprefix("error: ").rstrip(),
        "stdout_visibility": "visible",
        "tests": [],
        "extra_data": {"unasked": []},
    }


def test_no_file_name_stops_the_grading_or_writes_lines_of_its_own(answers, tmp_path):
    names = [b"b\xff.toml", b"a\nz: 15 right.toml", b"c\x1b[31m.toml"]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(b"\xe9")
    folder = tmp_path / "reports"
    printed = check(f"--answers_path={tmp_path}", f"--outputs_path={folder}").splitlines()
    assert len(printed) == len(names) + 2  # one line for each file, and for what was written
    assert "".join(printed).isprintable()
    assert len((folder / "grades.csv").read_text("utf-8").splitlines()) == len(names) + 2  # and the header


def test_a_folder_gives_a_report_for_each_file_and_a_table(answers, tmp_path):
    (tmp_path / "broken.toml").write_bytes(b"\xe9")
    folder = tmp_path / "reports"
    printed = check(f"--answers_path={tmp_path}", f"--outputs_path={folder}")
    assert printed.splitlines() == [
        f"broken.toml: {tmp_path}/broken.toml is not UTF-8 at byte 0: save it as UTF-8",
        "mine.toml: 1 right, 1 wrong, 0 unreadable; 4 of 21 points",
        f"wrote {folder}/grades.csv and 2 reports",
    ]
    assert sorted(path.name for path in folder.glob("[!.]*")) == ["broken.json", "grades.csv", "mine.json"]
    assert [line.split(",")[:3] for line in (folder / "grades.csv").read_text("utf-8").splitlines()] == [
        ["file", "points", "max_points"],
        ["broken.toml", "0", "0"],
        ["mine.toml", "4", "21"],
    ]


@pytest.mark.parametrize(
    "flags, why",
    [
        ([], "--mode=check needs --answers_path"),
        (["--answers_path=absent.toml"], "cannot read absent.toml: No such file or directory"),
        (["--answers_path=" + "a" * 5_000], "cannot read aaa"),
        (["--answers_path={}/pipe"], "it is a pipe; give a file"),
        (["--answers_path={}/mine.toml", "--seed=-1"], "seed is -1: give 0 to"),
        (
            ["--template=2021", "--answers_path=mine.toml"],
            "--template prints a file: give it alone, and redirect it, as in > mine.toml",
        ),
        (["--template=2021", "--outputs_path=mine.toml"], "--template prints a file: give it alone"),
        (["--template=2020"], "--template=2020: choose a year from 2021 to 2026"),
        (
            ["--answers_path={}", "--outputs_path={}/mine.toml"],
            "cannot write",
        ),
        (["--answers_path={}"], "is a folder: give --outputs_path, the folder of the reports"),
        (["--answers_path={}/empty", "--outputs_path=out"], "has no file whose name ends in .toml"),
        (["--answers_path={}/mine.toml", "--outputs_path={}/mine.toml"], "is read by this command"),
    ],
)
def test_refuses(flags, why, answers, tmp_path):
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert why in refused("--mode=check", *(flag.format(tmp_path) for flag in flags))
    assert answers.read_text("utf-8") == ANSWERS


def test_prints_a_template():
    assert tomllib.loads(check("--template=2024"))["rope_relative"] == {"steps": ["", ""]}
