"""--mode=ask: questions from flags, from a pipe and from a terminal."""

import builtins
import io
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest

from kgpt_jax import main
from kgpt_jax.data.vocab import MASK
from kgpt_jax.store.folder import read_run
from tests import runs
from tests.commands import refused, run

ANN, BOB = "Where was Ann born?", "Where was Bob born?"


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """The flags that ask a run, and what it answers to ANN and BOB."""
    flags = ["--mode=ask", f"--reading_params_path={runs.saved(tmp_path_factory.mktemp('run')).folder}"]
    lines = run(*flags, f"--question={ANN}", f"--question={BOB}").splitlines()
    assert [line.startswith(question) for line, question in zip(lines, (ANN, BOB), strict=True)] == [True] * 2
    return flags, [line.removeprefix(f"{question} ") for line, question in zip(lines, (ANN, BOB))]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_answers_alone_go_to_standard_output(asked, monkeypatch):
    flags, (ann, bob) = asked
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"\ufeff{BOB}\n\n  {ANN}é \n"))  # Windows marks its files
    assert run(*flags) == f"{BOB} {bob}\n{ANN}é {ann}\n"


def test_spaces_around_a_question_do_not_count(asked):
    flags, (ann, _) = asked
    assert run(*flags, f"--question= {ANN} ") == f"{ANN} {ann}\n"


def test_notes_go_to_standard_error(asked, monkeypatch):
    flags, _ = asked
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{ANN}é\n"))
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        assert main.main(flags) == 0
    assert len(out.getvalue().splitlines()) == 1
    assert "note: question 1: left out 'é', which the vocabulary lacks" in err.getvalue()
    assert err.getvalue().startswith("asking ")


@pytest.mark.parametrize("end", ["", EOFError()])  # an empty line, or Ctrl-D
def test_a_terminal_is_asked_for_one_question_after_the_other(asked, monkeypatch, end):
    flags, (ann, bob) = asked
    latin_1 = UnicodeDecodeError("utf-8", b"Zo\xeb", 2, 3, "unexpected end of data")
    typed = iter([ANN, "a" * 300, latin_1, BOB, end, ANN])

    def read():
        line = next(typed)
        if isinstance(line, Exception):
            raise line
        return line

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(builtins, "input", read)
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        assert main.main(flags) == 0
    assert out.getvalue() == f"{ann}\n{bob}\n" and err.getvalue().count("question: ") == 5
    assert "\nquestion: error: this is not text in utf-8 (unexpected end of data)\n" in err.getvalue()


@pytest.mark.parametrize(
    "question, complaint",
    [
        ("a" * 127, "has 127 characters: at most 126 fit"),
        ("", "a question is '': give one line of text"),
        (f"Who?{MASK}", "which stands for masked text here"),
        ("Where?\nWhen?", "has a line break"),
    ],
)
def test_questions_that_cannot_be_asked_are_refused(asked, question, complaint):
    assert complaint in refused(*asked[0], f"--question={question}")


def test_a_pipe_without_questions_is_refused(asked, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n"))
    assert "standard input has no question: write one on each line" in refused(*asked[0])


def test_further_runs_vote(asked, tmp_path):
    flags, (ann, _) = asked
    others = [str(runs.saved(tmp_path / f"{seed}", seed=5).folder) for seed in (1, 2)]
    answer = run("--mode=ask", f"--reading_params_path={others[0]}", f"--question={ANN}")
    assert read_run(others[0]).facts["stage"] == "import" and answer != f"{ANN} {ann}\n"
    assert run(*flags, f"--question={ANN}", f"--voters={','.join(others)}") == answer


def test_the_checkpoint_that_is_asked_for_answers(asked):
    flags, _ = asked
    assert "has no valid checkpoint 7" in refused(*flags, "--checkpoint=7", f"--question={ANN}")
