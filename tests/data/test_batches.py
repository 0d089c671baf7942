import numpy as np
import pytest

from kgpt_jax.config import TrainConfig
from kgpt_jax.data.batches import Batch, epoch_batches, in_microbatches, stack, steps_per_epoch, used_columns
from kgpt_jax.data.objectives import Examples


def rows(n=37, T=100):
    """Rows that begin with their own number, of every length up to T."""
    rng = np.random.default_rng(0)
    x_NT = np.zeros((n, T), np.int32)
    for i, length in enumerate(rng.integers(1, T + 1, n)):
        x_NT[i, :length] = i + 2
    return Examples(x_NT, x_NT + (x_NT > 0), np.arange(n, dtype=np.int32) + 2)


def seen(batches):
    return [int(row[0]) - 2 for batch in batches for row in batch.x_BT if row[0]]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("group_by_length", [False, True])
def test_every_example_once_an_epoch(shuffle, group_by_length):
    cfg = TrainConfig(batch_size=8, shuffle=shuffle, group_by_length=group_by_length)
    examples = rows()
    batches = epoch_batches(lambda rng: examples, cfg, seed=1, epoch=0)
    assert len(batches) == steps_per_epoch(37, cfg) == 5
    assert sorted(seen(batches)) == list(range(37))
    for batch in batches:
        assert batch.x_BT.shape == batch.y_BT.shape
        assert batch.x_BT.shape[0] == 8 and batch.x_BT.shape[1] in (16, 32, 48, 64, 80, 96, 100)
        for x_T, y_T, source in zip(*batch):
            assert source == x_T[0]
            if x_T[0]:  # nothing but padding was cut off
                whole = examples.x_NT[x_T[0] - 2]
                assert used_columns(whole[None])[0] == used_columns(x_T[None])[0]
                assert (y_T == np.where(x_T > 0, x_T + 1, 0)).all()


def test_unshuffled_batches_keep_the_files_order():
    cfg = TrainConfig(batch_size=8, shuffle=False, group_by_length=False)
    assert seen(epoch_batches(lambda rng: rows(), cfg, seed=1, epoch=5)) == list(range(37))


def test_seed_and_epoch_decide_the_order():
    cfg = TrainConfig(batch_size=8)

    def order(seed, epoch):
        return seen(epoch_batches(lambda rng: rows(), cfg, seed, epoch))

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4


def test_a_large_batch_is_shuffled_alike_whether_its_microbatches_are_given_or_not():
    """The automatic number is eight on a CPU and one on a GPU. The order must not depend on it."""

    def order(microbatches, batch_size=128):
        cfg = TrainConfig(batch_size=batch_size, microbatches=microbatches)
        return seen(epoch_batches(lambda rng: rows(2000), cfg, 1, 0))

    assert order(0) == order(8) != order(1)
    assert order(0, batch_size=127) == order(1, batch_size=127)


def test_shards_draw_their_own_order_and_shuffle_widths_alike():
    cfg = TrainConfig(batch_size=8, microbatches_per_dispatch=1, group_by_length=True)
    shards = [epoch_batches(lambda rng: rows(), cfg, 1, 0, shard=i, n_shards=2) for i in (0, 1)]
    assert sorted(seen(shards[0])) == sorted(seen(shards[1])) and seen(shards[0]) != seen(shards[1])
    widths = [[batch.x_BT.shape for batch in batches] for batches in shards]
    assert widths[0] == widths[1] and len(set(widths[0])) > 4


def test_grouping_leaves_less_padding():
    def cells(group):
        cfg = TrainConfig(batch_size=8, group_by_length=group)
        return sum(b.x_BT.size for b in epoch_batches(lambda rng: rows(200), cfg, 0, 0))

    assert cells(True) < 0.75 * cells(False)


@pytest.mark.parametrize("n_rows, n, sizes", [(8, 4, [2] * 4), (7, 3, [3] * 3), (5, 8, [1] * 5), (6, 1, [6])])
def test_microbatches_hold_every_row_once(n_rows, n, sizes):
    batch = Batch(*rows(n_rows))
    microbatches = in_microbatches(batch, n)
    assert [len(microbatch.batch.x_BT) for microbatch in microbatches] == sizes
    assert sorted(seen(microbatch.batch for microbatch in microbatches)) == list(range(n_rows))
    assert [int(microbatch.number) for microbatch in microbatches] == list(range(len(sizes)))
    assert [bool(microbatch.last) for microbatch in microbatches] == [False] * (len(sizes) - 1) + [True]
    targets = sum(np.count_nonzero(microbatch.batch.y_BT) for microbatch in microbatches)
    assert {float(microbatch.weight) for microbatch in microbatches} == {float(np.float32(1 / targets))}
    widths = [microbatch.batch.x_BT.shape[1] for microbatch in microbatches]
    assert widths == sorted(widths)
    for microbatch in microbatches:
        for x_T, y_T, source in zip(*microbatch.batch):
            assert x_T[0] in (0, source) and (y_T == np.where(x_T > 0, x_T + 1, 0)).all()


def test_microbatches_of_nothing_but_padding_are_left_out():
    x_BT = np.zeros((6, 20), np.int32)
    x_BT[2:4] = 3
    batch = Batch(x_BT, x_BT, np.ones(6, np.int32))
    (microbatch,) = in_microbatches(batch, 3)
    assert (
        microbatch.batch.x_BT.tolist() == x_BT[2:4].tolist()
        and microbatch.last
        and microbatch.weight == np.float32(1 / 40)
    )
    (nothing,) = in_microbatches(Batch(x_BT * 0, x_BT * 0, np.ones(6, np.int32)), 3)
    assert nothing.last and nothing.weight == 1


def test_stacking_adds_a_leading_axis():
    microbatches = in_microbatches(Batch(*rows(8, 10)), 2)
    both = stack(microbatches)
    assert both.batch.x_BT.shape == (2, 4, 10) and both.last.tolist() == [False, True]
    assert (both.batch.source_B == np.stack([microbatch.batch.source_B for microbatch in microbatches])).all()
