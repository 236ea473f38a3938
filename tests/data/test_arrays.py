"""Arrays of images as numpy, keras and MedMNIST write them: their splits, labels, shapes and ranges."""

import numpy as np
import pytest

from hfgen.data.load import load_images
from hfgen.data.sources import NoSplitError
from hfgen.errors import UsageError

X = np.random.default_rng(0).integers(2, 256, (8, 6, 6, 3), dtype=np.uint8)
Y = np.arange(8) % 4


@pytest.fixture
def saved(tmp_path):
    def save(name="a.npz", **arrays):
        with (tmp_path / name).open("wb") as file:
            np.savez(file, **arrays)
        return str(tmp_path / name)

    return save


@pytest.mark.parametrize("shape", [(5, 6, 6), (5, 6, 6, 3), (5, 3, 6, 6), (5, 6, 6, 1)])
def test_shapes(tmp_path, saved, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    saved(images=pixels, labels=np.arange(5))
    np.save(tmp_path / "a.npy", pixels)
    first = pixels[0] if shape[-1] not in (1, 3) else pixels[0].transpose(2, 0, 1)
    for name, labels in (("a.npz", [0, 1, 2, 3, 4]), ("a.npy", None)):
        images = load_images(str(tmp_path / name))
        assert np.array_equal(images.decode(0, 6), first.reshape(-1, 6, 6))
        assert (None if images.labels is None else images.labels.tolist()) == labels
        assert images.notes == []


@pytest.mark.parametrize(
    ("images", "labels"), [("x_{}", "y_{}"), ("{}_images", "{}_labels"), ("X_{}", "Y_{}"), ("{}X", "{}Y")]
)
def test_names_of_arrays_are_splits(saved, images, labels):
    arrays = {}
    for number, split in enumerate(("train", "val", "test")):
        arrays |= {images.format(split): X + number, labels.format(split): (Y[:, None] + number) % 4}
    name = saved(**arrays)
    for split, number in {"train": 0, "val": 1, "validation": 1, "test": 2}.items():
        found = load_images(name, split=split)
        assert np.array_equal(found.decode(0, 6), (X + number)[0].transpose(2, 0, 1))
        assert (found.labels.tolist(), found.splits) == (((Y + number) % 4).tolist(), ["train", "val", "test"])
    with pytest.raises(NoSplitError, match=r"no split 'tset'. Did you mean 'test'\? It has train \("):
        load_images(name, split="tset")


def test_a_file_without_names_of_splits_is_the_training_split(saved, tmp_path):
    name = saved(images=X)
    np.save(tmp_path / "a.npy", X)
    for name in (saved(images=X), saved("faces.npz", faces=X), str(tmp_path / "a.npy")):
        assert len(load_images(name)) == 8
        with pytest.raises(NoSplitError, match="no split 'test'"):
            load_images(name, split="test")


def test_columns_are_names_of_arrays(saved):
    name = saved(x_train=X, y_train=Y, x_test=X[::-1], y_test=Y[::-1])
    found = load_images(name, image_column="x_test", label_column="y_test")
    assert np.array_equal(found.decode(0, 6), X[-1].transpose(2, 0, 1))
    assert found.labels.tolist() == Y[::-1].tolist()
    assert load_images(name, image_column="x_test").labels.tolist() == Y[::-1].tolist()
    with pytest.raises(UsageError, match="no array 'x_tset'. Did you mean 'x_test'"):
        load_images(name, image_column="x_tset")
    with pytest.raises(UsageError, match="no array 'z'"):
        load_images(name, label_column="z")
    with pytest.raises(UsageError, match="y_train belongs to another split than x_test"):
        load_images(name, split="test", label_column="y_train")
    with pytest.raises(NoSplitError, match="has no split 'test'"):
        load_images(name, split="test", image_column="x_train")
    several = saved(before=X, after=X, kind=Y)
    with pytest.raises(UsageError, match="holds before, after, kind; none .*\n.*--image_column"):
        load_images(several)
    assert load_images(several, image_column="after", label_column="kind").num_classes == 4


def test_arrays_by_their_place(tmp_path):
    np.savez(tmp_path / "a.npz", X, Y)
    assert load_images(str(tmp_path / "a.npz")).labels.tolist() == Y.tolist()


def test_names_of_classes(saved):
    names = np.array(["a", "b", "c", "d"])
    assert load_images(saved(images=X, labels=Y, class_names=names)).label_names == list("abcd")
    assert load_images(saved(images=X, labels=Y, classes=names)).label_names == list("abcd")
    assert load_images(saved(images=X, classes=names[Y])).label_names == list("abcd")
    found = load_images(saved(images=X, labels=Y, class_names=names.astype(object)))
    assert (found.num_classes, found.notes) == (4, ["class_names holds objects of Python, which are not read"])
    assert load_images(saved(images=X, labels=np.array(["dog", "cat"] * 4))).label_names == ["cat", "dog"]


def test_labels_matter_where_they_are_wanted_only(saved):
    for labels, why in {
        "several": (np.ones((8, 3), int), "several labels for 8 of 8"),
        "short": (Y[:5], "5 labels for 8 images"),
        "objects": (np.array([None] * 8), "objects of Python"),
    }.values():
        name = saved(images=X, labels=labels)
        assert load_images(name).labels is None
        assert why in load_images(name).label_problem
        with pytest.raises(UsageError, match=why):
            load_images(name, label_column="labels")


def test_whole_numbers_are_taken_by_their_range(saved):
    for dtype in (np.int64, np.int16, np.uint16):
        found = load_images(saved(images=X.astype(dtype)))
        assert np.array_equal(found.decode(0, 6), X[0].transpose(2, 0, 1))
        assert found.notes == [f"{np.dtype(dtype).name} values from {X.min()} to {X.max()} are taken as 8 bits"]
    found = load_images(saved(images=X[..., 0].astype(np.int32) * 257))
    assert np.array_equal(found.decode(0, 6)[0], X[0, ..., 0])
    assert "16-bit images are scaled" in found.notes[0]
    assert "instead of 0 and 255?" in load_images(saved(images=X % 2)).notes[0]


def test_an_ambiguous_shape_is_told(saved):
    assert "is read as (N, H, W, C)" in load_images(saved(images=np.zeros((5, 3, 28, 3), np.uint8))).notes[0]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (X / 255, r"float64 values from 0.\d+ to 1; .*\n.*\(x \* 255\).round\(\).astype"),
        (X.astype(np.float32), r"float32 values .*\n.*x.round"),
        (X / 127.5 - 1, r"\n.*\(x \+ 1\) \* 127.5"),
        (X - 300.0, r"\nScale them"),
        (np.full((2, 4, 4), np.nan), r"\nConvert them before"),
        (X > 100, r"\n.*astype\(\"uint8\"\) \* 255"),
        (X.astype(np.int64) - 9, "int64 values from -"),
        (X[..., :2], r"shape \(8, 6, 6, 2\) .* 1, 3 or 4 channels"),
        (np.zeros((3, 784), np.uint8), r"reshape\(-1, 28, 28\)"),
        (np.zeros((3, 3072), np.uint8), r"reshape\(-1, 3, 32, 32\)"),
        (np.zeros((0, 4, 4), np.uint8), "shape"),
        (np.zeros((), np.uint8), "shape"),
        (np.array(["a", "b"], dtype=object), "objects of Python, which are not read"),
        (np.array(["a", "b"]), "shape"),
    ],
)
def test_arrays_that_are_no_images_are_refused_with_the_way_on(saved, array, message):
    with pytest.raises(UsageError, match=message):
        load_images(saved(images=array))


