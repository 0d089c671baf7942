"""The Python API: the same answers as the commands, and nothing printed."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import kgpt_jax
from kgpt_jax.answer.predict import log_probabilities
from kgpt_jax.config import override
from kgpt_jax.data.biographies import generate
from kgpt_jax.data.given import write_pairs
from kgpt_jax.data.vocab import MASK
from kgpt_jax.model.gpt import GPT
from kgpt_jax.train import stages
from tests import runs, tiny
from tests.commands import CHECKOUT, run

TINY = {
    "model.n_layer": 1,
    "model.n_embd": 16,
    "model.n_head": 2,
    "data.biographies.n_train": 8,
    "data.biographies.n_dev": 6,
    "data.biographies.n_test": 3,
    "data.biographies.copies": 1,
    "pretrain.epochs": 1,
    "finetune.epochs": 1,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny run that was pretrained and finetuned by the API, and its config."""
    config = kgpt_jax.override(kgpt_jax.load_recipe("quickstart"), TINY)
    read = kgpt_jax.pretrain(config, workdir=tmp_path_factory.mktemp("runs"))
    return kgpt_jax.finetune(read), config


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """A run with random parameters, whose answers differ from question to question."""
    config = override(runs.CONFIG, {"model.n_layer": 2})
    return kgpt_jax.load(runs.saved(tmp_path_factory.mktemp("run"), config).folder)


def test_answers_and_score_are_those_of_the_command(trained, untrained, tmp_path):
    for one in trained[0], untrained:
        dev = generate(one.config.data.biographies).dev
        run("--mode=evaluate", f"--reading_params_path={one.folder}", f"--outputs_path={tmp_path}/out.txt")
        answers = one.answer([question for question, _ in dev])
        assert [answer.answer for answer in answers] == (tmp_path / "out.txt").read_text().split("\n")[:-1]
        assert [answer.question for answer in answers] == [question for question, _ in dev]
        score = kgpt_jax.evaluate(one)
        assert score == kgpt_jax.Score(sum(a.answer == place for a, (_, place) in zip(answers, dev)), 6)
    assert len({answer.answer for answer in answers}) > 1
    pairs = [(a.question, a.answer if i % 2 else a.answer + "x") for i, a in enumerate(answers)]
    assert kgpt_jax.evaluate(untrained, pairs) == kgpt_jax.Score(3, 6)
    (tmp_path / "dev.tsv").write_text("\n".join(map("\t".join, pairs)), "utf-8")
    asked = [f"--eval_corpus_path={tmp_path}/dev.tsv", f"--outputs_path={tmp_path}/half.txt"]
    assert "Correct: 3.0 out of 6.0" in run(
        "--mode=evaluate", f"--reading_params_path={untrained.folder}", *asked
    )


def test_folders_are_those_of_the_commands(trained):
    one, config = trained
    assert one.folder.parts[-2:] == ("vanilla", "finetune") and one.stage == "finetune"
    assert one.config.finetune == config.finetune and "vanilla" in repr(one)
    again = kgpt_jax.load(str(one.folder))
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), again.params, one.params))
    assert again.params is again.params


def test_one_question_gives_one_answer_and_a_list_a_list(untrained):
    question = "Where was Ann born?"
    answer = untrained.answer(question)
    assert isinstance(answer, kgpt_jax.Answer) and answer.question == question
    first, second = untrained.answer([question, question])
    assert first == second and first.answer == answer.answer and untrained.answer([]) == []
    # A question alone is a batch of another size, so the last bits may differ.
    assert first.log_probability == pytest.approx(answer.log_probability, rel=1e-6)
    assert str(answer) == answer.answer
    typed = f" {question}\n"  # as a line of a file
    assert untrained.answer(typed) == dataclasses.replace(answer, question=typed)
    with pytest.raises(AttributeError):
        answer.answer = "Rome"


