"""Finds the documents about a name: by the name, by a similar name, or by their text.

    lookup = Lookup(documents, names)
    found = lookup.find("Ada Bell")
    found.rows, found.name, found.how

Documents that begin with a title, `Name. `, are found by it. In a corpus without titles, they are found by
the names that they contain. Misspelled names, other accents, another case and another order of the words are
matched by RapidFuzz. If no name is similar, BM25 (bm25s) searches the text for the words. Both need
`pip install ".[lookup]"`.
"""

import logging
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

from kgpt_jax.config import UserError
from kgpt_jax.data.spans import capitalised, title

NAME, SIMILAR, TEXT = "name", "similar name", "text"
LEAST_SIMILARITY = 82.0  # of 100: the least similarity of a misspelled name
INSTALL = 'pip install ".[lookup]"'


class Found(NamedTuple):
    """Documents about a name.

    Attributes:
      rows: their indices, in order; none if nothing was found.
      name: the name that they are about, which is not the one asked for if that was misspelled.
      how: name, similar name or text.
      others: further names as similar as this one.
    """

    rows: list[int]
    name: str
    how: str
    others: tuple[str, ...] = ()


class Lookup:
    """An index of documents.

    Args:
      documents: the documents.
      names: known names. If fewer than half of them are titles, documents are found by the names in them.

    Attributes:
      rows_of: the indices of the documents about each name.
      titled: whether documents begin with titles.
    """

    def __init__(self, documents: Sequence[str], names: Sequence[str] = ()):
        self.documents = documents
        self.rows_of: dict[str, list[int]] = {}
        for row, document in enumerate(documents):
            if name := title(document):
                self.rows_of.setdefault(name, []).append(row)
        self.titled = 2 * sum(name in self.rows_of for name in names) >= len(names)
        if not self.titled:
            self.rows_of = _rows_that_contain(documents, set(names))

    def find(self, name: str) -> Found:
        """Returns the documents about a name.

        Raises:
          UserError: no document is about the name, and RapidFuzz or bm25s, which would look further, is not
            installed.
        """
        if rows := self.rows_about(name):
            return Found(rows, name, NAME)
        similar, score = self._similar(name)
        if similar:
            # Other accents, or another order of the words, unless that makes several names equal.
            how = NAME if score == 100 and len(similar) == 1 else SIMILAR
            return Found(self.rows_of[similar[0]], similar[0], how, tuple(similar[1:]))
        row = self.by_text(name)
        return Found([] if row is None else [row], name, TEXT)

    def rows_about(self, name: str) -> list[int]:
        """Returns the documents about exactly this name.

        In a corpus without titles, all documents are searched for a name that is not known. Only a whole run
        of capitalised words counts, because a part of a run may be a part of another name.
        """
        if name in self.rows_of or self.titled or len(name.split()) < 2:
            return self.rows_of.get(name, [])
        return [row for row, text in enumerate(self.documents) if name in text and name in capitalised(text)]

    def _similar(self, name: str) -> tuple[list[str], float]:
        """Returns the most similar names, if they are similar enough, and how similar they are, of 100."""
        try:
            from rapidfuzz import fuzz, process
        except ImportError:
            raise UserError(
                f"no document is about {name!r}, and similar names need RapidFuzz: {INSTALL}"
            ) from None
        plain = _plain(name)
        score = {
            scorer: process.cdist([plain], self._plain_names, scorer=scorer, score_cutoff=LEAST_SIMILARITY)[0]
            for scorer in (fuzz.ratio, fuzz.token_sort_ratio)
        }
        best_N = max(score.values(), key=lambda of: of.max(initial=0))
        most = best_N.max(initial=0)
        return [name for name, value in zip(self.rows_of, best_N) if most and value == most], float(most)

    @cached_property
    def _plain_names(self) -> list[str]:
        return [_plain(name) for name in self.rows_of]

    def by_text(self, text: str) -> int | None:
        """Returns the document that fits the words of a text best; None if no document has any of them."""
        try:
            index = self._bm25
        except ImportError:
            raise UserError(
                f"no name resembles {text!r}, and a search of the text needs bm25s: {INSTALL}"
            ) from None
        wanted = [word for word in _words(text) if word in index.vocab_dict]
        if not wanted:
            return None
        scores = index.get_scores(wanted)
        return int(scores.argmax()) if scores.max() > 0 else None

    @cached_property
    def _bm25(self):
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it logs for debugging, whatever the level is
        index = bm25s.BM25()
        index.index([_words(document) for document in self.documents], show_progress=False)
        return index


def _rows_that_contain(documents: Sequence[str], names: set[str]) -> dict[str, list[int]]:
    """Returns the documents that hold each name as whole words. The longest of overlapping names counts."""
    name_of = {tuple(_bare_words(name)): name for name in sorted(names)}
    longest = max(map(len, name_of))
    rows_of: dict[str, list[int]] = {}
    for row, document in enumerate(documents):
        words = _bare_words(document)
        first = 0
        while first < len(words):
            phrases = [tuple(words[first : first + width]) for width in range(longest, 0, -1)]
            phrase = next((phrase for phrase in phrases if phrase in name_of), ())
            if phrase and rows_of.setdefault(name_of[phrase], [])[-1:] != [row]:
                rows_of[name_of[phrase]].append(row)
            first += max(len(phrase), 1)
    return rows_of


def _bare_words(text: str) -> list[str]:
    """Returns the words of a text without the punctuation around them, and without a possessive 's.

    >>> _bare_words("Sammy Davis Jr.'s friends (and Ada’s)")
    ['Sammy', 'Davis', 'Jr', 'friends', 'and', 'Ada']
    """
    marks = ".,;:!?()'’\""
    words = [word.strip(marks) for word in text.split()]
    return [word.removesuffix("'s").removesuffix("’s").rstrip(marks) for word in words]


def _plain(name: str) -> str:
    """Returns a name in lower case, without accents.

    >>> _plain("Björn Åkesson")
    'bjorn akesson'
    """
    apart = unicodedata.normalize("NFKD", name.casefold())
    return "".join(character for character in apart if not unicodedata.combining(character))


def _words(text: str) -> list[str]:
    return _plain(text).replace(".", " ").replace(",", " ").split()
