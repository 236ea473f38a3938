"""Datasets as people have them: found, looked at, decoded to one shape; or one clear error."""

import numpy as np
import pytest
import torch
from PIL import Image

from hfgen.data.decoding import Decoding
from hfgen.data.image_batches import image_batches
from hfgen.data.layout import Layout
from hfgen.data.load import load_images
from hfgen.errors import HFGenError, UsageError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def folder_of(tmp_path, images, names=None):
    for index, image in enumerate(images):
        path = tmp_path / "data" / (names[index] if names else f"{index}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return str(tmp_path / "data")


@pytest.mark.whole
def test_mnist_mini_is_balanced_and_needs_no_network():
    images = load_images("mnist-mini")
    assert (len(images), images.mode, images.resolution(), images.num_classes) == (10_000, "L", 28, 10)
    assert torch.bincount(images.labels).tolist() == [1000] * 10
    assert len(load_images("mnist-mini", split="test")) == 2000


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_channels_and_resolution_are_read_from_the_data(tmp_path, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, {"L": 1, "RGB": 3, "RGBA": 4}[mode]), np.uint8)
    image = Image.fromarray(pixels.squeeze(), mode=None)
    images = load_images(folder_of(tmp_path, [image] * 3))
    assert (images.mode, images.resolution(), images.num_classes) == (mode, 8, None)
    assert np.array_equal(images.decode(0, 8), pixels.transpose(2, 0, 1))


def test_sixteen_bit_images_are_scaled_not_clipped(tmp_path):
    pixels = np.array([[0, 257], [32896, 65535]], np.uint16)
    images = load_images(folder_of(tmp_path, [Image.fromarray(pixels)]))
    assert images.mode == "L"
    assert "16-bit" in images.notes[0]
    assert images.decode(0, 2).tolist() == [[[0, 1], [128, 255]]]


def test_mixed_modes_are_brought_together_and_told(tmp_path):
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    images = load_images(folder_of(tmp_path, [Image.new("L", (4, 4), 7), Image.new("RGB", (4, 4)), clear]))
    assert images.mode == "RGB"
    assert "converted to RGB" in images.notes[0]
    assert images.decode(0, 4)[:, 0, 0].tolist() == [7, 7, 7]
    assert images.decode(2, 4)[:, 0, 0].tolist() == [255, 255, 255], "transparent is white, not black"


def test_class_folders_are_labels(tmp_path):
    image = Image.new("L", (4, 4))
    images = load_images(folder_of(tmp_path, [image] * 3, ["cat/0.png", "cat/1.png", "dog/0.png"]))
    assert images.label_names == ["cat", "dog"]
    assert sorted(images.labels.tolist()) == [0, 0, 1]


def test_mixed_sizes_need_a_resolution_and_keep_the_center(tmp_path):
    wide = np.zeros((4, 8), np.uint8)
    wide[:, 2:6] = 200
    images = load_images(folder_of(tmp_path, [Image.fromarray(wide), Image.new("L", (6, 6))]))
    with pytest.raises(UsageError, match="sides 4 to 8.*\n.*--resolution"):
        images.resolution()
    assert (images.decode(0, 4) == 200).all()
    assert (images.decode(0, 4, center_crop=False) == 200).mean() < 1


def test_parquet(tmp_path):
    from datasets import Dataset, Features, Image as ImageFeature, Value

    rows = {"picture": [Image.new("RGB", (4, 4), (9, 8, 7))] * 3, "label": [0, 1, 0]}
    features = Features({"picture": ImageFeature(), "label": Value("int64")})
    (tmp_path / "data").mkdir()
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data" / "train.parquet")
    for name in (tmp_path / "data", tmp_path / "data" / "train.parquet"):
        images = load_images(str(name))
        assert (images.mode, images.labels.tolist()) == ("RGB", [0, 1, 0])
        assert images.decode(0, 4)[:, 0, 0].tolist() == [9, 8, 7]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./no/such/folder", "does not exist: no such file or folder"),
        ("no-such.npz", "does not exist"),
        ("org/no-such-data-set", "neither a folder nor in the cache, and HF_HUB_OFFLINE forbids"),
    ],
)
def test_what_does_not_exist_is_told_as_such(name, message, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=message):
        load_images(name)


def test_an_empty_folder_is_told(tmp_path):
    (tmp_path / "empty" / "deep").mkdir(parents=True)
    with pytest.raises(UsageError, match="empty folder"):
        load_images(str(tmp_path / "empty"))


def test_a_folder_without_images_is_told(tmp_path):
    (tmp_path / "notes.md").write_text("no images")
    with pytest.raises(UsageError, match="holds no images that hfgen reads; left out: 1 .md"):
        load_images(str(tmp_path))


