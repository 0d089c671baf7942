"""Each process draws its own rows: all together they are the batches that one process alone would have."""

import dataclasses
from collections import Counter
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from kgpt_jax import devices as sharding
from kgpt_jax.config import UserError, load_recipe, override
from kgpt_jax.data import chunks, stage_data
from kgpt_jax.data.corpus import Table
from kgpt_jax.data.vocab import PAD, Vocab
from kgpt_jax.store.compatible import with_vocab
from kgpt_jax.train import feed as feeding
from kgpt_jax.train.feed import Feed, in_all

DOCUMENTS = [f"Nr {i:02}. " + "Ann Bo was born in Rome. " * (i % 7) for i in range(37)]
VOCAB = Vocab.of("\n" + "".join(DOCUMENTS))


class Recorded(list):
    """Documents that know which of them were read."""

    def __init__(self, documents):
        super().__init__(documents)
        self.read = set()

    def __getitem__(self, index):
        self.read.update(range(len(self))[index])
        return super().__getitem__(index)


def settled(**train):
    changes = {f"pretrain.{name}": value for name, value in train.items()}
    recipe = load_recipe("configs/course_2024.py")
    small = {"pretrain.batch_size": 8, "pretrain.microbatches": 2, "pretrain.epochs": 2, "data.shards": 4}
    return with_vocab(override(recipe, {**small, **changes}), VOCAB)


def feed_of(config, documents, shares, n_shares, monkeypatch):
    monkeypatch.setattr(feeding, "own_shares", lambda mesh: shares)
    book = stage_data.objective_of(config, "pretrain", VOCAB, documents=documents)[0]
    mesh = SimpleNamespace(shape={"data": n_shares})
    return Feed(book, config.model, config.pretrain, 0, mesh)


