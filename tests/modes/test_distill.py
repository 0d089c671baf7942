import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kgpt_jax.answer import reader
from kgpt_jax.answer.open_book import OpenBook, open_book
from kgpt_jax.answer.predict import MAX_ANSWER
from kgpt_jax.answer.reader import Likely, Place
from kgpt_jax.answer.record import Recited
from kgpt_jax.answer.teachers import agreed, likely, taught_by_reader, taught_by_vote
from kgpt_jax.answer.voters import Answers, load_voters
from kgpt_jax.config import DataConfig, UserError, override
from kgpt_jax.data.corpus import load_documents, load_pairs, load_questions
from kgpt_jax.data.holdout import fingerprints
from kgpt_jax.data.lookup import Lookup
from kgpt_jax.data.names import Frame
from kgpt_jax.data.people import questions_in_the_same_form, unpaired_questions
from kgpt_jax.data.stage_data import NOT_TAUGHT, Taught, load_stage_data
from kgpt_jax.data.vocab import PAD, Vocab
from kgpt_jax.modes.distill import distill
from kgpt_jax.store.compatible import with_vocab
from kgpt_jax.store.folder import Run
from tests import runs, tiny
from tests.commands import refused, run


def test_what_more_than_half_of_the_models_say_is_taken_for_an_answer():
    questions = ["three of four", "two of four", "all", "nothing", "broken off", "too long"]
    long, rest = "x" * (MAX_ANSWER - 1), "y" * MAX_ANSWER
    said = [
        ["Rome", "Rome", "Rome", "", rest, long],
        ["Rome", "Oslo", "Rome", "", rest, long],
        ["Oslo", "Bonn", "Rome", "", rest, long],
        ["Rome", "Rome", "Rome", "", rest, long],
    ]
    vocab = Vocab.of("".join(questions) + "Romexy")
    assert agreed(questions, said, 30, vocab) == [("three of four", "Rome"), ("all", "Rome")]
    assert agreed(questions, said, 39, vocab)[-1] == ("too long", long)
    assert agreed(questions, said, 39, Vocab.of("".join(questions) + "Rome"))[-1] == ("all", "Rome")
    assert agreed(questions, said[:2], 30, vocab) == [("three of four", "Rome"), ("all", "Rome")]


def test_questions_are_those_of_the_pairs_about_the_others():
    pairs = [("Where was Ann Ash born?", "Oslo"), ("Where was Ann Asher born?", "Rome")]
    documents = ["Ann Ash. She sang.", "Ed B. Fa. He sang.", "Ed B. Fa. He danced.", "no title", ""]
    assert questions_in_the_same_form(pairs, documents) == ["Where was Ed B. Fa born?"]
    assert questions_in_the_same_form(pairs[:1], documents) == ["Where was Ed B. Fa born?"]
    with pytest.raises(UserError, match="no training question holds the title of a document"):
        questions_in_the_same_form(pairs[:1], documents[1:])


def test_a_name_that_lost_its_accents_in_its_pair_is_not_asked_about(tmp_path):
    (tmp_path / "documents").write_text("Zoë Bo. She sang.\nEd Fa. He sang.\nAl Do. He sang.", "utf-8")
    (tmp_path / "pairs").write_text("Where is Zoë Bo from?\tOslo\nWhere is Ed Fa from?\tRome", "utf-8")
    data = DataConfig(str(tmp_path / "documents"), str(tmp_path / "pairs"), ascii_pairs=True)
    pairs = load_pairs(data).pairs
    assert pairs[0] == ("Where is Zo Bo from?", "Oslo")
    assert unpaired_questions(data, pairs) == ["Where is Al Do from?"]


