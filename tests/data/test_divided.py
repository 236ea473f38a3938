"""A held-out part of one's own data: chosen by seed, the same again, of each class its share."""

import pickle

import numpy as np
import pytest
import torch

from hfgen.data.divided import divided, facts_of
from hfgen.data.load import load_images
from hfgen.errors import HFGenError, UsageError


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """60 images, image i of gray level i; 40 of class 0, 15 of class 1, 5 of class 2."""
    path = tmp_path_factory.mktemp("data") / "grays.npz"
    pixels = np.arange(60, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 4), np.uint8)
    labels = np.repeat([0, 1, 2], [40, 15, 5])
    np.savez(path, images=pixels, labels=np.random.default_rng(0).permutation(labels))
    return load_images(str(path))


def grays(part):
    return [int(part.decode(index, 4)[0, 0, 0]) for index in range(len(part))]


@pytest.mark.parametrize("seed", [0, 7])
def test_the_parts_are_the_whole_and_share_nothing(images, seed):
    train = divided(images, 0.2, seed)
    assert (len(train), len(train.held_out)) == (48, 12)
    assert sorted(grays(train) + grays(train.held_out)) == list(range(60))
    for part in (train, train.held_out):
        assert part.labels.tolist() == images.labels[torch.tensor(grays(part))].tolist()
    assert grays(train) == sorted(grays(train))


def test_a_seed_chooses_the_same_again_and_another_seed_others(images):
    first, again, other = (divided(images, 0.2, seed).held_out for seed in (0, 0, 1))
    assert facts_of(first) == facts_of(again) != facts_of(other)
    assert grays(first) == grays(again) != grays(other)


def test_each_class_has_its_share(images):
    for seed in range(20):
        counts = divided(images, 0.2, seed).held_out.labels.bincount(minlength=3).tolist()
        assert counts[:2] == [8, 3]
        assert counts[2] == 1


def test_images_without_labels_are_divided_too(images):
    from dataclasses import replace

    held = {tuple(grays(divided(replace(images, labels=None), 0.5, seed).held_out)) for seed in range(5)}
    assert len(held) == 5


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_a_part_that_would_be_empty_is_refused(images, fraction):
    with pytest.raises(UsageError, match="leaves 0 for validation"):
        divided(images, fraction, 0)


def test_an_error_names_the_image_by_its_number_in_the_whole(images):
    from dataclasses import replace

    def broken(index):
        raise OSError(f"it is {index}")

    held_out = divided(replace(images, open_image=broken), 0.2, 0).held_out
    with pytest.raises(HFGenError, match=f"image {held_out.rows[3]} cannot be read: it is {held_out.rows[3]}"):
        held_out.decode(3, 4)


def test_a_part_goes_to_worker_processes(images):
    part = divided(images, 0.2, 0)
    assert grays(pickle.loads(pickle.dumps(part))) == grays(part)


def test_no_class_is_held_out_whole(images):
    from dataclasses import replace

    alone = replace(images, labels=torch.arange(60) // 59)  # the last class has one image
    parts = [divided(alone, 0.9, seed) for seed in range(10)]
    assert all(part.num_classes == 2 for part in parts)
    assert {len(part.held_out) for part in parts} <= {53, 54}