def drawn_apart(config, n_processes, number, monkeypatch):
    """Returns the microbatches of a chunk's updates for each process, and what each has read."""
    read, feeds, rows = [], [], []
    for i in range(n_processes):
        documents = Recorded(DOCUMENTS)
        mine = list(range(i * 4 // n_processes, (i + 1) * 4 // n_processes))
        feeds.append(feed_of(config, documents, mine, 4, monkeypatch))
        documents.read.clear()  # what the digest read
        rows.append(feeds[-1].draw(number))
        read.append(documents.read)
    said = []
    for updates in rows:  # what each has to say
        monkeypatch.setattr(feeding, "all_gather", lambda x: said.append(x) or np.asarray(x)[None])
        feeds[0].has_all, before = False, len(said)
        feeds[0].agreed(updates)
        assert len(said) == before + 2
    measures = said[1::2]
    for i, each in enumerate(feeds):
        each.has_all = n_processes == 1
        answers = iter([np.arange(n_processes), np.stack(measures)])
        monkeypatch.setattr(feeding, "all_gather", lambda _, answers=answers: next(answers))
        rows[i] = each.agreed(rows[i])
    return rows, read


@pytest.mark.parametrize("chunk", [37, 20])
@pytest.mark.parametrize("n_processes", [2, 4])
@pytest.mark.parametrize("group_by_length", [True, False])
def test_rows_of_all_processes_are_the_rows_of_one(n_processes, group_by_length, chunk, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", chunk * 129)  # characters of a document's text
    config = settled(objective="whole_line", group_by_length=group_by_length)
    texts = []
    for number in range(2):
        ((alone,), (everything,)) = drawn_apart(config, 1, number, monkeypatch)
        together, read = drawn_apart(config, n_processes, number, monkeypatch)
        assert set().union(*read) == everything and sum(map(len, read)) == len(everything)
        assert all(len(each) <= -(-len(everything) // n_processes) + 1 for each in read)
        for update, whole in enumerate(alone):
            for i, microbatch in enumerate(whole):
                parts = [updates[update][i] for updates in together]
                assert {len(part.batch.x_BT) for part in parts} == {4 // n_processes}
                for k in range(3):
                    beside = np.concatenate([part.batch[k] for part in parts])
                    assert (beside == microbatch.batch[k]).all() and beside.shape == microbatch.batch[k].shape
                assert all(part[1:] == microbatch[1:] for part in parts)
                texts += [VOCAB.decode(x_T).rstrip(PAD) for x_T in microbatch.batch.x_BT if x_T.any()]
    epochs = 2 if chunk == 37 else 1
    assert sorted(texts) == sorted([document[:128] for document in DOCUMENTS] * epochs)


def test_measures_of_all_rows_are_the_widest_and_the_sums():
    first, second = np.array([[[16, 5, 7], [32, 0, 9]]]), np.array([[[32, 1, 2], [16, 3, 4]]])
    assert in_all([first, second]).tolist() == [[[32, 6, 9], [32, 3, 13]]]


@pytest.mark.parametrize("shares", [[0], [3], [1, 2], [0, 2], [0, 1, 2, 3]])
def test_shares_are_dealt_as_the_whole_would_be(shares, monkeypatch):
    array = np.arange(24).reshape(2, 12)
    own = np.concatenate([array[:, 3 * i : 3 * i + 3] for i in shares], axis=1)

    def put_down(shape, place, part):
        assert shape == array.shape
        columns = [slice(3 * i, 3 * i + 3) for i in shares]
        return [part((slice(None), each)).tolist() for each in columns], [
            array[:, c].tolist() for c in columns
        ]

    monkeypatch.setattr(jax, "make_array_from_callback", put_down)
    monkeypatch.setattr(sharding, "NamedSharding", lambda mesh, spec: spec)
    found, expected = sharding.deal(own, SimpleNamespace(shape={"data": 4}), 1, shares)
    assert found == expected


def test_shards_that_do_not_fit_are_named(monkeypatch):
    config = override(settled(), {"data.shards": 3})
    with pytest.raises(UserError, match=r"data.shards is 3: give a number, .* texts of a microbatch, 8 / 2"):
        feed_of(config, DOCUMENTS, [0], 4, monkeypatch)


def test_who_cannot_have_shards_to_itself_draws_all(monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    feed = feed_of(settled(), DOCUMENTS, [0], 3, monkeypatch)
    assert (feed.has_all, feed.shares, feed.shards) == (True, [0, 1, 2], [0, 1, 2, 3])
    assert "every process reads all of the corpus: 4 shards don't go into 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    "owners, mine",
    [
        ([[0, 0], [0, 0], [1, 1], [1, 1]], [[0, 1], [2, 3]]),
        ([[0, 1], [0, 1], [2, 3], [2, 3]], [[0, 1], [0, 1], [2, 3], [2, 3]]),
        ([[1], [0], [1], [0]], [[1, 3], [0, 2]]),
        ([[0, 0], [0, 1], [1, 1]], [[0, 1, 2], [0, 1, 2]]),  # the middle one is of both
    ],
)
def test_processes_have_the_same_shares_or_none_in_common(owners, mine, monkeypatch):
    devices = [[SimpleNamespace(process_index=i) for i in row] for row in owners]
    for process, shares in enumerate(mine):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        assert sharding.own_shares(SimpleNamespace(devices=devices)) == shares


@pytest.mark.parametrize("shards", [1, 4])
def test_shards_ask_about_everybody_alike(shards, monkeypatch):
    """37 documents and as many questions, about ten people."""
    pairs = [(f"Where is Nr {i}?", "Rome") for i in range(10)]
    vocab = Vocab.of("\n?Whis" + "".join(DOCUMENTS))
    recipe = {"objective": "whole_line=0.5,question_answer=0.5", "batch_size": 8}
    config = override(with_vocab(settled(**recipe), vocab), {"data.shards": shards})
    monkeypatch.setattr(stage_data.corpus, "load_pairs", lambda data: Table(*map(list, zip(*pairs)), []))
    found = stage_data.objective_of(config, "pretrain", vocab, documents=DOCUMENTS)
    book = chunks.chunks(*found[:2])
    assert [sum(sizes) for sizes in book.sizes] == [74]
    drawn = [make()(np.random.default_rng(0)) for make in book.make[0]]
    texts = [vocab.decode(x_T).rstrip(PAD) for examples in drawn for x_T in examples.x_NT]
    asked = Counter(text for text in texts if text.startswith("Where is"))
    # A shard has two or three of them, and nine or ten questions.
    assert len(asked) == 10 and sum(asked.values()) == 37
    assert set(asked.values()) <= ({3, 4} if shards == 1 else {3, 4, 5})


def test_a_large_corpus_has_shards_by_itself():
    cfg = settled().pretrain
    assert [chunks.n_shards(0, cfg, n, 128) for n in (0, 37, 2**16, 2**16 + 1)] == [1, 1, 1, 4]
    assert [chunks.n_shards(0, cfg, n, 2048) for n in (2**12, 2**12 + 1)] == [1, 4]
    assert chunks.n_shards(0, dataclasses.replace(cfg, batch_size=9), 2**17, 128) == 1
    many = dataclasses.replace(cfg, batch_size=512, microbatches=0, group_by_length=True)
    assert chunks.n_shards(0, many, 2**17, 128) == 8
