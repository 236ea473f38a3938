"""The order of the data is a function of (seed, epoch, position), however the batch is split."""

from functools import partial

import numpy as np
import pytest
import torch

from hfgen.data.decoding import Decoding
from hfgen.data.image_batches import image_batches
from hfgen.data.layout import Layout
from hfgen.data.load import load_images
from hfgen.errors import UsageError


@pytest.fixture
def images(tmp_path):
    """Twelve images of one color each, so that a pixel tells which image it is."""
    pixels = np.broadcast_to(np.arange(12, dtype=np.uint8)[:, None, None], (12, 4, 4)).copy()
    pixels[:, :, 0] += 100
    np.savez(tmp_path / "a.npz", images=pixels, labels=np.arange(12))
    return load_images(str(tmp_path / "a.npz"))


def drawn(batches, first=0, last=1):
    """Which images each step holds, micro-batch after micro-batch."""
    return [
        [((m["pixel_values"][:, 0, 0, 1] + 1) * 127.5).round().int().tolist() for m in micros]
        for micros in batches.steps(first, last)
    ]


def test_range_shape_and_labels(images):
    [batch] = next(image_batches(images, Decoding(4, class_conditional=True), Layout(12)).steps(0, 1))
    assert batch["pixel_values"].shape == (12, 1, 4, 4)
    assert batch["pixel_values"].dtype == torch.float32
    assert batch["class_labels"].dtype == torch.int64
    seen = ((batch["pixel_values"][:, 0, 0, 1] + 1) * 127.5).round().long()
    assert torch.equal(seen, batch["class_labels"])
    assert batch["pixel_values"].min() == -1


def test_an_epoch_holds_each_image_once_and_the_next_another_order(images):
    steps = drawn(image_batches(images, Decoding(4), Layout(4)), 0, 6)
    first, second = ([i for [micro] in half for i in micro] for half in (steps[:3], steps[3:]))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


@pytest.mark.parametrize("memory_limit", [2**30, 0], ids=["resident", "streamed"])
def test_the_order_does_not_depend_on_where_one_starts_or_how_data_are_held(images, memory_limit):
    limited = partial(image_batches, images, Decoding(4, num_workers=1), Layout(4), memory_limit=memory_limit)
    whole = drawn(image_batches(images, Decoding(4), Layout(4), seed=3), 0, 5)
    assert drawn(limited(seed=3), 2, 5) == whole[2:]
    assert drawn(limited(seed=4), 0, 5) != whole


def test_the_global_batch_is_the_same_however_it_is_split(images):
    """One process, two processes, two micro-batches of two processes: the same images in the same places."""
    [[whole]] = drawn(image_batches(images, Decoding(4), Layout(12)))
    parts = [drawn(image_batches(images, Decoding(4), Layout(3, 2, rank, 2)))[0] for rank in (0, 1)]
    together = parts[0][0] + parts[1][0] + parts[0][1] + parts[1][1]
    assert together == whole


def test_flips_are_drawn_per_image_and_epoch(images):
    batches = image_batches(images, Decoding(4, random_flip=True), Layout(12))
    flipped = [(m["pixel_values"][:, 0, 0, 3] > m["pixel_values"][:, 0, 0, 0]) for [m] in batches.steps(0, 8)]
    assert 0.25 < torch.stack(flipped).float().mean() < 0.75
    again = [(m["pixel_values"][:, 0, 0, 3] > m["pixel_values"][:, 0, 0, 0]) for [m] in batches.steps(3, 4)]
    assert torch.equal(again[0], flipped[3])
    assert len({tuple(f.tolist()) for f in flipped}) > 1


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout(13), "A batch of 13 .--train_batch_size 13. is larger than .*a.npz: 12 images"),
        (Layout(4, 2, 0, 2), "A batch of 16 .--train_batch_size 4 x 2 processes x --gradient_accumulation_steps 2."),
    ],
)
def test_a_batch_larger_than_the_data_is_told(images, layout, message):
    with pytest.raises(UsageError, match=message):
        image_batches(images, Decoding(4), layout)


def test_labels_that_are_not_there_are_told(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, 4, 4), np.uint8))
    with pytest.raises(UsageError, match="no class labels"):
        image_batches(load_images(str(tmp_path / "a.npy")), Decoding(4, class_conditional=True), Layout(1))


def test_one_image_is_told(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros((1, 8, 8), np.uint8))
    with pytest.raises(UsageError, match="A batch of 64 .* is larger than .*one.npy: 1 image\\."):
        image_batches(load_images(str(tmp_path / "one.npy")), Decoding(8), Layout(64))
