"""The order of a stream is a function of (seed, epoch, position), and a checkpoint keeps a place in it."""

import itertools
import json

import pytest
from stream_data import COUNT, drawn, flips, found, make, numbers, png, stream, write_parquet

from hfgen.data.decoding import Decoding
from hfgen.data.image_batches import image_batches
from hfgen.data.layout import Layout
from hfgen.data.load import load_images
from hfgen.errors import HFGenError, UsageError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize("source", ["one_file", "shards", "image_folder", "tars"])
@pytest.mark.whole
def test_an_epoch_holds_each_image_once_and_the_next_another_order(source, request):
    data = request.getfixturevalue(source)
    steps = drawn(stream(data, Layout(10)), 0, 10)
    first, second = ([n for [micro] in half for n in micro] for half in (steps[:5], steps[5:]))
    assert sorted(first) == sorted(second) == list(range(COUNT))
    assert first != second
    assert drawn(stream(data, Layout(10)), 0, 10) == steps
    assert drawn(stream(data, Layout(10), seed=1), 0, 10) != steps


def test_blocks_are_permuted_and_the_shards_too(shards):
    """In blocks of one the stream itself is seen: whole files, in an order of the epoch."""
    bounds = [0, 11, 14, 34, 35, 50]
    files = {start: list(range(start, end)) for start, end in itertools.pairwise(bounds)}
    unmixed = [n for [[n]] in drawn(stream(shards, Layout(1), shuffle_buffer_size=1), 0, 2 * COUNT)]
    orders = [[n for n in epoch if n in files] for epoch in (unmixed[:COUNT], unmixed[COUNT:])]
    assert unmixed == [n for order in orders for start in order for n in files[start]]
    assert sorted(orders[0]) == sorted(orders[1]) == bounds[:-1]
    assert orders[0] != orders[1]
    mixed = [n for [[n]] in drawn(stream(shards, Layout(1)), 0, COUNT)]
    for start in range(0, COUNT, 12):
        block, before = mixed[start : start + 12], unmixed[:COUNT][start : start + 12]
        assert sorted(block) == sorted(before)
        assert len(block) < 12 or block != before


def test_each_block_has_a_permutation_of_its_own(one_file):
    seen = [n for [[n]] in drawn(stream(one_file, Layout(1), shuffle_buffer_size=10), 0, COUNT)]
    assert len({tuple(n - start for n in seen[start : start + 10]) for start in range(0, COUNT, 10)}) == 5


def test_an_incomplete_batch_is_left_out(shards):
    """Of 50 images by 8 the last two of each epoch."""
    single = [n for [[n]] in drawn(stream(shards, Layout(1)), 0, 2 * COUNT)]
    assert [n for [micro] in drawn(stream(shards), 0, 12) for n in micro] == single[:48] + single[50:98]


@pytest.mark.parametrize(
    ("source", "block"),
    [*itertools.product(["one_file", "shards"], [1, 5, 16, 1000]), ("image_folder", 5), ("tars", 5)],
)
@pytest.mark.whole
def test_a_stream_goes_on_from_any_step(source, block, request, monkeypatch):
    """Inside a block, at its end, across files and epochs; what is kept is JSON, and nothing is read and dropped."""
    images = found(request.getfixturevalue(source))
    options = {"shuffle_buffer_size": block, "random_flip": True}
    whole, kept, steps = make(images, **options), [], []
    for [micro] in whole.steps(0, 14):
        steps.append((numbers(micro), flips(micro)))
        kept.append(json.loads(json.dumps(whole.state_dict())))
    monkeypatch.setattr(itertools, "islice", only_forward)
    for step in (1, 2, 3, 4, 5, 6, 7, 9, 12):
        resumed = make(images, **options)
        resumed.load_state_dict(kept[step - 1])
        assert [(numbers(m), flips(m)) for [m] in resumed.steps(step, step + 2)] == steps[step : step + 2], step


def only_forward(items, start, stop, islice=itertools.islice):
    """`islice` where nothing may be dropped."""
    assert start == 0
    return islice(items, start, stop)


@pytest.mark.parametrize("damage", [{"nonsense": 1}, "another place"])
def test_where_datasets_does_not_find_the_place_it_is_read_up_to(shards, damage):
    """A state that another version of `datasets` cannot read, or takes for another place."""
    whole = stream(shards)
    steps = whole.steps(0, 12)
    before = [next(steps) for _ in range(9)]
    kept = whole.state_dict()
    after = [numbers(m) for [m] in steps]
    assert len(before) == 9
    elsewhere = {**kept["start"], "skip": kept["start"]["skip"] + 1}
    kept["start"] = elsewhere if damage == "another place" else {**kept["start"], "stream": damage}
    resumed = stream(shards)
    resumed.load_state_dict(kept)
    assert [numbers(m) for [m] in resumed.steps(9, 12)] == after


def test_other_data_in_the_place_of_those_of_the_checkpoint_are_refused(shards, tmp_path):
    whole = stream(shards)
    next(whole.steps(0, 2))
    write_parquet(tmp_path / "shards", (11, 3, 20, 1, 15), replaced={number: png(200) for number in range(COUNT)})
    resumed = stream(shards)
    resumed.load_state_dict(whole.state_dict())
    with pytest.raises(HFGenError, match="has changed since the checkpoint was written"):
        next(resumed.steps(1, 2))


def test_a_step_is_reached_without_a_place_too(shards):
    assert drawn(stream(shards), 3, 8) == drawn(stream(shards), 0, 8)[3:]
    again = stream(shards)
    assert drawn(again, 0, 3) == drawn(again, 0, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"shuffle_buffer_size": 13}, "with --shuffle_buffer_size 12, this run has 13"), ({}, "with num_shards 5, this")],
)
def test_a_place_in_another_order_is_refused(shards, one_file, options, message):
    with pytest.raises(UsageError, match=message):
        stream(shards if options else one_file, **options).load_state_dict(stream(shards).state_dict())


def test_a_checkpoint_of_the_other_kind_is_refused(shards):
    with pytest.raises(UsageError, match="without --streaming"):
        stream(shards).load_state_dict(None)
    with pytest.raises(UsageError, match="with --streaming"):
        image_batches(load_images(shards), Decoding(16), Layout(8)).load_state_dict(stream(shards).state_dict())