def test_log_probability_is_that_of_the_answer_and_its_end(untrained):
    answer = untrained.answer("Where was Ann born?")
    text = f"{answer.question}{MASK}{answer.answer}{MASK}"
    gains_TV = jax.nn.log_softmax(untrained.logits(text[:-1]))
    first = len(answer.question)
    by_hand = sum(gains_TV[t, untrained.vocab.id_of[text[t + 1]]] for t in range(first, len(text) - 1))
    assert answer.log_probability == pytest.approx(float(by_hand), abs=1e-4)


def test_a_question_that_leaves_no_room_has_an_empty_answer(untrained):
    answer = untrained.answer("a" * 127)
    assert answer.answer == "" and answer.log_probability is None


def test_several_models_vote(tmp_path):
    config = kgpt_jax.override(runs.CONFIG, {"n_seeds": 2})
    several = kgpt_jax.load(runs.saved(tmp_path / "two", config).folder)
    alone = [kgpt_jax.load(runs.saved(tmp_path / f"{k}", seed=k).folder) for k in (0, 1)]
    question = "Where was Ann born?"
    first, answer = alone[0].answer(question), several.answer(question)
    assert answer.answer == first.answer  # at a tie the first decides
    model, params = GPT(alone[1].config.model), alone[1].params
    [second] = log_probabilities(model, params, several.vocab, [question], [answer.answer])
    mean = np.logaddexp(first.log_probability, second) - np.log(2)
    assert answer.log_probability == pytest.approx(mean, abs=1e-4)
    np.testing.assert_allclose(several.logits("Ann"), alone[0].logits("Ann"), atol=1e-5)
    assert several.params["pos_emb"].shape == (2, *alone[0].params["pos_emb"].shape)


def test_a_run_that_more_devices_trained_is_read_by_those_that_are_here(tmp_path):
    many = override(runs.CONFIG, {"model_devices": 1000})
    runs.saved(tmp_path / "many", many)
    runs.saved(tmp_path / "one")
    assert kgpt_jax.load(tmp_path / "many").answer("Who?") == kgpt_jax.load(tmp_path / "one").answer("Who?")


def test_logits_are_the_models(untrained):
    text = "Ann was born"
    logits_TV = untrained.logits(text)
    assert logits_TV.shape == (len(text), len(untrained.vocab)) and logits_TV.dtype == np.float32
    x_1T = untrained.vocab.encode(text)[None]
    expected_TV = tiny.logits(GPT(untrained.config.model), untrained.params, x_1T)[0]
    np.testing.assert_allclose(logits_TV, expected_TV, atol=1e-5)


def test_attention_has_a_map_for_each_layer(untrained):
    answer = kgpt_jax.Answer("Where?", "Rome")
    maps = untrained.attention(answer)
    assert [found.layer for found in maps] == ["blocks_0/attn", "blocks_1/attn"]
    assert untrained.attention(kgpt_jax.Answer("Wh#ere?", "Rome"))[0].rows == maps[0].rows  # has no "#"
    assert "".join(maps[0].rows) == f"Where?{MASK}Rome" and maps[0].weights_HTS.shape == (2, 11, 11)
    full = kgpt_jax.Answer("a" * 120, "b" * 7)  # its last character was written, and not read
    assert len(untrained.attention(full)[0].rows) == 127
    with pytest.raises(kgpt_jax.UserError, match="the text has 129 characters"):
        untrained.attention(dataclasses.replace(full, answer="b" * 8))
    same = untrained.attention(f"Where?{MASK}Rome")
    np.testing.assert_array_equal(same[1].weights_HTS, maps[1].weights_HTS)


def test_samples_are_seeded(untrained):
    texts = untrained.sample("Ann", n=3, temperature=0.8, max_new=20, seed=1)
    assert len(texts) == 3 and all(text.startswith("Ann") and len(text) <= 23 for text in texts)
    assert texts == untrained.sample("Ann", n=3, temperature=0.8, max_new=20, seed=1)
    assert texts != untrained.sample("Ann", n=3, temperature=0.8, max_new=20, seed=2)