def test_voted_answers_are_learnt_like_training_pairs():
    made = override(tiny.config(), {"data.biographies.n_train": 8})
    pairs = load_pairs(made.data).pairs
    vocab = Vocab.of(load_documents(made.data).characters)
    made = with_vocab(made, vocab)
    voted = ("Where was Nobody born?", "Rome")
    plain, taught = (
        load_stage_data(made, "finetune", vocab, t)
        for t in (NOT_TAUGHT, Taught([voted], ["a", "b"], frozenset(["a7"])))
    )
    n_plain, n_taught = (data.chunks.n_examples(made.finetune) for data in (plain, taught))
    assert (n_plain, n_taught) == (8, 9) == (len(pairs), len(pairs) + 1)
    texts = [
        vocab.decode(text).rstrip(PAD) for text in taught.chunks.make(0, 0)(np.random.default_rng(0)).x_NT
    ]
    assert texts[-1] == "Where was Nobody born?⁇Rome⁇"
    assert taught.facts["taught_by"] == ["a", "b"] and "taught_by" not in plain.facts
    assert taught.facts["data_digest"] != plain.facts["data_digest"]
    # Its own, and those that its teachers know; those that they were asked about are none.
    own = set(plain.facts["learned"].split())
    assert own == set(fingerprints([question for question, _ in pairs])) and len(own) == 8
    assert set(taught.facts["learned"].split()) == own | {"a7"}


def test_a_vote_is_taken_once(tmp_path, monkeypatch):
    made = tiny.config()
    vocab = Vocab.of(load_documents(made.data).characters)
    digests = {"a": "11", "moved": "11", "b": "22"}

    def teacher(name):
        return Run(Path(name), replace(made, n_seeds=3), vocab, {"learned": "a7"})

    module = sys.modules[taught_by_vote.__module__]
    monkeypatch.setattr(module, "voting", lambda runs, config: [(run, made) for run in runs])
    monkeypatch.setattr(module, "load_params", lambda run, model_devices: run.folder.name)
    monkeypatch.setattr(module, "load_voters", lambda asked, purpose, recites: asked)
    monkeypatch.setattr(module, "params_digest", digests.get)
    asked = []

    def say_rome(voters, questions):
        asked.append(len(questions))
        return Answers([["Rome"] * len(questions)] * 3, 0.0, [])

    monkeypatch.setattr(module, "ask", say_rome)
    first = taught_by_vote(made, tmp_path / "new", [teacher("a")], vocab)
    assert {answer for _, answer in first.pairs} == {"Rome"} and asked == [len(first.pairs)]
    assert (first.by, first.learned) == (["a"], {"a7"})
    assert taught_by_vote(made, tmp_path / "new", [teacher("a")], vocab) == first and len(asked) == 1
    # The same parameters in another place are the same teacher; trained anew, they are another one.
    assert (
        taught_by_vote(made, tmp_path / "new", [teacher("moved")], vocab).pairs == first.pairs
        and len(asked) == 1
    )
    digests["a"] = "33"
    with pytest.raises(UserError, match="comes from other teachers, as their digest says"):
        taught_by_vote(made, tmp_path / "new", [teacher("a")], vocab)
    with pytest.raises(UserError, match="comes from other teachers"):
        taught_by_vote(made, tmp_path / "new", [teacher("b")], vocab)
    digests["a"] = "11"
    with pytest.raises(UserError, match="comes from other questions"):
        taught_by_vote(override(made, {"data.biographies.seed": 5}), tmp_path / "new", [teacher("a")], vocab)
    (tmp_path / "new" / "vote.json").write_text('{"teachers_digests": ["11"]}')
    with pytest.raises(UserError, match="vote.json is damaged .* move it away, and all are asked again"):
        taught_by_vote(made, tmp_path / "new", [teacher("a")], vocab)
    assert len(asked) == 1
    assert (
        taught_by_vote(made, tmp_path / "new", [teacher("a")], vocab, start_anew=True) == first
        and len(asked) == 2
    )
    assert (tmp_path / "new" / "set_aside" / "run_1" / "vote.json").exists()


def test_distilling_needs_questions_and_more_than_one_model(tmp_path, monkeypatch):
    made = tiny.config()
    with pytest.raises(UserError, match="distilling needs question_answer in --objective"):
        distill(made, tmp_path, [tmp_path], None)
    lines = override(made, {"finetune.objective": "whole_line"})
    with pytest.raises(UserError, match="needs question_answer in --config.finetune.objective"):
        distill(lines, tmp_path, [tmp_path], student=Run(tmp_path, made, None, {}))
    module = sys.modules[taught_by_vote.__module__]
    monkeypatch.setattr(module, "voting", lambda runs, config: [(run, made) for run in runs])
    monkeypatch.setattr(module, "load_params", lambda run, model_devices: None)
    mixed = override(made, {"pretrain.objective": "whole_line=0.5,question_answer=0.5"})
    with pytest.raises(UserError, match="holds one model, which is no vote: add runs .* or let it --recite"):
        distill(mixed, tmp_path, [Run(tmp_path, made, None, {})], None)
    assert not list(tmp_path.iterdir())


