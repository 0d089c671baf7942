"""Processes draw different rows, and together the same batches as a single process."""

import dataclasses
from collections import Counter
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from kgpt_jax import devices as sharding
from kgpt_jax.config import ModelConfig, UserError, load_recipe, override
from kgpt_jax.data import chunks, stage_data
from kgpt_jax.data.corpus import Table
from kgpt_jax.data.stage_data import load_stage_data
from kgpt_jax.data.vocab import PAD, Vocab
from kgpt_jax.store.compatible import with_vocab
from kgpt_jax.train import feed as feeding
from kgpt_jax.train.feed import Feed, combined_sizes

DOCUMENTS = [f"Nr {i:02}. " + "Ann Bo was born in Rome. " * (i % 7) for i in range(37)]
VOCAB = Vocab.of("\n" + "".join(DOCUMENTS))


class Recorded(list):
    """Documents that record which of them were read."""

    def __init__(self, documents):
        super().__init__(documents)
        self.read = set()

    def __getitem__(self, index):
        self.read.update(range(len(self))[index])
        return super().__getitem__(index)


def small_config(**train):
    changes = {f"pretrain.{name}": value for name, value in train.items()}
    recipe = load_recipe("configs/course_2024.py")
    small = {"pretrain.batch_size": 8, "pretrain.microbatches": 2, "pretrain.epochs": 2, "data.shards": 4}
    return with_vocab(override(recipe, {**small, **changes}), VOCAB)


def feed_of(config, documents, positions, n_positions, monkeypatch):
    """Returns the feed of a process whose devices have these positions of the data axis."""
    monkeypatch.setattr(feeding, "own_positions", lambda mesh: positions)
    data = load_stage_data(config, "pretrain", VOCAB, documents=documents).chunks
    mesh = SimpleNamespace(shape={"data": n_positions})
    return Feed(data, config.model, config.pretrain, 0, mesh)


def test_an_encoder_decoder_has_no_targets_in_its_source(monkeypatch):
    config = override(small_config(), {"model.variant": "encoder_decoder"})
    feed = feed_of(config, DOCUMENTS, [0], 1, monkeypatch)
    for batch in (batch for update in feed.draw(0) for batch in update):
        for y_T, source in zip(batch.y_BT, batch.source_B):
            assert not y_T[: source - 1].any()
        assert batch.y_BT.any()


