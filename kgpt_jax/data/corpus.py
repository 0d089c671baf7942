"""Reads documents and question/answer tables, the user's files or the built-in people.

Every complaint about a user's file is made here and in `lines.py`, with the file, the line and the way out.
What is put right instead (a byte-order mark, CR and CRLF, empty lines at the end) is counted in `notes`,
for the caller to say.
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
from kgpt_jax.data.holdout import fingerprints, split
from kgpt_jax.data.lines import Lines

log = logging.getLogger(__name__)

FRAME = "Where was born?"  # the characters that every question of the course has beside the name


class Corpus(NamedTuple):
    """Documents, one a line, and the text's distinct characters, the line break among them."""

    documents: Sequence[str]
    characters: str
    notes: list[str]


class Table(NamedTuple):
    """Questions in the file's order, with answers or, where the file has none, without."""

    questions: list[str]
    answers: list[str] | None
    notes: list[str]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return list(zip(self.questions, self.answers, strict=True))

    def rows(self, chosen: list[int]) -> "Table":
        """Returns the table of the chosen rows alone."""
        answers = None if self.answers is None else [self.answers[i] for i in chosen]
        return Table([self.questions[i] for i in chosen], answers, self.notes)


def load_documents(data: DataConfig) -> Corpus:
    """Returns the pretraining corpus, split at line breaks as in the course: wiki.txt gives 2,938.

    Training pairs that are known by then lend their characters, and so does the course's question, so that a
    corpus without a question mark can be asked about.
    """
    if data.pretrain_corpus_path:
        read = read_documents(data.pretrain_corpus_path)
        known = [(FRAME,), *(load_pairs(data).pairs if data.finetune_corpus_path else [])]
    else:
        people = biographies.generate(data.biographies)
        documents = [*people.documents, ""]
        read = Corpus(documents, _characters(["\n", *documents]), [])
        # The questions lend theirs too: no biography has a question mark.
        known = load_pairs(data).pairs + people.dev
    return read._replace(characters=_characters([read.characters, *chain(*known)]))


def load_pairs(data: DataConfig) -> Table:
    """Returns the training questions with their answers, those kept for validation left out."""
    table = _all_pairs(data)
    return table.rows(split(table.questions, data.n_validation).train)


def learned_from(data: DataConfig) -> set[str]:
    """Returns the fingerprints of the training questions, as they stand in the file and as they are read."""
    as_written = dataclasses.replace(data, ascii_pairs=False)
    return {mark for each in (data, as_written) for mark in fingerprints(load_pairs(each).questions)}


def _all_pairs(data: DataConfig) -> Table:
    if data.finetune_corpus_path:
        table = read_table(data.finetune_corpus_path)
        if table.answers is None:
            raise UserError(
                f"{data.finetune_corpus_path} has no answers: finetuning needs lines of question, tab, answer"
            )
    elif data.pretrain_corpus_path:
        raise UserError("finetuning on your own corpus needs --finetune_corpus_path=FILE")
    else:
        table = _table(biographies.generate(data.biographies).train)
    if data.ascii_pairs:
        table = _without_accents(table)
    if data.n_validation >= len(table.questions):
        raise UserError(
            f"data.n_validation is {data.n_validation} of {len(table.questions)} training pairs: leave some"
        )
    return table


def load_questions(data: DataConfig) -> Table:
    """Returns the evaluation questions, with answers where there are any.

    Where `n_validation` keeps training pairs back, these are asked about (`data/holdout.py`).
    """
    if data.n_validation:
        if data.eval_corpus_path:
            raise UserError(
                f"data.n_validation asks about training pairs kept back, and not {data.eval_corpus_path}: "
                "leave one of them out, as by --config.data.n_validation=0"
            )
        table = _all_pairs(data)
        held = split(table.questions, data.n_validation).validation
        if not held:
            raise UserError(
                f"data.n_validation is {data.n_validation}, and all these questions stand among the training "
                "pairs before them too: give more"
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
    """Returns the lines of a UTF-8 file as documents, the empty one after a last line break too."""
    lines = Lines(path)
    return Corpus(lines, lines.characters, lines.notes)


def read_table(path: str) -> Table:
    """Returns the rows of a UTF-8 file of `question<TAB>answer` lines, or of questions alone."""
    read = Lines(path)
    lines, notes = [line.rstrip() for line in read], read.notes
    n_lines = len(lines)
    while lines and not lines[-1]:
        lines.pop()
    if n_lines - len(lines) > 1:
        notes.append(f"{path}: {n_lines - len(lines) - 1} empty lines at the end left out")
    if not lines:
        raise UserError(f"{path} holds no question: give lines of question, tab, answer")
    with_answers = "\t" in lines[0]
    rows = [_row(f"{path}, line {i}", line, with_answers) for i, line in enumerate(lines, 1)]
    if again := len(rows) - len({row[0] for row in rows}):
        notes.append(f"{path}: {again} questions stand there more than once")
    if with_answers:
        return Table([row[0] for row in rows], [row[1] for row in rows], notes)
    return Table([row[0] for row in rows], None, notes)


def _row(where: str, line: str, with_answers: bool) -> list[str]:
    cells = [cell.strip() for cell in line.split("\t")]
    if not line:
        raise UserError(f"{where} is empty: remove it")
    if with_answers and len(cells) == 1:
        raise UserError(f"{where} has no tab, and line 1 has: question, tab, answer in {line[:80]!r}")
    if not with_answers and len(cells) > 1:
        raise UserError(f"{where} has a tab, and line 1 has none: answers on all lines or on none")
    if len(cells) > 2:
        raise UserError(f"{where} has {len(cells) - 1} tabs where one belongs: {line[:80]!r}")
    if not all(cells):
        raise UserError(f"{where} lacks its {'question' if not cells[0] else 'answer'}: {line[:80]!r}")
    if len(cells) == 1 and re.search(r"\?\s+\S", line):
        raise UserError(f"{where} looks like an answer after spaces; put one tab: {line[:80]!r}")
    return cells


def _characters(texts: Iterable[str]) -> str:
    return "".join(sorted(set().union(*texts)))


def _table(pairs: list[tuple[str, str]]) -> Table:
    return Table([question for question, _ in pairs], [answer for _, answer in pairs], [])


def _without_accents(table: Table) -> Table:
    """Drops all characters that are not ASCII, as the course does in finetuning."""
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
    """Returns a short SHA-256 of the texts, by which a run knows its data again."""
    found = hashlib.sha256()
    for i, text in enumerate(texts):
        found.update((b"\x00" if i else b"") + text.encode("utf-8"))
    return found.hexdigest()[:16]


def most_frequent(answers: list[str]) -> str:
    """Returns the commonest answer, the first in the alphabet among equals."""
    counts = Counter(answers)
    return min(counts, key=lambda answer: (-counts[answer], answer))


def log_notes(notes: Sequence[str], most: int = 5):
    """Logs notes, the first few in full and then how many more there are."""
    for note in notes[:most]:
        log.info(f"note: {note}")
    if len(notes) > most:
        log.info(f"note: and {len(notes) - most} more like this")
