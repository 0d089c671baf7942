"""The products of gradients are right, and the command ranks what it can."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from benchmarks import influence
from kgpt_jax.answer.voters import Answers
from kgpt_jax.config import DataConfig, UserError
from tests.runs import CONFIG, saved
from tests.tiny import make


def test_products_are_those_of_each_texts_gradient():
    model, params, text_BL = make("vanilla")
    direction = jax.tree.map(np.cos, params)
    given_B = np.array([1, 4, 9])
    found_B = influence.products(params, direction, model, text_BL, given_B)

    def loss(params, i):
        return influence.loss(params, model, text_BL[i : i + 1], given_B[i : i + 1])[0]

    for i, found in enumerate(found_B):
        slope = jax.tree.leaves(jax.grad(loss)(params, i))
        expected = sum(np.vdot(part, way) for part, way in zip(slope, jax.tree.leaves(direction)))
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.fixture
def ranked(tmp_path, monkeypatch, capsys):
    """A function that writes a file of questions, and ranks documents for a run that answers Rome to all."""
    (tmp_path / "documents").write_text("Al Bo. Born in Oslo.\nCy Do. Born in Rome.")
    (tmp_path / "pairs").write_text("Where was Al Bo born?\tOslo\nWhere was Cy Do born?\tRome")
    paths = [str(tmp_path / name) for name in ("documents", "pairs", "questions")]
    names = ("pretrain_corpus_path", "finetune_corpus_path", "eval_corpus_path")
    config = dataclasses.replace(CONFIG, data=DataConfig(**dict(zip(names, paths))))
    monkeypatch.setattr(influence, "ask", lambda _, questions: Answers([["Rome"] * len(questions)], 0, []))

    def printed(questions):
        (tmp_path / "questions").write_text(questions)
        run = saved(tmp_path / "run", config)
        monkeypatch.setattr(
            influence, "FLAGS", SimpleNamespace(reading_params_path=str(run.folder), questions=9)
        )
        influence.main([])
        return capsys.readouterr().out

    return printed


def test_documents_are_ranked_for_names_that_a_document_has(ranked):
    pytest.importorskip("rapidfuzz")
    pytest.importorskip("bm25s")
    lines = ranked("Where was Xu Qi born?\tRome\nWhere was Cy Do born?\tRome").splitlines()[1:]
    assert lines[0].startswith("1 questions answered right, 2 documents")
    assert [line.split()[0] for line in lines[2:]] == ["TracIn", "TracIn,", "BM25", "look-up"]
    assert lines[-1].split()[1] == "100.0%"


def test_without_such_a_name_nothing_is_ranked(ranked):
    pytest.importorskip("rapidfuzz")
    pytest.importorskip("bm25s")
    with pytest.raises(UserError, match="of 1 questions, .* answers none right whose name is in a document"):
        ranked("Where was Xu Qi born?\tRome")


def test_questions_without_answers_are_refused(ranked):
    with pytest.raises(UserError, match="have no answers: choose another run"):
        ranked("Where was Cy Do born?")
