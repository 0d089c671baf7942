"""Finds spans of a document that are worth masking: names, places, answers.

Documents may begin with a title, `Name. `, as the course's do.
"""

import re
from collections.abc import Iterable

_TITLE = re.compile(r"(?:(?! is | was ).){1,60}?(?<!\b\w)\. ")
# The small letters of Latin, Greek, Cyrillic and others. Letters without case count as capitals.
_SMALL = "".join(char for char in map(chr, range(0x2000)) if char.islower() and char.title() != char)
_WORD = rf"[^\W\d_{_SMALL}][\w'’.-]*\w"
_CAPITALISED = re.compile(rf"\b{_WORD}(?: {_WORD})*")


def title_length(document: str) -> int:
    """Returns the length of the title `Name. ` that a document begins with, or 0 if there is none.

    The point of an initial does not end a title, and a sentence with "is" or "was" is no title.

    >>> title_length("Augustus A. Bird. In 1836, Bird moved."), title_length("Yara Ahmadi was born. She")
    (18, 0)
    """
    found = _TITLE.match(document)
    return found.end() if found else 0


def title(document: str) -> str:
    """Returns the title of a document without the point, or "" if there is none.

    >>> title("Augustus A. Bird. In 1836, Bird moved.")
    'Augustus A. Bird'
    """
    return document[: title_length(document)].removesuffix(". ")


def entities(document: str) -> list[tuple[int, int]]:
    """Returns (start, width) of the runs of capitalised words after the title, of 3 to 32 characters.

    Runs whose words all occur in the title are left out, and so are single words that begin a sentence.

    >>> text = "Ada Bell. Born in New York, Bell lives in Rome ."
    >>> [text[start : start + width] for start, width in entities(text)]
    ['New York', 'Rome']
    >>> text = "Ада Белл. Ада Белл родилась в городе Рим ."
    >>> [text[start : start + width] for start, width in entities(text)]
    ['Рим']
    """
    begin = title_length(document)
    known = set(re.findall(r"\w+", document[:begin]))
    found = _CAPITALISED.finditer(document, begin)
    return [
        (run.start(), len(run.group()))
        for run in found
        if 3 <= len(run.group()) <= 32
        and not known.issuperset(re.findall(r"\w+", run.group()))
        and (" " in run.group() or run.start() and not document.endswith(". ", 0, run.start()))
    ]


def capitalised(text: str) -> set[str]:
    """Returns the runs of capitalised words in a text, without a possessive 's.

    >>> sorted(capitalised("Al Smith Jr. met Ada Bell's friend."))
    ['Ada Bell', 'Al Smith Jr']
    """
    return {run.removesuffix("'s").removesuffix("’s") for run in _CAPITALISED.findall(text)}


def any_of(answers: set[str]) -> re.Pattern:
    """Returns the pattern for `mentions` that matches any answer as whole words, preferring long answers."""
    longest_first = sorted(answers, key=lambda answer: (-len(answer), answer))
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")


def mentions(document: str, pattern: re.Pattern) -> list[tuple[int, int]]:
    """Returns (start, width) of each match of the pattern after the title.

    >>> answers = any_of({"York", "New York", "Oslo"})
    >>> mentions("Ada Bell. Born in New York, Bell lives in York .", answers)
    [(18, 8), (42, 4)]
    """
    found = pattern.finditer(document, title_length(document))
    return [(mention.start(), len(mention.group())) for mention in found if mention.group()]


def places(documents: Iterable[str], answers: set[str]) -> list[str]:
    """Returns texts that may be places: the answers, and runs of capitalised words after "in" or "at".

    >>> places(["Ada Bell. Bell was born at Little Ham and taught Mary ."], {"Oslo"})
    ['Little Ham', 'Oslo']
    """
    found = {
        document[start : start + width]
        for document in documents
        for start, width in entities(document)
        if document.endswith((" in ", " at "), 0, start)
    }
    return sorted(found | answers)
