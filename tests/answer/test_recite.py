import dataclasses
import json

import numpy as np
import pytest

import kgpt_jax
from kgpt_jax.answer import recite as module
from kgpt_jax.answer import voters as voting
from kgpt_jax.answer.decode import SENTENCE_ENDS, logits
from kgpt_jax.answer.evidence import FEATURES, evidence
from kgpt_jax.answer.open_book import open_book
from kgpt_jax.answer.predict import predict
from kgpt_jax.answer.recite import recite
from kgpt_jax.answer.voters import ask, load_voters
from kgpt_jax.config import BiographiesConfig, DataConfig
from kgpt_jax.data import corpus
from kgpt_jax.data.vocab import MASK_ID, Vocab
from kgpt_jax.model.gpt import GPT
from kgpt_jax.store.compatible import fit_to
from tests import runs, tiny
from tests.answer.test_confidence import ASKS
from tests.commands import refused, run

PEOPLE = DataConfig(biographies=BiographiesConfig(n_train=120, n_dev=10, n_test=0, n_facts=1))
VOCAB = Vocab.of("abcdefghi .")  # 13 with PAD and MASK, as the tiny model has


@pytest.mark.parametrize(
    "variant, titled",
    [("vanilla", True), ("vanilla", False), ("perceiver", False), ("encoder_decoder", False)],
)
def test_the_likeliest_characters_are_written_and_mask_ends_sentences_only(variant, titled):
    model, params, _ = tiny.make(variant)
    rng = np.random.default_rng(0)
    names = ["abba", "cab", "", "xyz"]  # the vocabulary lacks x, y and z
    names += ["".join(rng.choice(list("abcdefghi ."), 5)) for _ in range(30 if variant == "vanilla" else 5)]
    lines = recite(model, params, VOCAB, names, titled)
    assert lines[2:4] == ["", ""]
    ended = 0
    for name, line in zip(names, lines):
        if not line:
            continue
        text = begin = f"{name}. " if titled else name
        while len(text) <= model.cfg.seq_len:  # one character more than the model reads
            scores_V = logits(model, params, VOCAB.encode(text), len(begin))[-1].copy()
            if scores_V.argmax() == MASK_ID and text[-1] in SENTENCE_ENDS:
                ended += 1
                break
            scores_V[MASK_ID] = -np.inf
            text += VOCAB.decode(scores_V.argmax()[None])
        assert line == text.rstrip("□")
    assert ended or (variant, titled) != ("vanilla", False)  # there, some of these texts end early
    assert lines[0] == recite(model, params, VOCAB, names[:1], titled)[0]  # alone = in a batch


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return runs.saved(tmp_path_factory.mktemp("run"), dataclasses.replace(runs.CONFIG, data=PEOPLE))


def remembering(data):
    """Returns a `recite` that remembers what the documents say about every other name."""
    lookup = open_book(data).lookup

    def say(model, params, vocab, names, titled):
        return [
            lookup.documents[lookup.rows_of[name][0]] if i % 2 and name in lookup.rows_of else ""
            for i, name in enumerate(names)
        ]

    return say


def test_what_is_read_in_a_recital_is_the_answer(stored, monkeypatch):
    monkeypatch.setattr(voting, "recite", remembering(PEOPLE))
    voters = load_voters([(stored, fit_to(stored, stored.config))], "")
    book, table = open_book(PEOPLE), corpus.load_questions(PEOPLE)
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
    monkeypatch.setattr(voting, "SURE_ENOUGH", 1.1)
    assert ask(voters, table.questions, book=book).answers == [own]


def test_commands_recite(stored, monkeypatch):
    monkeypatch.setattr(voting, "recite", remembering(PEOPLE))
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


def test_models_that_recite_are_read_without_their_documents(stored, monkeypatch):
    """The reader is trained on documents. After that, only what the model recites is read."""
    monkeypatch.setattr(module, "continue_texts", None)  # nothing can be recited
    voters = load_voters([(stored, fit_to(stored, stored.config))], "")
    book = open_book(PEOPLE)
    question = book.where.question("Nobody Atall")
    monkeypatch.setattr(voting, "recite", lambda *_: ["Nobody Atall was born in Rome."])
    found = ask(voters, [question], book=book._replace(documents=None))
    assert found.answers == [["Rome"]]