def test_lists_stand_for_files(trained, tmp_path):
    _, config = trained
    documents = ["Ann Ash was born in Rome.", "Bob Bay was born in Oslo.", "Cy was born in Bonn."]
    read = kgpt_jax.pretrain(config, documents, tmp_path / "lists")
    assert Path(read.config.data.pretrain_corpus_path).read_text().split("\n") == documents
    pairs = [("Where was Ann Ash born?", "Rome"), ("Where was Bob Bay born?", "Oslo")]
    one = kgpt_jax.finetune(read, pairs)
    assert one.folder == tmp_path / "lists" / "vanilla" / "finetune"
    assert kgpt_jax.evaluate(one, [("Where was Cy born?", "Bonn")]).total == 1
    (tmp_path / "dev.tsv").write_text("Where was Cy born?\tBonn\n")
    assert kgpt_jax.evaluate(one, tmp_path / "dev.tsv").total == 1
    with pytest.raises(kgpt_jax.UserError, match="has learned the answers to 1 of the 1 questions"):
        kgpt_jax.evaluate(one, pairs[:1])
    with pytest.raises(kgpt_jax.UserError, match="give pairs to ask it"):
        kgpt_jax.evaluate(one)
    with pytest.raises(kgpt_jax.UserError, match="give pairs to finetune it on"):
        kgpt_jax.finetune(read, workdir=tmp_path / "none")
    with pytest.raises(kgpt_jax.UserError, match="give pairs to finetune it on"):  # not the built-in ones
        kgpt_jax.finetune(read, workdir=tmp_path / "none", config=config)
    (tmp_path / "lists").rename(tmp_path / "moved")
    moved = kgpt_jax.load(tmp_path / "moved" / "vanilla" / "finetune").config.data
    for name in ("pretrain_corpus_path", "finetune_corpus_path"):
        assert Path(getattr(moved, name)).exists()
    (tmp_path / "moved").rename(tmp_path / "lists")
    path, before = Path(one.config.data.finetune_corpus_path), os.stat(one.config.data.finetune_corpus_path)
    assert write_pairs(path.parent, pairs) == path and os.stat(path).st_mtime_ns == before.st_mtime_ns
    # A run cannot be trained further in its own folder.
    before = sorted(one.folder.iterdir())
    with pytest.raises(
        kgpt_jax.UserError, match="finetune holds the run to start from: give another workdir"
    ):
        kgpt_jax.finetune(one, [("Where was Cy Ash born?", "Bonn")])
    assert sorted(one.folder.iterdir()) == before
    # Other documents are another run, and do not replace those that this one was trained on.
    with pytest.raises(kgpt_jax.UserError, match="pretrain holds a run with "):
        kgpt_jax.pretrain(config, documents[:2], tmp_path / "lists")
    path = Path(read.config.data.pretrain_corpus_path)
    assert path.read_text().split("\n") == documents
    path.write_text("Ann Ash was born in Bonn.")
    with pytest.raises(kgpt_jax.UserError, match="has other documents"):
        kgpt_jax.evaluate(one, [("Where was Cy born?", "Bonn")])


