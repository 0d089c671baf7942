"""What a view says about a question, with a tiny run of random parameters."""

import dataclasses

import numpy as np
import pytest

from kgpt_jax.answer import recite
from kgpt_jax.answer.attention import attention_maps
from kgpt_jax.answer.calibrated import Calibrated, Quality
from kgpt_jax.answer.confidence import Calibration
from kgpt_jax.answer.evidence import FEATURES, Asks
from kgpt_jax.answer.sure import Judge
from kgpt_jax.answer.voters import Voter, load_voters
from kgpt_jax.config import UserError
from kgpt_jax.data import corpus
from kgpt_jax.data.holdout import fingerprints
from kgpt_jax.data.lines import Lines
from kgpt_jax.data.vocab import MASK
from kgpt_jax.model.gpt import GPT
from kgpt_jax.page.view import open_answerer
from kgpt_jax.store.compatible import fit_to
from tests.page import fake

QUESTION, RIGHT = corpus.load_questions(fake.PEOPLE).pairs[0]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    stored = fake.saved(tmp_path_factory.mktemp("run"))
    return load_voters([(stored, fit_to(stored, stored.config))], "")


@pytest.fixture(scope="module")
def answerer(loaded):
    return open_answerer(loaded)


def calibrated(where, least_familiarity):
    """Returns a calibration in which every answer is right with the same probability, about 3/4."""
    zeros_F = np.zeros(len(FEATURES))
    clean = tuple((0.75, i % 4 > 0) for i in range(200))
    return Calibrated(
        Calibration(zeros_F, zeros_F + 1, zeros_F, float(np.log(3)), clean),
        Asks(where, []),
        [],
        fingerprints([where.question("Used Name")]),
        False,
        [0.5],
        least_familiarity,
        [True],
        None,
        None,
        [0.5],
        Quality(200, 0.75, None, 0.0, 0.0, 0.0, 0.0, 0.0),
    )


def test_without_calibration_the_documents_answer(answerer):
    view = answerer.view(QUESTION)
    assert (view.told.answer, view.told.label, view.unknown) == (RIGHT, "looked up", "")
    assert view.line.marked == RIGHT and view.told.looked_up.how == "name"
    line = answerer.book.documents[view.line.number - 1]
    assert line == view.line.before + view.line.marked + view.line.after
    name = answerer.where.name(QUESTION)
    assert all(name in answerer.book.documents[each.number - 1] for each in view.lines)
    assert view.line.number in [each.number for each in view.lines] and not view.more
    assert view.sure is None and view.why_not_sure == "This run is not calibrated."
    assert view.recited is None
    assert view.told.model_answer not in view.others and list(view.others.values()) == sorted(
        view.others.values(), reverse=True
    )


def test_a_stranger_is_unknown_and_a_misspelled_name_gets_a_hint(answerer):
    pytest.importorskip("rapidfuzz")
    judge = Judge(answerer.voters, calibrated(answerer.where, least_familiarity=1e9))
    made = answerer._replace(judge=judge)
    name = answerer.where.name(QUESTION)
    view = made.view(made.question(f"{name[:-1]}q"))
    assert view.unknown == f"this run does not know the name {name[:-1]}q" and view.did_you_mean == [name]
    assert view.sure.did_you_mean == name
    assert view.told.looked_up.how == "similar name" and view.told.label != "looked up"


def test_the_weights_answer_with_their_probability_if_there_are_no_documents(loaded, answerer):
    where = answerer.where
    judge = Judge(loaded, calibrated(where, least_familiarity=-1e9))
    made = answerer._replace(judge=judge, book=None, why_no_book="cannot read nowhere.txt")
    view = made.view(made.question(where.name(QUESTION)))
    assert view.told.answer == view.told.model_answer == view.sure.answer and not view.unknown
    assert view.told.probability == pytest.approx(0.75, abs=0.05) and view.told.label == "not sure"
    assert view.why_no_book == "cannot read nowhere.txt" and view.line is None and not view.lines
    used = made.view(where.question("Used Name"))
    assert used.sure is None and "used for the calibration" in used.why_not_sure