def drawn_apart(config, n_processes, number, monkeypatch):
    """Simulates the processes one after the other.

    Returns, for each, the microbatches of a chunk's updates, and the numbers of the documents that it read.
    """
    feeds, rows, read = [], [], []
    for i in range(n_processes):
        documents = Recorded(DOCUMENTS)
        positions = list(range(i * 4 // n_processes, (i + 1) * 4 // n_processes))
        feeds.append(feed_of(config, documents, positions, 4, monkeypatch))
        documents.read.clear()  # the digest reads all
        rows.append(feeds[-1].draw(number))
        read.append(documents.read)
    if n_processes == 1:
        return [feeds[0].weighted(rows[0])], read
    sent = []  # by each process: its first position, then its sizes
    for feed, updates in zip(feeds, rows):
        monkeypatch.setattr(feeding, "all_gather", lambda x: sent.append(x) or np.asarray(x)[None])
        feed.weighted(updates)
    assert len(sent) == 2 * n_processes
    microbatches = []
    for feed, updates in zip(feeds, rows):
        received = iter([np.stack(sent[0::2]), np.stack(sent[1::2])])
        monkeypatch.setattr(feeding, "all_gather", lambda _, received=received: next(received))
        microbatches.append(feed.weighted(updates))
    return microbatches, read


@pytest.mark.parametrize("chunk", [37, 20])
@pytest.mark.parametrize("n_processes", [2, 4])
@pytest.mark.parametrize("group_by_length", [True, False])
def test_rows_of_all_processes_are_the_rows_of_one(n_processes, group_by_length, chunk, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_CHARACTERS", chunk * 129)  # characters of a document's text
    config = small_config(objective="whole_line", group_by_length=group_by_length)
    texts = []
    for number in range(2):
        ((alone,), (everything,)) = drawn_apart(config, 1, number, monkeypatch)
        apart, read = drawn_apart(config, n_processes, number, monkeypatch)
        assert set().union(*read) == everything and sum(map(len, read)) == len(everything)
        assert all(len(each) <= -(-len(everything) // n_processes) + 1 for each in read)
        for update, whole in enumerate(alone):
            for i, microbatch in enumerate(whole):
                own = [updates[update][i] for updates in apart]
                assert {len(each.batch.x_BT) for each in own} == {4 // n_processes}
                for k in range(3):
                    rows = np.concatenate([each.batch[k] for each in own])
                    assert (rows == microbatch.batch[k]).all() and rows.shape == microbatch.batch[k].shape
                assert all(each[1:] == microbatch[1:] for each in own)
                texts += [VOCAB.decode(x_T).rstrip(PAD) for x_T in microbatch.batch.x_BT if x_T.any()]
    epochs = 2 if chunk == 37 else 1
    assert sorted(texts) == sorted([document[:128] for document in DOCUMENTS] * epochs)


def test_sizes_over_all_rows_are_the_widest_and_the_sums():
    first, second = np.array([[[16, 5, 7], [32, 0, 9]]]), np.array([[[32, 1, 2], [16, 3, 4]]])
    assert combined_sizes([first, second]).tolist() == [[[32, 6, 9], [32, 3, 13]]]


@pytest.mark.parametrize("positions", [[0], [3], [1, 2], [0, 2], [0, 1, 2, 3]])
def test_rows_of_some_positions_are_placed_like_those_of_all(positions, monkeypatch):
    array = np.arange(24).reshape(2, 12)
    own = np.concatenate([array[:, 3 * i : 3 * i + 3] for i in positions], axis=1)

    def put_down(shape, place, part):
        assert shape == array.shape
        columns = [slice(3 * i, 3 * i + 3) for i in positions]
        return [part((slice(None), each)).tolist() for each in columns], [
            array[:, c].tolist() for c in columns
        ]

    monkeypatch.setattr(jax, "make_array_from_callback", put_down)
    monkeypatch.setattr(sharding, "NamedSharding", lambda mesh, spec: spec)
    found, expected = sharding.place_rows(own, SimpleNamespace(shape={"data": 4}), 1, positions)
    assert found == expected


def test_shards_that_do_not_divide_a_microbatch_are_refused(monkeypatch):
    config = override(small_config(), {"data.shards": 3})
    with pytest.raises(UserError, match=r"data.shards is 3: .* up to 37, .* texts of a microbatch, 8 / 2"):
        feed_of(config, DOCUMENTS, [0], 4, monkeypatch)


@pytest.mark.parametrize("position, shards", [(0, [0, 1]), (1, [2, 3])])
def test_a_position_has_consecutive_shards(position, shards, monkeypatch):
    feed = feed_of(small_config(), DOCUMENTS, [position], 2, monkeypatch)
    assert (feed.has_all, feed.shards) == (False, shards)


def test_without_shards_of_its_own_a_process_draws_all(monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    feed = feed_of(small_config(), DOCUMENTS, [0], 3, monkeypatch)
    assert (feed.has_all, feed.positions, feed.shards) == (True, [0, 1, 2], [0, 1, 2, 3])
    assert "reads the whole corpus: 4 shards do not divide evenly over 3 positions" in capsys.readouterr().out


@pytest.mark.parametrize(
    "owners, mine",
    [
        ([[0, 0], [0, 0], [1, 1], [1, 1]], [[0, 1], [2, 3]]),
        ([[0, 1], [0, 1], [2, 3], [2, 3]], [[0, 1], [0, 1], [2, 3], [2, 3]]),
        ([[1], [0], [1], [0]], [[1, 3], [0, 2]]),
        ([[0, 0], [0, 1], [1, 1]], [[0, 1, 2], [0, 1, 2]]),  # the middle position belongs to both
    ],
)
def test_processes_have_the_same_positions_or_none_in_common(owners, mine, monkeypatch):
    devices = [[SimpleNamespace(process_index=i) for i in row] for row in owners]
    for process, positions in enumerate(mine):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        assert sharding.own_positions(SimpleNamespace(devices=devices)) == positions


@pytest.mark.parametrize("shards", [1, 4])
def test_shards_ask_about_all_people_equally_often(shards, monkeypatch):
    """37 documents, and as many questions about ten people."""
    pairs = [(f"Where is Nr {i}?", "Rome") for i in range(10)]
    vocab = Vocab.of("\n?Whis" + "".join(DOCUMENTS))
    recipe = {"objective": "whole_line=0.5,question_answer=0.5", "batch_size": 8}
    config = override(with_vocab(small_config(**recipe), vocab), {"data.shards": shards})
    monkeypatch.setattr(stage_data.corpus, "load_pairs", lambda data: Table(*map(list, zip(*pairs)), []))
    data = load_stage_data(config, "pretrain", vocab, documents=DOCUMENTS).chunks
    assert [sum(sizes) for sizes in data.sizes] == [74]
    drawn = [data.make(0, shard)(np.random.default_rng(0)) for shard in range(shards)]
    texts = [vocab.decode(x_T).rstrip(PAD) for examples in drawn for x_T in examples.x_NT]
    asked = Counter(text for text in texts if text.startswith("Where is"))
    # A shard asks nine or ten questions about two or three people.
    assert len(asked) == 10 and sum(asked.values()) == 37
    assert set(asked.values()) <= ({3, 4} if shards == 1 else {3, 4, 5})


def test_a_large_corpus_has_shards_by_default():
    cfg = small_config().pretrain
    assert [chunks.count_shards(0, cfg, n, 128) for n in (0, 37, 2**16, 2**16 + 1)] == [1, 1, 1, 4]
    assert [chunks.count_shards(0, cfg, n, 2048) for n in (2**12, 2**12 + 1)] == [1, 4]
    assert chunks.count_shards(0, dataclasses.replace(cfg, batch_size=9), 2**17, 128) == 1
    many = dataclasses.replace(cfg, batch_size=512, microbatches=0, group_by_length=True)
    assert chunks.count_shards(0, many, 2**17, 128) == 8


@pytest.mark.parametrize(
    "backend, changes, n, widths",
    [
        ("cpu", {}, 2, {16, 64, 96, 128}),
        ("gpu", {}, 2, {128}),
        ("gpu", {"microbatches": 0}, 1, {128}),
        ("gpu", {"microbatches": 0, "batch_size": 128, "group_by_length": True}, 1, {128}),
        ("cpu", {"microbatches": 0, "batch_size": 128, "group_by_length": True}, 16, {16, 64, 96, 128}),
        ("cpu", {"microbatches": 0, "batch_size": 256, "group_by_length": True}, 16, {16, 96, 128}),
        ("cpu", {"microbatches": 0, "batch_size": 20}, 2, {64, 96, 128}),
        ("cpu", {"microbatches": 0, "batch_size": 127, "group_by_length": True}, 1, {128}),
    ],
)
def test_an_accelerator_gets_whole_batches_of_one_width(backend, changes, n, widths, monkeypatch):
    """On an accelerator, compiling more programs would take longer than they save."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    config = override(small_config(objective="whole_line", **changes), {"data.shards": 1})
    feed = feed_of(config, DOCUMENTS, [0], 1, monkeypatch)
    assert feeding.n_microbatches(config.pretrain) == n
    ((_, updates),) = feed.chunks(range(1))
    shapes = {each.batch.x_BT.shape for update in updates for each in update}
    assert {width for _, width in shapes} == widths
    assert {rows for rows, _ in shapes} == {feeding.microbatch_rows(config.pretrain)}


def test_texts_that_the_model_cannot_read_whole_are_not_padded_further(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    widths = feeding.widths_on_devices(np.array([1, 128, 129, 300]), ModelConfig(block_size=300, seq_len=300))
    assert widths.tolist() == [128, 128, 256, 300]