@pytest.mark.parametrize(
    "call, complaint",
    [
        (lambda one: kgpt_jax.load("nowhere"), "nowhere is not a run's folder"),
        (lambda one: kgpt_jax.load(one.folder, "fine"), "checkpoint 'fine': give newest, best"),
        (lambda one: kgpt_jax.pretrain("curse"), "no recipe 'curse'; choose from"),
        (lambda one: kgpt_jax.pretrain(one.config, []), "there are no documents"),
        (lambda one: kgpt_jax.pretrain(one.config, ""), "corpus is '': give the path of a file"),
        (
            lambda one: kgpt_jax.pretrain(one.config, workdir="gs://a"),
            "workdir is 'gs://a', which is no local",
        ),
        (lambda one: kgpt_jax.finetune(one, workdir="gs://a"), "workdir is 'gs://a', which is no local"),
        (lambda one: one.answer(["Who?", ""]), "a question is '': give one line of text"),
        (lambda one: one.answer([None]), "a question is None: give one line of text"),
        (lambda one: one.answer("Who?\nWhen?"), "has a line break"),
        (lambda one: one.answer(f"Who?{MASK}"), "which stands for masked text here"),
        (lambda one: kgpt_jax.pretrain(one.config, ["a\nb"]), "document 1 has a line break"),
        (lambda one: kgpt_jax.finetune(one, []), "there are no pairs"),
        (lambda one: kgpt_jax.finetune(one, ""), "pairs is '': give the path of a file"),
        (
            lambda one: kgpt_jax.finetune(one, [("Where?", "")]),
            r"pair 1 is \('Where\?', ''\): give a question",
        ),
        (lambda one: kgpt_jax.evaluate(one, [("a\tb", "c")]), "pair 1 is .*without tabs"),
        (lambda one: kgpt_jax.evaluate(one, [("a", None)]), r"pair 1 is \('a', None\)"),
        (lambda one: kgpt_jax.evaluate(one, ["ab"]), "pair 1 is 'ab'"),
        (lambda one: one.logits(""), "the text has 0 characters: give 1 to 127"),
        (lambda one: one.logits("#"), "the vocabulary has no '#'"),
        (lambda one: one.attention("a" * 128), "the text has 128 characters"),
        (lambda one: one.sample("#"), "the prompt has '#', which the vocabulary of"),
        (lambda one: one.sample(""), "the prompt has 0 characters"),
        (lambda one: one.sample("A", n=0), "n is 0: give 1 or more"),
        (lambda one: one.sample("A", max_new=-1), "max_new is -1: give 1 or more"),
        (lambda one: one.sample("A", temperature=-1), "temperature is -1: give 0 or more"),
        (lambda one: one.sample("A", temperature=float("nan")), "temperature is nan: give 0 or more"),
        (lambda one: one.sample("A", temperature=float("inf")), "temperature is inf: give 0 or more"),
        (lambda one: one.sample("A", top_k=-1), "top_k is -1: give 0 or more"),
        (lambda one: kgpt_jax.evaluate(one, [("a", "b")], beams=-1), "beams is -1: give 0 or more"),
        (lambda one: kgpt_jax.load(one.folder, 9).params, "has no valid checkpoint 9"),
        (lambda one: kgpt_jax.pretrain(one.config, [("a", "b")]), r"document 1 is \('a', 'b'\): give a text"),
        (lambda one: kgpt_jax.finetune(one, config="curse"), "no recipe 'curse'; choose from"),
    ],
)
def test_what_a_user_can_mend_is_a_user_error(untrained, call, complaint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kgpt_jax.UserError, match=complaint):
        call(untrained)
    assert not any(tmp_path.iterdir())


def test_recipes_and_files_are_named(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(stages, "pretrain", lambda *args: asked.append(args) or stages.Trained(None, 0.0))
    kgpt_jax.pretrain("quickstart", "wiki.txt", tmp_path)
    kgpt_jax.pretrain("quickstart", workdir=tmp_path)
    recipe = kgpt_jax.load_recipe("quickstart")
    other = kgpt_jax.override(recipe, {"data.pretrain_corpus_path": "wiki.txt"})
    assert asked == [(config, tmp_path / "vanilla" / "pretrain") for config in (other, recipe)]


def test_ctrl_c_is_a_keyboard_interrupt(monkeypatch, tmp_path):
    def stopped(config, folder):
        raise SystemExit(130)

    monkeypatch.setattr(stages, "pretrain", stopped)
    with pytest.raises(KeyboardInterrupt):
        kgpt_jax.pretrain("quickstart", workdir=tmp_path)


def test_nothing_is_printed_and_jax_is_imported_late(trained):
    one, _ = trained
    program = f"""
import sys
import kgpt_jax
assert not {{"jax", "numpy"}} & sys.modules.keys()
assert "pretrain" in dir(kgpt_jax) and kgpt_jax.Answer("Where?", "Rome").answer == "Rome"
run = kgpt_jax.load({str(one.folder)!r})
assert "jax" not in sys.modules
run.answer("Where was Ann born?")
read = kgpt_jax.load({str(one.folder.parent / "pretrain")!r})
kgpt_jax.pretrain(read.config, workdir={str(one.folder.parent.parent)!r})
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'kgpt_jax' has no attribute 'lode'"):
        _ = kgpt_jax.lode
