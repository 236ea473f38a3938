"""Streamed data: found, looked at, and read; and what is known of them before they are read."""

import threading
import time

import numpy as np
import pytest
import torch
from stream_data import COUNT, drawn, found, numbers, png, stream, write_parquet

from hfgen.data.decoding import Decoding
from hfgen.data.layout import Layout
from hfgen.data.load import load_images
from hfgen.data.stream_batches import StreamBatches
from hfgen.errors import HFGenError, UsageError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.whole
def test_the_built_in_data_are_streamed_whole():
    images = found("mnist-mini")
    assert (images.count, images.mode, images.resolution(), images.num_classes) == (10_000, "L", 28, 10)
    assert images.dataset_id is None
    assert images.notes == ["streamed: mode and sizes are those of the first 200 images"]
    batches = StreamBatches(images, Decoding(28, class_conditional=True), Layout(100))
    labels = torch.cat([micro["class_labels"] for [micro] in batches.steps(0, 100)])
    assert torch.bincount(labels).tolist() == [1000] * 10
    assert batches.steps_per_epoch == 100


def test_sorted_data_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr("hfgen.data.streams.LOOKED_AT", 4)
    for number in range(12):
        (tmp_path / "sorted" / f"{number // 6}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "sorted" / f"{number // 6}" / f"{number}.png").write_bytes(png(number))
    images = found(str(tmp_path / "sorted"))
    assert images.count == 12
    assert "sorted data are mixed within --shuffle_buffer_size images only" in images.notes[1]


def test_a_damaged_file_is_one_error(shards, tmp_path):
    path = tmp_path / "shards" / "train-2.parquet"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(HFGenError, match="cannot be read"):
        stream(shards)


def test_a_file_that_breaks_off_while_training_is_one_error(shards, tmp_path):
    batches = stream(shards)
    for path in (tmp_path / "shards").iterdir():
        path.unlink()
    with pytest.raises(HFGenError, match="The stream of .* cannot be read: .*No such file"):
        next(batches.steps(0, 1))


def test_labels_that_do_not_name_their_classes_are_refused(tmp_path):
    data = write_parquet(tmp_path / "unnamed", names=None)
    assert load_images(data).num_classes == 2
    assert found(data).num_classes is None
    with pytest.raises(UsageError, match="no class labels.*\n.*ClassLabel"):
        stream(data, class_conditional=True)
    with pytest.raises(UsageError, match="'label' does not name its classes.*\n.*ClassLabel"):
        found(data, label_column="label")
    with pytest.raises(UsageError, match="no column 'y'"):
        found(data, label_column="y")


def test_an_array_is_not_streamed(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, 4, 4), np.uint8))
    with pytest.raises(UsageError, match="is an array, which is read whole"):
        found(str(tmp_path / "a.npy"))


@pytest.fixture
def long(tmp_path, monkeypatch):
    """Data longer than what is looked at, and whose files do not tell how long."""
    monkeypatch.setattr("hfgen.data.streams.LOOKED_AT", 4)
    monkeypatch.setattr("hfgen.data.streams._count_in_files", lambda *_: None)
    return write_parquet(tmp_path / "long", (30, 20))


def test_a_stream_of_unknown_length_needs_a_number_of_steps(long):
    batches = stream(long)
    assert batches.images.count is None
    with pytest.raises(UsageError, match="is not known before they are all read.\n.*--max_train_steps"):
        _ = batches.steps_per_epoch
    seen = [n for [micro] in drawn(batches, 0, 12) for n in micro]
    assert len({*seen[:48]}) == len({*seen[48:]}) == 48
    assert batches.epochs(12) == 1.0


def test_data_too_small_for_a_batch_are_told_though_nobody_knew(long):
    with pytest.raises(UsageError, match="A batch of 51 .* is larger than .*: 50 images"):
        next(stream(long, Layout(51)).steps(0, 1))


def test_data_known_to_be_too_small_are_told_at_once(shards):
    with pytest.raises(UsageError, match="A batch of 51 .* is larger than .*: 50 images"):
        stream(shards, Layout(51))


@pytest.mark.parametrize("said", [60, 40])
def test_a_stream_of_another_length_than_was_said_is_told_once(shards, monkeypatch, said):
    monkeypatch.setattr("hfgen.data.streams.LOOKED_AT", 4)
    monkeypatch.setattr("hfgen.data.streams._count_in_files", lambda *_: said)
    notes = []
    steps = drawn(stream(shards, Layout(10), note=notes.append), 0, 15)
    assert len(notes) == 1
    assert f"is said to hold {said} images, but its stream ended after 50" in notes[0]
    assert sorted(n for [micro] in steps[10:] for n in micro) == list(range(COUNT))


def test_a_broken_image_is_named_where_it_is_met(tmp_path, monkeypatch):
    monkeypatch.setattr("hfgen.data.streams.LOOKED_AT", 4)
    data = write_parquet(tmp_path / "broken", replaced={33: png(33)[:40], 40: b"no image"})
    for workers in (0, 1):
        source, seen = stream(data, num_workers=workers).steps(0, 6), []
        with pytest.raises(HFGenError, match=r"image (33|40) of the stream \((33|40).png\) cannot be read") as error:
            for [micro] in source:
                seen += numbers(micro)
        assert len(seen) % 8 == 0
        assert not {33, 40} & {*seen}
        assert len(str(error.value).splitlines()) == 2


@pytest.mark.whole
def test_a_stream_that_hangs_does_not_keep_a_run_from_stopping(shards, monkeypatch):
    """The steps end; what was trained can be saved."""
    import datasets

    original, hanging = datasets.IterableDataset.iter, threading.Event()

    def hang_after_two(self, batch_size):
        for number, table in enumerate(original(self, batch_size)):
            if number == 2:
                hanging.set()
                time.sleep(60)
            yield table

    monkeypatch.setattr(datasets.IterableDataset, "iter", hang_after_two)
    began = time.time()
    seen = len(list(stream(shards, shuffle_buffer_size=4).steps(0, 6, stopped=hanging.is_set)))
    assert 0 < seen < 6
    assert time.time() - began < 30
