"""Answers that somebody told a run: pairs in `taught.tsv`, in the run's folder.

    teach(folder, "Where was Jana Lund born?", "Brussels")
    taught(folder)["Where was Jana Lund born?"]

`--mode=ask` gives these answers to exactly these questions. They train nothing.
"""

from pathlib import Path

from kgpt_jax.answer.predict import MAX_ANSWER
from kgpt_jax.config import UserError
from kgpt_jax.data.corpus import read_table
from kgpt_jax.data.given import table_of
from kgpt_jax.data.lines import check_text

TAUGHT_FILE = "taught.tsv"
TOLD = "told by you"  # the label of such an answer


def taught(folder: Path) -> dict[str, str]:
    """Returns the answers that a run was told, by question. The last one told counts.

    Raises:
      UserError: the file is damaged.
    """
    path = folder / TAUGHT_FILE
    if not path.exists() or not path.stat().st_size:
        return {}
    table = read_table(str(path))
    if table.answers is None:
        raise UserError(f"{path} has no answers: give lines of question, tab, answer")
    return dict(table.pairs)


def teach(folder: Path, question: str, answer: str):
    """Appends a pair to what a run was told.

    Raises:
      UserError: a text is empty, longer than a line, has a tab or a character that no text may have, or the
        file cannot be written.
    """
    [pair] = table_of([(question, answer)]).pairs
    if len(pair[1]) > MAX_ANSWER:
        raise UserError(f"the answer {answer!r} has {len(pair[1])} characters: at most {MAX_ANSWER} fit")
    for text in pair:
        check_text(repr(text), text)
    path = folder / TAUGHT_FILE
    try:
        line = ("\t".join(pair) + "\n").encode("utf-8")
        with path.open("a+b") as file:
            file.seek(0)
            before = file.read()
            file.write(line if not before or before.endswith(b"\n") else b"\n" + line)
    except UnicodeEncodeError:
        raise UserError(f"{pair[0]!r} with {pair[1]!r} is no text in UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