def test_a_file_that_is_cut_or_no_archive_is_told(saved, tmp_path):
    name = saved(images=X)
    whole = (tmp_path / "a.npz").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not an archive", whole[:60] + bytes(60) + whole[120:]):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(UsageError, match=r"a.npz.* cannot be read"):
            load_images(name)
    with pytest.raises(UsageError, match="holds no arrays"):
        load_images(saved())


def test_endings_count_whatever_their_case(saved):
    assert len(load_images(saved("A.NPZ", images=X))) == 8


def test_labels_in_a_file_of_their_own_are_told(tmp_path):
    np.save(tmp_path / "images.npy", np.zeros((2, 8, 8), np.uint8))
    np.save(tmp_path / "train_labels.npy", np.arange(2))
    notes = load_images(str(tmp_path / "images.npy")).notes
    assert any(note.startswith("no labels: train_labels.npy is not read; keep both in one file") for note in notes)


def test_one_picture_is_not_many_narrow_ones(tmp_path):
    np.savez(tmp_path / "one.npz", image=np.zeros((16, 16, 3), np.uint8))
    with pytest.raises(UsageError, match=r"\(16, 16, 3\), which is that of one image"):
        load_images(str(tmp_path / "one.npz"))


def test_an_array_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "bomb.npz", images=np.zeros((2000, 32, 32), np.uint8))
    assert len(load_images(str(tmp_path / "bomb.npz"))) == 2000
    monkeypatch.setattr("hfgen.data.arrays.MOST_UNPACKED", 10**6)
    with pytest.raises(UsageError, match="images.npy unpacks to 2,048,128 bytes of"):
        load_images(str(tmp_path / "bomb.npz"))