def test_a_recital_is_shown_with_the_answer_in_it(answerer, monkeypatch):
    name = answerer.where.name(QUESTION)
    monkeypatch.setattr(recite, "documents", lambda *_: [f"{name} was born in Rome."])
    view = answerer._replace(recites=True).view(QUESTION)
    assert view.told.model_answer == "Rome" and view.recited[1:] == (f"{name} was born in ", "Rome", ".")
    judge = Judge(answerer.voters, calibrated(answerer.where, least_familiarity=-1e9))
    view = answerer._replace(judge=judge, recites=True).view(QUESTION)
    assert view.sure is None and view.why_not_sure == "This run was calibrated without --recite."


def test_attention_is_that_of_the_text_alone(loaded, answerer):
    """The page pads the text, so that one program serves all questions."""
    run, config, params = loaded[0]
    view = answerer.view(QUESTION)
    text = f"{QUESTION}{MASK}"
    maps = attention_maps(GPT(config.model), params, run.vocab, text, len(text))
    assert view.attention.words == [*QUESTION.split(), MASK]
    assert [(head.layer, head.head) for head in view.attention.heads] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    second = text.index(" ") + 1
    for head in view.attention.heads:
        weight_S = maps[head.layer - 1].weights_HTS[head.head - 1, -1]
        assert head.shares[0] == pytest.approx(100 * weight_S[:second].sum(), abs=0.6)
        assert head.shares[-1] == pytest.approx(100 * weight_S[-1], abs=0.6)


def test_questions_that_cannot_be_asked(answerer):
    with pytest.raises(UserError, match="write a name"):
        answerer.question(" \n")
    with pytest.raises(UserError, match="has 130 characters: at most 126 fit"):
        answerer.question("a" * (130 - len(answerer.where.question(""))))


def test_characters_that_the_vocabulary_lacks_are_told(answerer):
    assert answerer.view(answerer.question("Jañ Łó")).left_out == "ñóŁ"


def test_damaged_calibrations_and_missing_documents_are_explained(loaded, answerer, capsys):
    run, config, params = loaded[0]
    (run.folder / "calibration.json").write_text("{", "utf-8")
    data = dataclasses.replace(config.data, pretrain_corpus_path="nowhere.txt")
    made = open_answerer([Voter(run, dataclasses.replace(config, data=data), params)])
    (run.folder / "calibration.json").unlink()
    said = capsys.readouterr().out
    assert "no confidence, because " in said and "is damaged" in said and "nothing is looked up" in said
    problem = made.judge.problem
    assert problem and made.why_no_book and "/" not in problem + made.why_no_book
    assert made.where is None and made.examples == [] and made.question(" Jana ") == "Jana"
    assert made.view("Jana").told.answer == answerer.view("Jana").told.model_answer


def test_what_the_run_was_told_comes_first(answerer):
    question = answerer.where.question("Ada Zorg")
    answerer.teach(question, "Riga")
    view = answerer.view(question)
    assert (view.told.answer, view.told.label, view.unknown) == ("Riga", "told by you", "")
    assert view.told.model_answer != "Riga"
    answerer.teach("Who  wrote Hamlet?", "Shakespeare")  # in another form
    assert answerer.view(answerer.question("Who wrote Hamlet?")).told.answer == "Shakespeare"
    path = answerer.voters[0].run.folder / "taught.tsv"
    path.write_text("no tab", "utf-8")
    assert answerer.view(question).told.answer == view.told.model_answer
    path.unlink()


def test_what_is_taught_while_the_file_is_read_hides_nothing(answerer, monkeypatch):
    answerer.teach("Who wrote Hamlet?", "Shakespeare")
    read = Lines.__iter__

    def taught_meanwhile(lines):
        monkeypatch.undo()
        answerer.teach("Who wrote Faust?", "Goethe")
        return read(lines)

    monkeypatch.setattr(Lines, "__iter__", taught_meanwhile)
    assert answerer.taught() == {"Who wrote Hamlet?": "Shakespeare", "Who wrote Faust?": "Goethe"}
    (answerer.voters[0].run.folder / "taught.tsv").unlink()
