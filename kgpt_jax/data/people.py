"""The people in a corpus: all names, and questions about those without a training pair.

pairs = corpus.load_pairs(data).pairs
unpaired_questions(data, pairs), everyone(data, frame([question for question, _ in pairs]))
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

from kgpt_jax.config import DataConfig, UserError
from kgpt_jax.data import corpus
from kgpt_jax.data.biographies import generate
from kgpt_jax.data.holdout import learned_rows
from kgpt_jax.data.names import Frame
from kgpt_jax.data.spans import title

TEMPLATE_PAIRS = 100  # training questions that are searched for the words around a name


def everyone(data: DataConfig, where: Frame) -> list[str]:
    """Returns the names of all people in the training questions or in documents, sorted."""
    pairs = corpus.load_pairs(data).pairs
    questions = [question for question, _ in pairs]
    with suppress(UserError):  # a corpus without titles names nobody else
        questions += _about_others(data, pairs)
    return sorted({name for question in questions if (name := where.name(question))})


def unpaired_questions(data: DataConfig, pairs: list[tuple[str, str]]) -> list[str]:
    """Returns a question about each person who has a document but no training pair.

    Names that differ only by letters beyond ASCII, which `ascii_pairs` takes out of the pairs, are the same.
    """
    questions = _about_others(data, pairs)
    learned = set(learned_rows(questions, corpus.learned_from(data)))
    return [question for i, question in enumerate(questions) if i not in learned]


def _about_others(data: DataConfig, pairs: list[tuple[str, str]]) -> list[str]:
    """Returns a question about each person with a document whose name, as it is written, is in no pair."""
    if data.pretrain_corpus_path:
        return questions_in_the_same_form(pairs, corpus.load_documents(data).documents)
    people = generate(data.biographies)  # their documents have no titles to build questions from
    asked = {question for question, _ in pairs}
    held_out = [question for question, _ in people.train if question not in asked]
    return held_out + [question for question, _ in people.dev] + people.test


def questions_in_the_same_form(pairs: list[tuple[str, str]], documents: Sequence[str]) -> list[str]:
    """Returns a question in the form of the training questions, about each person without a training pair.

    A name is the title of a document. The words around it are the most frequent ones around such a name in
    the training questions.

    Raises:
      UserError: no training question contains a title.

    >>> pairs = [("Where was Al Bo born?", "Oslo"), ("Where was Cy Do born?", "Rome")]
    >>> questions_in_the_same_form(pairs, ["Al Bo. He sang.", "Ed Fa. She sang.", "Ed Fa. She danced."])
    ['Where was Ed Fa born?']
    """
    names = set(map(title, documents)) - {""}
    frames: Counter[tuple[str, str]] = Counter()
    for question, _ in pairs[:TEMPLATE_PAIRS]:
        if held := [name for name in names if name in question]:
            longest = max(held, key=lambda name: (len(name), name))  # not by the order of the set
            before, _, after = question.partition(longest)
            frames[before, after] += 1
    if not frames:
        raise UserError(
            "no training question holds the title of a document, so nobody else can be asked about: "
            "begin each document with its name, as in 'Ada Bell. She sang.'"
        )
    before, after = frames.most_common(1)[0][0]
    return sorted({f"{before}{name}{after}" for name in names} - {question for question, _ in pairs})
