"""The assignment's mathematical questions: experiments that compute them, and a checker for answers to them.

    from kgpt_jax.exercises import check

    assert check("average", {"large": "L", "q": "..."}).right

docs/exercises.md describes the questions and the language of the answers.
"""

from kgpt_jax.exercises.grading import check

__all__ = ["check"]
