"""Windows of a stream: a function of (seed, epoch, index), each id at most once an epoch."""

import numpy as np
import pytest
import torch

from hfgen import UsageError
from hfgen_text.windows import IdFile, Windows, dtype_for

STREAM = np.arange(1000, dtype=np.uint16)


def all_of(windows, epoch):
    return windows.fetch(range(len(windows)), epoch)


def test_evaluation_takes_disjoint_blocks_from_the_start():
    windows = Windows({0: STREAM}, 64)
    found = all_of(windows, None)
    assert len(windows) == 15
    assert found.dtype == torch.int32
    assert found.flatten().tolist() == [*range(15 * 64)]
    assert torch.equal(found, all_of(windows, 3))


def test_edges_move_with_seed_and_epoch_alone():
    """Every shift of a block occurs, evenly; windows are whole, and never beyond the end."""
    starts = []
    for epoch in range(400):
        found = all_of(Windows({0: STREAM}, 8, seed=1), epoch)
        assert found.flatten().tolist() == [*range(found[0, 0], found[0, 0] + found.numel())]
        starts.append(int(found[0, 0]))
    assert {*starts} == {*range(8)}
    assert np.bincount(starts).min() > 25
    assert starts[:20] == [int(Windows({0: STREAM}, 8, seed=1).fetch([0], epoch)[0, 0]) for epoch in range(20)]
    assert starts[:20] != [int(Windows({0: STREAM}, 8, seed=2).fetch([0], epoch)[0, 0]) for epoch in range(20)]


def test_a_window_is_the_same_whatever_is_fetched_beside_it():
    windows = Windows({0: STREAM}, 64, seed=3)
    whole = all_of(windows, 5)
    assert torch.equal(windows.fetch([7, 2, 7], 5), whole[[7, 2, 7]])
    assert torch.equal(windows.fetch(torch.tensor([4]), 5), whole[4:5])


@pytest.mark.parametrize("length", [64, 65, 127, 128, 129, 192])
def test_short_streams(length):
    """The number of windows does not depend on the epoch, and each fits."""
    windows = Windows({0: STREAM[:length]}, 64, seed=0)
    assert len(windows) == max(1, length // 64 - 1)
    for epoch in range(30):
        assert all_of(windows, epoch).max() < length


def test_classes_have_streams_of_their_own():
    streams = {0: STREAM[:300], 2: STREAM[300:]}
    windows = Windows(streams, 64, seed=0)
    found = all_of(windows, 1)
    assert windows.labels.tolist() == [0] * 3 + [2] * 9
    assert found[:3].max() < 300 <= found[3:].min()
    assert Windows(streams, 64).labels.tolist() == [0] * 4 + [2] * 10


def test_less_text_than_a_block():
    with pytest.raises(UsageError, match="--block_size 64 is longer than all of the text, which has 63 symbols"):
        Windows({0: STREAM[:63]}, 64)
    with pytest.raises(UsageError, match="longer than all of class 1, which has 0 symbols"):
        Windows({0: STREAM, 1: STREAM[:0]}, 64)


@pytest.mark.parametrize("most", [1 << 20, 100])
def test_many_ids_are_mapped(most, tmp_path):
    file = IdFile(1000, most, tmp_path)
    for start in range(0, 1000, 7):
        file.write(STREAM[start : start + 7].astype(np.int32))
    ids = file.read()
    assert isinstance(ids, np.memmap) == (most == 100)
    assert (ids == STREAM).all()
    assert ids.dtype == np.uint16
    assert len(IdFile(5).read()) == 0


def test_ids_take_the_fewest_bytes():
    assert [dtype_for(n) for n in (2, 256, 257, 65536, 65537)] == [np.uint8] * 2 + [np.uint16] * 2 + [np.int32]
