"""Every random file gives rows or one clear error, and every random question gets one answer."""

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kgpt_jax.answer.predict import predict
from kgpt_jax.config import UserError
from kgpt_jax.data import corpus
from kgpt_jax.data.objectives import OBJECTIVES, Material
from kgpt_jax.data.vocab import MASK, PAD, Vocab
from tests import tiny
from tests.torture.harms import TROUBLE

CONTENTS = st.lists(
    st.sampled_from(TROUBLE) | st.binary(max_size=6) | st.text(max_size=6).map(str.encode), max_size=12
)
anything = settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.txt"


@anything
@given(CONTENTS)
@example([])
@example([b"one line"])
@example([b"A?\tRome\n", b"A?\tOslo\n"])
def test_a_table_gives_rows_or_a_line_that_names_the_file(path, parts):
    content = b"".join(parts)
    path.write_bytes(content)
    try:
        table = corpus.read_table(str(path))
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return
    lines = path.read_text("utf-8-sig").split("\n")
    assert len(table.questions) <= len(lines)
    assert all(question.strip() == question != "" for question in table.questions)
    if table.answers is not None:
        assert len(table.answers) == len(table.questions)
        assert all(answer.strip() == answer != "" for answer in table.answers)
    for question, line in zip(table.questions, lines):  # row i is line i
        assert line.strip().startswith(question)
    again = len(table.questions) - len(set(table.questions))
    assert any("more than once" in note for note in table.notes) == bool(again)


@anything
@given(CONTENTS)
def test_documents_are_the_lines_of_the_file(path, parts):
    content = b"".join(parts)
    path.write_bytes(content)
    try:
        documents, characters, notes = corpus.read_documents(str(path))
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return
    text = path.read_text("utf-8-sig")  # with Python's line breaks, as the course reads
    assert list(documents) == text.split("\n")
    for start in range(len(documents)):
        assert documents[start : start + 2] == text.split("\n")[start : start + 2]
    assert characters == "".join(sorted(set(text)))
    assert sum("CRLF" in note for note in notes) == (b"\r\n" in content)
    assert sum("CR kind" in note for note in notes) == (b"\r" in content.replace(b"\r\n", b""))


@anything
@given(
    st.lists(
        st.text(st.characters(exclude_characters=PAD + MASK + "\n"), max_size=80), min_size=1, max_size=6
    )
)
@example(["", "a", "ab", "abc"])
@example(["e\u0301" * 40])
def test_every_objective_takes_every_document(documents):
    vocab = Vocab.of("".join(documents) + "Wq?x")
    cfg = tiny.config().model
    for name, objective in OBJECTIVES.items():
        made = objective(Material(documents, [("Wq?", "x")], ["x"]), vocab, cfg)(np.random.default_rng(0))
        n = 1 if name == "question_answer" else len(documents)
        assert made.x_NT.shape == made.y_NT.shape == (n, cfg.seq_len)
        for ids in made[:2]:
            assert ids.min() >= 0 and ids.max() < len(vocab)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=5))
@example(["", "a" * 500, "a" + MASK + PAD, "\n\t\u2028"])
def test_answers_pair_with_questions_whatever_is_asked(questions):
    vocab = Vocab.of("abcdefghijk")
    model, params, _ = tiny.make("vanilla")
    answers, notes = predict(model, params, vocab, questions)
    assert len(answers) == len(questions)
    assert all(len(answer.splitlines()) <= 1 for answer in answers)
    strange = sum(bool(vocab.unknown(question)) for question in questions)
    assert sum("which the vocabulary lacks" in note for note in notes) == strange
    for number, question in enumerate(questions, 1):
        known = [c for c in question if c in vocab.id_of]
        assert any(note.startswith(f"question {number}: answered with nothing") for note in notes) == (
            len(known) + 2 > model.cfg.seq_len + 1
        )
