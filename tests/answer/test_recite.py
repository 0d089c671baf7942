import dataclasses
import json
from contextlib import redirect_stderr
from io import StringIO

import jax
import numpy as np
import pytest

import kgpt_jax
from kgpt_jax.answer import recite as module
from kgpt_jax.answer import voters as voting
from kgpt_jax.answer.decode import SENTENCE_ENDS, logits
from kgpt_jax.answer.evidence import FEATURES, Asks, evidence
from kgpt_jax.answer.open_book import open_book
from kgpt_jax.answer.predict import predict
from kgpt_jax.answer.recite import documents
from kgpt_jax.answer.voters import ask, load_voters
from kgpt_jax.config import BiographiesConfig, DataConfig
from kgpt_jax.data import corpus
from kgpt_jax.data.names import Frame
from kgpt_jax.data.vocab import MASK_ID, Vocab
from kgpt_jax.main import main
from kgpt_jax.model.gpt import GPT
from kgpt_jax.store.compatible import fit_to
from tests import runs, tiny
from tests.commands import refused, run

PEOPLE = DataConfig(biographies=BiographiesConfig(n_train=120, n_dev=10, n_test=0, n_facts=1))
ASKS = Asks(Frame("Where was ", " born?"), [])
VOCAB = Vocab.of("abcdefghi .")  # 13 with PAD and MASK, as the tiny model has


@pytest.mark.parametrize(
    "variant, titled",
    [("vanilla", True), ("vanilla", False), ("perceiver", False), ("encoder_decoder", False)],
)
def test_the_likeliest_characters_are_written_and_mask_ends_sentences_only(variant, titled):
    model, params, _ = tiny.make(variant)
    rng = np.random.default_rng(0)
    long = "abcdefgh" * 3  # more than the model reads
    names = ["abba", "cab", "", "xyz", long]  # the vocabulary lacks x, y and z
    names += ["".join(rng.choice(list("abcdefghi ."), 5)) for _ in range(30 if variant == "vanilla" else 5)]
    lines = documents(model, params, VOCAB, names, titled)
    assert lines[2:5] == ["", "", ""]
    ended = 0
    for name, line in zip(names, lines):
        if not line:
            continue
        text, done = f"{name}. " if titled else name, False
        begin = text
        while len(text) <= model.cfg.seq_len:  # one character more than the model reads
            scores_V = logits(model, params, VOCAB.encode(text), len(begin))[-1].copy()
            if scores_V.argmax() == MASK_ID and text[-1] in SENTENCE_ENDS:
                ended, done = ended + 1, True
                break
            scores_V[MASK_ID] = -np.inf
            text += VOCAB.decode(scores_V.argmax()[None])
        text = text.rstrip("□")
        assert line == (text if done or text[-1] in SENTENCE_ENDS else text[: text.rindex(" ")])
    assert ended or (variant, titled) != ("vanilla", False)  # there, some of these texts end early
    assert lines[0] == documents(model, params, VOCAB, names[:1], titled)[0]  # alone = in a batch


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return runs.saved(tmp_path_factory.mktemp("run"), dataclasses.replace(runs.CONFIG, data=PEOPLE))


@pytest.fixture(scope="module")
def book():
    return open_book(PEOPLE)


def remembering(lookup):
    """Returns a `documents` that remembers what the documents say about every other name."""

    def say(model, params, vocab, names, titled):
        return [
            lookup.documents[lookup.rows_of[name][0]] if i % 2 and name in lookup.rows_of else ""
            for i, name in enumerate(names)
        ]

    return say


def test_what_is_read_in_a_recital_is_the_answer(stored, book, monkeypatch):
    monkeypatch.setattr(module, "documents", remembering(book.lookup))
    voters = load_voters([(stored, fit_to(stored, stored.config))], "")
    table = corpus.load_questions(PEOPLE)
    found = ask(voters, table.questions, book=book)
    voter = voters[0]
    own, _ = predict(GPT(voter.config.model), voter.models[0], stored.vocab, table.questions)
    assert found.answers == [[(own, table.answers)[i % 2][i] for i in range(10)]]
    for i, there in enumerate(found.recited[0]):
        assert (there is not None) == (i % 2 == 1)
        if there:
            assert there.text[there.start : there.end] == there.answer and there.probability > 0.5
    # What is read in a recital is evidence for the answer.
    table_NF = evidence(voters, ASKS, table.questions, found).table_NF
    recited_N = table_NF[:, list(FEATURES).index("recited")]
    assert (recited_N[1::2] > 0.5).all() and not recited_N[::2].any()
    # A reader that is not sure does not replace the answer.
    monkeypatch.setattr(voting, "LEAST_PROBABILITY", 1.1)
    assert ask(voters, table.questions, book=book).answers == [own]