def test_a_wrong_split_is_told():
    with pytest.raises(UsageError, match="no split 'tests'. Did you mean 'test'"):
        load_images("mnist-mini", split="tests")


def test_a_corrupt_image_is_named(tmp_path):
    folder = folder_of(tmp_path, [Image.new("L", (4, 4))] * 2)
    (tmp_path / "data" / "1.png").write_bytes(b"not an image")
    with pytest.raises(HFGenError, match="data: 1.png cannot be read: it is not an image"):
        load_images(folder)


def test_a_truncated_image_is_named_when_decoded(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    folder = folder_of(tmp_path, [noise] * 2)
    path = tmp_path / "data" / "1.png"
    path.write_bytes(path.read_bytes()[:1000])
    images = load_images(folder)
    with pytest.raises(HFGenError, match="data: 1.png cannot be read: image file is truncated"):
        image_batches(images, Decoding(64), Layout(1))


def test_columns_are_named_where_there_is_a_choice(tmp_path):
    from datasets import Dataset, Features, Image as ImageFeature

    features = Features({"before": ImageFeature(), "after": ImageFeature()})
    image = Image.new("L", (4, 4))
    path = tmp_path / "two.parquet"
    Dataset.from_dict({"before": [image], "after": [image]}, features=features).to_parquet(path)
    with pytest.raises(UsageError, match=r"several columns of images \(before, after\).*--image_column"):
        load_images(str(path))
    assert len(load_images(str(path), image_column="after")) == 1
    with pytest.raises(UsageError, match="'befor' is not a column of images"):
        load_images(str(path), image_column="befor")


def test_a_camera_held_sideways_is_set_upright(tmp_path):
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[0] = 255
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # turn clockwise to see it
    (tmp_path / "data").mkdir()
    image.save(tmp_path / "data" / "a.png", exif=exif)
    images = load_images(str(tmp_path / "data"))
    assert list(images.sizes) == [(4, 8)]
    assert images.decode(0, 4)[0, :, -1].tolist() == [255] * 4, "the top row is the right column now"


def test_a_folder_whose_name_has_brackets(tmp_path):
    (tmp_path / "Photos [2024]").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "Photos [2024]" / "a.png")
    assert len(load_images(str(tmp_path / "Photos [2024]"))) == 1


def test_captions_in_a_column_called_label_are_no_obstacle(tmp_path):
    from datasets import Dataset, Features, Image as ImageFeature, Value

    features = Features({"image": ImageFeature(), "label": Value("string")})
    rows = {"image": [Image.new("L", (4, 4))] * 20, "label": [f"cat {i}" for i in range(20)]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    images = load_images(str(tmp_path / "a.parquet"))
    assert images.labels is None
    assert images.notes == ["no classes: 'label' holds 20 texts for 20 images; --label_column label takes them"]
    assert load_images(str(tmp_path / "a.parquet"), label_column="label").num_classes == 20


def test_images_without_a_class_are_told_refused_or_left_out(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Image as ImageFeature

    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["a", "b"])})
    rows = {"image": [Image.new("L", (4, 4), i) for i in range(6)], "label": [0, 1, None, 1, 0, -1]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    images = load_images(str(tmp_path / "a.parquet"))
    told = "2 of 6 images have no label in 'label': row 2, row 5"
    assert (images.num_classes, images.notes, images.labels.tolist()) == (2, [told], [0, 1, -1, 1, 0, -1])
    with pytest.raises(UsageError, match=f"{told}.\n--class_conditional .* --unlabeled skip"):
        image_batches(images, Decoding(4, class_conditional=True), Layout(1))
    kept = images.labeled()
    assert (len(kept), kept.labels.tolist(), kept.all_labeled) == (4, [0, 1, 1, 0], True)
    assert kept.notes == ["2 images without a class are left out"]
    assert [kept.decode(i, 4).max() for i in range(4)] == [0, 1, 3, 4]


def test_labels_that_are_no_classes_matter_where_they_are_wanted_only(tmp_path):
    from datasets import Dataset, Features, Image as ImageFeature, List, Value

    features = Features({"image": ImageFeature(), "label": List(Value("int64"))})
    rows = {"image": [Image.new("L", (4, 4))] * 3, "label": [[0], [0, 1], []]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    images = load_images(str(tmp_path / "a.parquet"))
    assert (images.labels, images.channels) == (None, 1)
    with pytest.raises(UsageError, match="no class labels.*\n'label' holds several labels for 1 of 3"):
        image_batches(images, Decoding(4, class_conditional=True), Layout(1))
    with pytest.raises(UsageError, match="a.parquet: 'label' holds several labels"):
        load_images(str(tmp_path / "a.parquet"), label_column="label")
