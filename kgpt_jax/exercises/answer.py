"""A question, and the fields of an answer to it.

`Answer` reads each field as the question's judge needs it:

    answer = Answer("average", TOPICS["average"], {"large": "L", "q": "..."}, year=2021, seed=0)
    q = answer.expression("q")

A field that cannot be read raises Unreadable.
"""

import keyword
import unicodedata
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from kgpt_jax.config import UserError
from kgpt_jax.exercises.expression import (
    MAX_NUMBER,
    SUMS,
    Budget,
    Expression,
    Language,
    Unreadable,
    latin,
    parse,
    shape_name,
)
from kgpt_jax.exercises.verdict import Verdict


class Topic(NamedTuple):
    """A question.

    Attributes:
      about: the question in a few words.
      asked: number and points of the question, by year; 0 points if we do not know them.
      fields: the fields of an answer, with the kind of each, as the template shows it: column, matrix,
        number, numbers, steps, or true or false.
      language: what the question gives.
      judge: says whether an answer is right.
      large: how many large scalars of its own an answer may use.
      optional: fields that may be missing.
    """

    about: str
    asked: Mapping[int, tuple[str, float]]
    fields: Mapping[str, str]
    language: Language
    judge: "Callable[[Answer], Verdict]"
    large: int = 0
    optional: tuple[str, ...] = ()


class Answer:
    """The fields of an answer to one question, read as the question's functions need them."""

    def __init__(self, name: str, topic: Topic, fields: Mapping[str, Any], year: int, seed: int):
        self.topic, self.year, self.seed = topic, year, seed
        if seed < 0:
            raise UserError(f"--seed={seed}: give 0 or more")
        if not isinstance(fields, Mapping):
            raise Unreadable(f"give a section with {', '.join(topic.fields)}")
        self.rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
        self.fields = fields
        known = [*self.topic.fields, *(["large"] if self.topic.large else [])]
        if unknown := [name for name in fields if name not in known]:
            raise Unreadable(f"there is no field {str(unknown[0])[:30]!r}: the fields are {', '.join(known)}")
        blank = [
            name
            for name in self.topic.fields
            if name not in self.topic.optional and is_blank(fields.get(name, ""))
        ]
        if blank:
            raise Unreadable(f"{blank[0]} is missing: the question has the fields {', '.join(known)}")
        self.large = self._large() if self.topic.large else ()
        language = self.topic.language
        self.language = language._replace(names={*language.names, *self.large}, budget=Budget())

    def _large(self) -> tuple[str, ...]:
        given = self.fields.get("large", "")
        given = "beta" if is_blank(given) else given
        names = given if isinstance(given, list | tuple) else [given]
        if not all(isinstance(name, str) and name.isidentifier() and len(name) <= 20 for name in names):
            raise Unreadable('large: give names of scalars, as in large = "L" or large = ["L", "M"]')
        names = tuple(latin(unicodedata.normalize("NFKC", name)) for name in names)
        if len(set(names)) < len(names) or len(names) > self.topic.large:
            many = "one name" if self.topic.large == 1 else f"at most {self.topic.large} names, each once"
            raise Unreadable(f"large: give {many}")
        language = self.topic.language
        taken = {*language.names, *language.families, *language.functions, *language.own, *SUMS}
        taken |= {*keyword.kwlist} - {"lambda"}  # Python's parser reads the answers
        if clash := [name for name in names if name in taken]:
            raise Unreadable(f"large: {clash[0]} has a meaning already: choose another name")
        return names

    def expression(self, field: str, value: Any = None) -> Expression:
        """Returns a field, or one text of a field, as an expression."""
        value = _plain(self.fields.get(field) if value is None else value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            if not abs(value) <= MAX_NUMBER:  # `not <=` refuses NaN, too
                raise Unreadable(f"{field}: numbers go up to {MAX_NUMBER:.0e}")
            value = repr(value)
        if not isinstance(value, str):
            raise Unreadable(f'{field}: write the expression in quotes, as in {field} = "..."')
        return _of(field, lambda: parse(value, self.language))

    def expressions(self, field: str, least: int) -> list[Expression]:
        """Returns a field that is a list of expressions, or one expression."""
        given = self.fields[field]
        texts = given if isinstance(given, list | tuple) else [given]
        if not least <= len(texts) <= 50:
            raise Unreadable(f"{field}: give a list of {least} to 50 expressions")
        return [self.expression(f"{field} {number}", text) for number, text in enumerate(texts, 1)]

    def truth(self, field: str) -> bool:
        """Returns a field that is true or false."""
        value = _plain(self.fields[field])
        words = {"true": True, "yes": True, "false": False, "no": False}
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.strip().lower() in words:
            return words[value.strip().lower()]
        raise Unreadable(f"{field}: write true or false")

    def number(self, field: str) -> float:
        """Returns a field that is a number."""
        value = self.expression(field).value({})
        if value.shape != (1, 1, 1) or not np.isfinite(value).all():
            raise Unreadable(f"{field}: write a number")
        return value.item()

    def whole(self, field: str, least: int) -> int:
        """Returns a field that is a whole number."""
        value = self.number(field)
        if value != int(value) or value < least:
            raise Unreadable(f"{field}: write a whole number of at least {least}")
        return int(value)

    def value(self, field: str, expression: Expression, given: Mapping[str, object], *shape: int):
        """Computes a field.

        Args:
          field: its name, for errors.
          expression: the answer.
          given: the values of the names in it.
          shape: rows and columns that the value must have; any, if they are left out.

        Returns:
          With `shape`: (N,) for a number, (N, D) for a column, (N, rows, columns) for a matrix. Without it
          always (N, rows, columns). N may be 1.

        Raises:
          Unreadable: the value has another shape, or cannot be computed.
        """
        value = _of(field, lambda: expression.value(given))
        if shape not in ((), (1, 1)) and value.shape[1:] == (1, 1) and not value.any():
            value = np.zeros((1, *shape))  # 0 is also the zero vector and the zero matrix
        if shape and value.shape[1:] != shape:
            wanted = shape_name(np.empty((1, *shape)))
            raise Unreadable(f"{field} is {shape_name(value)}, and must be {wanted}")
        return value[:, 0, 0] if shape == (1, 1) else value[:, :, 0] if shape and shape[1] == 1 else value


def is_blank(value: Any) -> bool:
    """Returns whether a field is as the template leaves it."""
    if isinstance(value, list | tuple):
        return all(isinstance(each, str) and not each for each in value)
    return isinstance(value, str | dict) and not value


def _plain(value: Any) -> Any:
    """Returns the number or truth value of a NumPy scalar, whose type and text differ from Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _of(field: str, compute: Callable):
    """Returns `compute()`, and names the field if it is unreadable."""
    try:
        return compute()
    except Unreadable as error:
        raise Unreadable(f"{field}: {error}") from None