def test_the_reader_teaches_what_it_is_more_than_half_sure_of():
    long = "x" * MAX_ANSWER
    says = {"Al": ("Rome", 0.6), "Bo": ("Rome", 0.5), "Cy": (long, 0.9), "Di": ("Riga", 0.9)}

    class Fake:
        def read(self, lines, name):
            answer, probability = says[name]
            return {answer: Likely(probability, Place(0, 0, 1))}

    documents = [f"{name}. Born." for name in says]
    book = OpenBook(documents, Frame("Where was ", " born?"), Lookup(documents), Fake())
    asked = [book.where.question(name) for name in [*says, "Nobody"]]
    vocab = Vocab.of("".join(asked) + "Romex")
    assert likely(book, asked, 50, vocab) == [("Where was Al born?", "Rome")]  # no i or g for Riga
    assert likely(book, asked, len(asked[0]) + 3, vocab) == []


def test_the_reader_learns_no_held_out_question_and_answers_each_once(tmp_path, monkeypatch):
    people = {"n_train": 40, "n_dev": 6, "n_test": 0, "n_facts": 1, "copies": 2}
    changes = {f"data.biographies.{name}": value for name, value in people.items()}
    made = override(tiny.config(), changes | {"data.n_validation": 5})
    vocab, held_out = Vocab.of(load_documents(made.data).characters), load_questions(made.data)
    learned, train = [], reader.train
    monkeypatch.setattr(reader, "train", lambda asked: learned.append(asked) or train(asked))
    first = taught_by_reader(made, tmp_path, vocab)
    pairs = load_pairs(made.data).pairs
    assert [f"Where was {name} born?" for _, name, _ in learned[0]] == [question for question, _ in pairs]
    assert set(held_out.pairs) < set(first.pairs) and len(first.pairs) == 5 + 6
    assert first.by == ["the open-book reader"]
    assert first.learned == set(fingerprints([question for question, _ in pairs]))
    assert taught_by_reader(made, tmp_path, vocab) == first and len(learned) == 1
    for change, what in {"data.biographies.copies": "documents", "data.n_validation": "pairs"}.items():
        with pytest.raises(UserError, match=f"reader.json comes from other {what}, as their digest says"):
            taught_by_reader(override(made, {change: 1}), tmp_path, vocab)


def test_a_name_in_several_lines_is_read_in_all_of_them(tmp_path):
    people = [(f"{a}o {b}y", place) for a, b, place in zip("ABCDEFGH", "STUVWXYZ", ["Rome", "Oslo"] * 4)]
    lines = [f"{n}. {text}" for n, p in people for text in ("In May, She sang.", f"Born in {p}.", "He sang.")]
    (tmp_path / "documents").write_text("\n".join(lines), "utf-8")
    (tmp_path / "pairs").write_text("\n".join(f"Where is {n} from?\t{p}" for n, p in people[:6]), "utf-8")
    data = DataConfig(
        pretrain_corpus_path=str(tmp_path / "documents"), finetune_corpus_path=str(tmp_path / "pairs")
    )
    vocab = Vocab.of(load_documents(data).characters)
    taught = taught_by_reader(replace(tiny.config(), data=data), tmp_path / "new", vocab)
    assert taught.pairs == [("Where is Go Yy from?", "Rome"), ("Where is Ho Zy from?", "Oslo")]


