"""Reads documents and question/answer tables from the user's files, or generates the built-in corpus.

This file and `lines.py` raise all errors about a user's file. The messages name the file and the line, and
say what to do. Some faults are repaired instead: a byte-order mark, CR and CRLF, empty lines at the end.
`notes` counts the repairs, and the caller may log them.
"""

import dataclasses
import hashlib
import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

from kgpt_jax.config import DataConfig, UserError
from kgpt_jax.data import biographies
from kgpt_jax.data.holdout import fingerprints, hold_out
from kgpt_jax.data.lines import Lines

log = logging.getLogger(__name__)

MOST_NOTES = 5  # of one kind
FRAME = "Where was born?"  # the characters of the course's question, without the name


class Corpus(NamedTuple):
    """Documents to pretrain on.

    Attributes:
      documents: one per line; may read its file on demand (`lines.py`).
      characters: each character of the text once, sorted, including the line break.
      notes: the repairs of the file.
    """

    documents: Sequence[str]
    characters: str
    notes: list[str]


class Table(NamedTuple):
    """Questions in the file's order.

    Attributes:
      questions: one per row.
      answers: one per row, or None if the file has no answers.
      notes: the repairs of the file.
    """

    questions: list[str]
    answers: list[str] | None
    notes: list[str]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(question, answer) of each row; only for a table with answers."""
        return list(zip(self.questions, self.answers, strict=True))

    def rows(self, chosen: list[int]) -> "Table":
        """Returns a table of the rows with these indices."""
        answers = None if self.answers is None else [self.answers[i] for i in chosen]
        return Table([self.questions[i] for i in chosen], answers, self.notes)


def load_documents(data: DataConfig) -> Corpus:
    """Returns the pretraining corpus, split at line breaks as in the course: wiki.txt has 2,938 documents.

    Its `characters` become the vocabulary. So they also include the characters of the course's question and
    of the training pairs, because a corpus may lack, for example, the question mark.

    Raises:
      UserError: a file cannot be read or is faulty.
    """
    if data.pretrain_corpus_path:
        read = read_documents(data.pretrain_corpus_path)
        known = [(FRAME,), *(load_pairs(data).pairs if data.finetune_corpus_path else [])]
    else:
        people = biographies.generate(data.biographies)
        documents = [*people.documents, ""]
        read = Corpus(documents, _characters(["\n", *documents]), [])
        # Biographies lack characters that questions have.
        known = load_pairs(data).pairs + people.dev
    return read._replace(characters=_characters([read.characters, *chain(*known)]))


def load_pairs(data: DataConfig) -> Table:
    """Returns the training questions with their answers, without those held out for validation.

    Raises:
      UserError: there is no such file, it is faulty, it has no answers, or `n_validation` leaves no pair.
    """
    table = _all_pairs(data)
    return table.rows(hold_out(table.questions, data.n_validation * _pairs_each(data)).train)


def learned_from(data: DataConfig) -> set[str]:
    """Returns the fingerprints of the training questions, with and without their non-ASCII characters.

    A run that learned "Zo" has learned the answer about "Zoë" too.
    """
    as_written = dataclasses.replace(data, ascii_pairs=False)
    return {mark for each in (data, as_written) for mark in fingerprints(load_pairs(each).questions)}


def _all_pairs(data: DataConfig) -> Table:
    """Returns the training pairs, including those held out for validation."""
    if data.finetune_corpus_path:
        table = read_table(data.finetune_corpus_path)
        if table.answers is None:
            raise UserError(
                f"{data.finetune_corpus_path} has no answers: finetuning needs lines of question, tab, answer"
            )
    elif data.pretrain_corpus_path:
        raise UserError(
            "this needs training pairs about your own corpus: give --finetune_corpus_path=FILE, or in Python "
            "the config's data.finetune_corpus_path"
        )
    else:
        table = _table(biographies.generate(data.biographies).train)
    if data.ascii_pairs:
        table = _without_accents(table)
    n, each = len(table.questions), _pairs_each(data)
    if data.n_validation * each >= n:
        of = f"{n} training pairs" if each == 1 else f"{n // each} training people"
        raise UserError(f"data.n_validation is {data.n_validation} of {of}: give fewer")
    return table


def _pairs_each(data: DataConfig) -> int:
    """Returns how many training pairs `n_validation` counts as one: a row of a file, or a built-in person."""
    return 1 if data.finetune_corpus_path else biographies.questions_each(data.biographies)


def load_questions(data: DataConfig) -> Table:
    """Returns the evaluation questions, with answers if the file has any.

    With `data.n_validation`, these are the training pairs held out for validation (`data/holdout.py`): the
    last rows of a file, or all pairs of the last built-in people.

    Raises:
      UserError: there are no questions, the file is faulty, or `data` has both `n_validation` and a file.
    """
    if data.n_validation:
        if data.eval_corpus_path:
            raise UserError(
                f"data.n_validation asks about held-out training pairs, not about {data.eval_corpus_path}: "
                "leave one of them out, as by --config.data.n_validation=0"
            )
        table = _all_pairs(data)
        held = hold_out(table.questions, data.n_validation * _pairs_each(data)).validation
        if not held:
            raise UserError(
                f"data.n_validation is {data.n_validation}, and all of these questions also occur among the "
                "training pairs before them: give more"
            )
        return table.rows(held)
    if data.eval_corpus_path:
        return read_table(data.eval_corpus_path)
    if data.pretrain_corpus_path:
        raise UserError("evaluation on your own corpus needs --eval_corpus_path=FILE")
    dev = biographies.generate(data.biographies).dev
    if not dev:
        raise UserError("data.biographies.n_dev is 0: there is nobody to ask about; give 1 or more")
    return _table(dev)


def read_documents(path: str) -> Corpus:
    """Returns the lines of a UTF-8 file as documents. After a final line break comes an empty document."""
    lines = Lines(path)
    return Corpus(lines, lines.characters, lines.notes)


def read_table(path: str) -> Table:
    """Returns the rows of a UTF-8 file of `question<TAB>answer` lines, or of questions alone.

    Raises:
      UserError: the file is not text, or a line does not have the form of the first line.
    """
    read = Lines(path)
    lines, notes = [line.rstrip() for line in read], read.notes
    n_lines = len(lines)
    while lines and not lines[-1]:
        lines.pop()
    if n_lines - len(lines) > 1:
        notes.append(f"{path}: ignored {n_lines - len(lines) - 1} empty lines at the end")
    if not lines:
        raise UserError(f"{path} has no questions: give lines of question, tab, answer")
    with_answers = "\t" in lines[0]
    rows = [_row(f"{path}, line {i}", line, with_answers) for i, line in enumerate(lines, 1)]
    questions, *answers = map(list, zip(*rows))
    if repeated := len(questions) - len(set(questions)):
        notes.append(f"{path}: {repeated} questions occur more than once")
    return Table(questions, answers[0] if with_answers else None, notes)


def _row(where: str, line: str, with_answers: bool) -> list[str]:
    """Returns the cells of a line. Raises a UserError that begins with `where` if the line is faulty."""
    cells = [cell.strip() for cell in line.split("\t")]
    if not line:
        raise UserError(f"{where} is empty: remove it")
    if with_answers and len(cells) == 1:
        raise UserError(f"{where} has no answer after a tab, and line 1 has one: {line[:80]!r}")
    if not with_answers and len(cells) > 1:
        raise UserError(
            f"{where} has a tab, and line 1 has no answer after one: answers on all lines or on none"
        )
    if len(cells) > 2:
        raise UserError(f"{where} has {len(cells) - 1} tabs where one belongs: {line[:80]!r}")
    if any(len(cell.splitlines()) > 1 for cell in cells):  # such as U+2028; predictions have one line each
        raise UserError(f"{where} has a line break inside; replace it by a space: {line[:80]!r}")
    if not all(cells):
        raise UserError(f"{where} lacks its question: {line[:80]!r}")
    if len(cells) == 1 and re.search(r"\?\s+\S", line):
        raise UserError(f"{where} looks like an answer after spaces; put one tab: {line[:80]!r}")
    return cells


def _characters(texts: Iterable[str]) -> str:
    return "".join(sorted(set().union(*texts)))


def _table(pairs: list[tuple[str, str]]) -> Table:
    return Table([question for question, _ in pairs], [answer for _, answer in pairs], [])


def _without_accents(table: Table) -> Table:
    """Returns the table without non-ASCII characters, which the course drops in finetuning."""
    rows = [[text.encode("ascii", "ignore").decode() for text in pair] for pair in table.pairs]
    for line, (row, pair) in enumerate(zip(rows, table.pairs), 1):
        if not all(row):
            raise UserError(
                f"training pair {line} is empty without its non-ASCII characters, {pair}: "
                "remove it, or set --config.data.ascii_pairs=false"
            )
    changed = sum(tuple(row) != pair for row, pair in zip(rows, table.pairs))
    notes = [f"{changed} training pairs lost their non-ASCII characters"] if changed else []
    return Table(*map(list, zip(*rows)), table.notes + notes)


def digest(texts: Iterable[str]) -> str:
    """Returns 16 hex digits of a SHA-256 of the texts, by which a run recognises its data."""
    found = hashlib.sha256()
    for i, text in enumerate(texts):
        found.update((b"\x00" if i else b"") + text.encode("utf-8"))
    return found.hexdigest()[:16]


def most_frequent(answers: list[str]) -> str:
    """Returns the most frequent answer. In a tie, the first in the alphabet wins."""
    counts = Counter(answers)
    return min(counts, key=lambda answer: (-counts[answer], answer))


def log_notes(notes: Sequence[str]):
    """Logs the first notes, and then how many more there are."""
    for note in notes[:MOST_NOTES]:
        log.info(f"note: {note}")
    if len(notes) > MOST_NOTES:
        log.info(f"note: and {len(notes) - MOST_NOTES} more like this")