def test_commands_recite(stored, book, monkeypatch):
    monkeypatch.setattr(module, "documents", remembering(book.lookup))
    reading = f"--reading_params_path={stored.folder}"
    table = corpus.load_questions(PEOPLE)
    run("--mode=evaluate", reading, "--recite")
    written = stored.folder / "answers_recited.jsonl"
    records = [json.loads(line) for line in written.read_text("utf-8").splitlines()]
    assert [record["right"] for record in records[1::2]] == [True] * 5
    there = records[1]["recited"][0]
    assert there["text"][there["start"] : there["end"]] == there["answer"] == records[1]["answer"]
    assert records[0]["recited"] == [None]
    asked = [f"--question={question}" for question in table.questions[:2]]
    said = run("--mode=ask", reading, "--recite", *asked).splitlines()
    right = table.answers[1]
    assert said[1].startswith(f"{table.questions[1]} {right} (recites: ...") and f"[{right}]" in said[1]
    assert "recites" not in said[0]
    first, second = kgpt_jax.load(stored.folder).answer(table.questions[:2], recite=True)
    assert first.recited == (None,) and second.recited[0].answer == second.answer == right
    assert kgpt_jax.load(stored.folder).answer(table.questions[1]).recited == ()
    assert "--recite writes without beams" in refused("--mode=evaluate", reading, "--recite", "--beams=2")


def test_the_reader_sees_only_what_the_model_writes(stored, book, monkeypatch):
    voters = load_voters([(stored, fit_to(stored, stored.config))], "")
    question, right = corpus.load_questions(PEOPLE).pairs[0]
    wrong = "Oslo" if right != "Oslo" else "Rome"
    line = f"{book.where.name(question)} was born in {wrong}."
    monkeypatch.setattr(module, "documents", lambda *_: [line])
    assert ask(voters, [question], book=book).answers == [[wrong]]


def test_two_models_recite_and_vote(tmp_path, book, monkeypatch):
    two = runs.saved(tmp_path / "two", dataclasses.replace(runs.CONFIG, data=PEOPLE, n_seeds=2))
    voters = load_voters([(two, fit_to(two, two.config))], "")
    table = corpus.load_questions(PEOPLE)
    name, first = book.where.name(table.questions[0]), voters[0].models[0]

    def one_remembers(model, params, vocab, names, titled):
        own = all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (params, first))))
        return [f"{name} was born in Rome." if own else ""]

    monkeypatch.setattr(module, "documents", one_remembers)
    found = ask(voters, table.questions[:1], book=book)
    assert found.answers[0] == ["Rome"] and found.recited[0][0].answer == "Rome"
    assert found.recited[1] == [None] and found.answers[1] != ["Rome"]
    table_NF = evidence(voters, ASKS, table.questions[:1], found).table_NF
    share = found.recited[0][0].probability / 2 if found.vote == ["Rome"] else 0.0
    assert table_NF[0, list(FEATURES).index("recited")] == pytest.approx(share)


def test_a_calibration_belongs_to_a_way_of_answering(tmp_path, book, monkeypatch):
    pytest.importorskip("sklearn")
    data = dataclasses.replace(PEOPLE, n_validation=60)
    tried = runs.saved(tmp_path / "run", dataclasses.replace(runs.CONFIG, data=data))
    monkeypatch.setattr(module, "documents", remembering(book.lookup))
    reading = f"--reading_params_path={tried.folder}"
    run("--mode=calibrate", reading, "--recite")
    there = json.loads((tried.folder / "calibration.json").read_text("utf-8"))
    assert 0.4 <= there["quality"]["accuracy"] <= 0.5  # every other answer is remembered, and nearly all read
    assert there["features"]["recited"]["weight"] == max(of["weight"] for of in there["features"].values())
    (question,) = corpus.load_questions(PEOPLE).questions[:1]
    asking = ("--mode=ask", reading, f"--question={question}")
    run_out = kgpt_jax.load(tried.folder)
    assert run_out.answer(question, recite=True).sure and run_out.answer(question).sure is None
    for flag in ("--wrong_at_most=0.3", "--look_up=unsure", "--one_of=0.9"):
        with redirect_stderr(StringIO()) as err:
            assert main([*asking, flag]) == 2
        assert "error: This run was calibrated with --recite. Do the same here" in err.getvalue()
    assert "--one_of is about what the model writes by itself" in refused(*asking, "--one_of=0.9", "--recite")