def test_a_student_of_the_reader_is_evaluated_with_a_note(tmp_path):
    student = runs.saved(tmp_path / "student")
    flags = ["--mode=distill", "--teacher=reader", f"--workdir={tmp_path}", "--config.finetune.epochs=1"]
    flags += [f"--student_params_path={student.folder}", "--config.data.n_validation=2"]
    assert " of 11 new questions with a probability above 50%\n" in run(*flags)  # 6 held out, 3, and 2 pairs
    folder = tmp_path / "vanilla" / "distill"
    facts = json.loads((folder / "run.json").read_text("utf-8"))
    assert facts["taught_by"] == ["the open-book reader"] and len(facts["learned"].split()) == 6
    out = run("--mode=evaluate", f"--reading_params_path={folder}")
    assert " out of 2: " in out and "trained on answers of the open-book reader, perhaps to these" in out
    for flag in ("--voters=x", "--reading_params_path=x", "--recite"):
        assert f"{flag} is for runs, and --teacher=reader asks none" in refused(*flags, flag)
    assert "cannot read nowhere" in refused(*flags, "--start_anew", "--finetune_corpus_path=nowhere")
    assert not (folder / "set_aside").exists()
    run(*flags, "--start_anew")
    assert (folder / "set_aside" / "run_1" / "reader.json").exists()


def test_a_run_learns_to_answer_from_what_it_recites(tmp_path, monkeypatch):
    made = runs.saved(tmp_path / "one")
    questions = unpaired_questions(made.config.data, load_pairs(made.config.data).pairs)
    book = open_book(made.config.data)
    says = {book.where.name(question): chance for question, chance in zip(questions, [0.9, 0.6, 0.5])}
    names = []

    def recite(model, params, vocab, book, questions):
        names.extend(map(book.where.name, questions))
        return [Recited("Rome", says[name], "", 0, 0) if name in says else None for name in names]

    monkeypatch.setattr(sys.modules[taught_by_vote.__module__], "recite", recite)
    flags = ["--mode=distill", "--recite", f"--workdir={tmp_path}", "--config.finetune.epochs=1"]
    flags += [f"--{of}_params_path={made.folder}" for of in ("reading", "student")]
    out = run(*flags)
    assert f"one model recites the answers to 2 of {len(questions)} new questions\n" in out
    assert len(names) == len(questions)
    folder = tmp_path / "vanilla" / "distill"
    answers = json.loads((folder / "recited.json").read_text("utf-8"))
    assert answers["pairs"] == [[question, "Rome"] for question in questions[:2]]
    assert str(made.folder) in json.loads((folder / "run.json").read_text("utf-8"))["taught_by"]
    run(*flags)
    assert len(names) == len(questions)  # they are asked once
    changed = refused(*flags, "--config.data.n_validation=1")
    assert "recited.json comes from other questions, as their digest says" in changed
    run(*flags, "--start_anew")
    assert (folder / "set_aside" / "run_1" / "recited.json").exists()
    assert len(names) == 2 * len(questions)  # and anew
    (tmp_path / "file").write_text("")
    assert "cannot make the folder" in refused(*flags, f"--workdir={tmp_path / 'file'}")


def test_a_pretrained_run_is_expected_to_recite_but_not_to_answer(tmp_path, monkeypatch):
    made, notes = runs.saved(tmp_path / "one"), []
    monkeypatch.setattr(sys.modules[load_voters.__module__].log, "info", notes.append)
    pretrained = replace(made, facts=made.facts | {"stage": "pretrain"})
    for recites, n in ((True, 0), (False, 1)):
        load_voters([(pretrained, made.config)], "", recites)
        assert sum("was never finetuned on questions" in note for note in notes) == n


def test_no_teacher_is_moved_away_and_the_checkpoint_asked_for_is_read(tmp_path):
    one, other = runs.saved(tmp_path / "one").folder, runs.saved(tmp_path / "other").folder
    flags = ["--mode=distill", "--objective=span_corruption=0.5,question_answer=0.5"]
    flags += [f"--reading_params_path={one}", f"--voters={other}"]
    for folder in (one, other):
        asked = [*flags, f"--writing_params_path={folder}", "--start_anew"]
        assert f"training needs the run in {folder}, which --start_anew would move away" in refused(*asked)
    asked = [*flags, f"--workdir={tmp_path}", "--checkpoint=777"]
    assert "has no valid checkpoint 777" in refused(*asked)
