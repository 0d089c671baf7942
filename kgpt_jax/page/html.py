"""Renders the page as HTML. Everything that is shown is escaped."""

from functools import cache
from pathlib import Path

from kgpt_jax.answer.predict import MAX_ANSWER
from kgpt_jax.answer.record import in_hundred
from kgpt_jax.page.view import MAX_QUESTION, MEANING, Answerer, View

HERE = Path(__file__).parent


def page(
    answerer: Answerer,
    typed: str = "",
    view: View | None = None,
    problem: str = "",
    teaching: bool = False,
) -> str:
    """Returns the page with the form.

    Args:
      answerer: the runs and the documents that answer.
      typed: the text in the form.
      view: the answer; None shows the form alone.
      problem: what is wrong with the text that was typed.
      teaching: whether there is a form to tell the run the answer.
    """
    return _template().render(answerer=answerer, typed=typed, view=view, problem=problem, teaching=teaching)


def self_contained(answerer: Answerer, view: View) -> str:
    """Returns the page about one question as a file that needs no other file and no server."""
    return _template().render(answerer=answerer, view=view, style=asset("page.css"))


def message(title: str, text: str) -> str:
    """Returns an error page: a title and a sentence."""
    return _template().render(title=title, text=text)


def asset(name: str) -> str:
    """Returns a file beside this one."""
    return HERE.joinpath(name).read_text("utf-8")


@cache
def _template():
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(
        "page.html",
        globals=dict(
            MEANING=MEANING, MAX_QUESTION=MAX_QUESTION, MAX_ANSWER=MAX_ANSWER, in_hundred=in_hundred
        ),
    )
