"""Parquet files as people and the Hub keep them: splits that a card declares, folders as columns, other tables."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hfgen.data.declared import declared_splits
from hfgen.data.load import load_images
from hfgen.data.sources import DataSource, NoSplitError
from hfgen.data.streams import stream_images
from hfgen.errors import UsageError

pytestmark = pytest.mark.usefixtures("own_cache")


def png(gray):
    file = io.BytesIO()
    Image.new("L", (8, 8), gray).save(file, "PNG")
    return file.getvalue()


def write(path, *grays, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [png(gray) for gray in grays], **columns}), path)


def card(folder, *splits):
    folder.mkdir(parents=True, exist_ok=True)
    listed = "".join(f"  - split: {split}\n    path: {path}\n" for split, path in splits)
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  data_files:\n{listed}---\n# Faces\n")


def grays(images):
    return [int(images.decode(index, 8).max()) for index in range(len(images))]


def test_splits_of_parquet_are_those_that_the_card_declares(tmp_path):
    card(tmp_path, ("train", "first.parquet"), ("test", "more/*.parquet"))
    write(tmp_path / "first.parquet", 10, 20)
    write(tmp_path / "more" / "second.parquet", 30)
    images = load_images(str(tmp_path))
    assert (grays(images), images.splits) == ([10, 20], ["train", "test"])
    assert "splits are those that README.md declares: train, test" in images.notes
    assert grays(load_images(str(tmp_path), split="test")) == [30]
    assert stream_images(DataSource(str(tmp_path), "test")).count == 1


def test_splits_of_pictures_are_those_that_the_card_declares(tmp_path):
    card(tmp_path, ("train", "a/**"), ("test", "b/*.png"))
    for number, path in enumerate(["a/cat/1.png", "a/dog/2.png", "b/3.png", "c/4.png"]):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(png(number))
    images = load_images(str(tmp_path))
    assert (grays(images), images.label_names) == ([0, 1], ["cat", "dog"])
    assert "splits are those that README.md declares: train (2), test (1); this is train" in images.notes
    assert grays(load_images(str(tmp_path), split="test")) == [2]
    with pytest.raises(NoSplitError, match="no split 'validation'. Known: test, train"):
        load_images(str(tmp_path), split="validation")


@pytest.mark.parametrize(
    ("path", "chosen"),
    [
        ("**", ["a/b.png", "x.png"]),
        ("*.png", ["x.png"]),
        ("a/*", ["a/b.png"]),
        ("**/?.png", ["a/b.png", "x.png"]),
        ("[xy].png", ["x.png"]),
        ("../*", None),
    ],
)
def test_patterns_of_a_card_choose_among_the_files_that_are_there(tmp_path, path, chosen):
    card(tmp_path, ("train", f"'{path}'"))
    assert declared_splits(tmp_path, ["a/b.png", "x.png"]) == (chosen and {"train": chosen})


def test_names_of_folders_are_a_column(tmp_path):
    write(tmp_path / "label=cat" / "0.parquet", 10, 20)
    write(tmp_path / "label=dog" / "0.parquet", 30)
    images = load_images(str(tmp_path))
    assert (images.label_names, images.labels.tolist()) == (["cat", "dog"], [0, 0, 1])
    assert images.notes[0] == "the folders label=... are a column"


def test_other_tables_beside_the_one_of_images_are_left_out(tmp_path):
    write(tmp_path / "data.parquet", 10, 20)
    pq.write_table(pa.table({"mean": [0.5]}), tmp_path / "statistics.parquet")
    images = load_images(str(tmp_path))
    assert (grays(images), images.notes) == (
        [10, 20],
        ["left out, as they have no column of images: statistics.parquet"],
    )


def test_columns_that_nothing_reads_are_told(tmp_path):
    write(tmp_path / "a.parquet", 10, 20, onehot=[[0, 1], [1, 0]], split=["a", "b"])
    [note] = load_images(str(tmp_path / "a.parquet")).notes
    assert note == "no classes: no column is called like labels; --label_column takes one of onehot"


def test_a_column_for_each_pixel_and_pixels_in_a_row(tmp_path):
    pixels = {f"pixel{number}": [number, 2 * number] for number in range(64)}
    pq.write_table(pa.table({"label": [0, 1], **pixels}), tmp_path / "wide.parquet")
    images = load_images(str(tmp_path / "wide.parquet"))
    assert (grays(images), images.labels.tolist()) == ([63, 126], [0, 1])
    pq.write_table(pa.table({"pixels": [[*range(64)], [*range(64, 128)]]}), tmp_path / "flat.parquet")
    assert grays(load_images(str(tmp_path / "flat.parquet"))) == [63, 127]
    pq.write_table(pa.table({"vector": [[*range(64)]] * 2}), tmp_path / "other.parquet")
    with pytest.raises(UsageError, match="no column of images"):
        load_images(str(tmp_path / "other.parquet"))
    pq.write_table(pa.table({name: [300.0] for name in pixels}), tmp_path / "loud.parquet")
    with pytest.raises(UsageError, match="pixel0 ... pixel63 are not whole numbers from 0 to 255"):
        load_images(str(tmp_path / "loud.parquet"))


def test_lists_of_images_are_told(tmp_path):
    pq.write_table(pa.table({"views": [[png(1), png(2)]]}), tmp_path / "a.parquet")
    with pytest.raises(UsageError, match="'views' holds lists of images: write one image a row"):
        load_images(str(tmp_path / "a.parquet"))
