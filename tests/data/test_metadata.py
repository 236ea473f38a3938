"""Labels that lie beside images, in tables and in files of webdataset."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stream_data import found, png

from hfgen.data.load import load_images
from hfgen.errors import UsageError

NAMES = [f"{kind}/{i}.png" for kind in "ab" for i in range(5)]


@pytest.fixture
def data(tmp_path):
    for number, name in enumerate(NAMES):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(number))
    return tmp_path


def write(folder, rows, head="file_name,label", name="metadata.csv"):
    (folder / name).write_text("\n".join([head, *rows]) + "\n")


def facts(folder, **options):
    images = load_images(str(folder), **options)
    streamed = found(str(folder), **options)
    assert [len(images), images.num_classes, images.notes] == [streamed.count, streamed.num_classes, streamed.notes]
    if images.labels is not None:
        [table] = streamed.dataset.iter(1000)
        assert table["label"].to_pylist() == images.labels.tolist()
    return images


def test_a_table_of_all_images_has_their_classes(data):
    write(data, [f"{name},{'odd' if int(name[2]) % 2 else 'even'}" for name in reversed(NAMES)])
    images = facts(data)
    assert (images.label_names, images.labels.tolist()) == (["even", "odd"], [0, 1, 0, 1, 0] * 2)
    assert images.notes[0] == "classes are those of 'label' in metadata.csv"
    assert "left out" not in str(images.notes)


@pytest.mark.parametrize("where", ["", "a/"])
def test_a_table_of_some_images_leaves_the_folders_to_be_classes(data, where):
    rows = [f"{name.removeprefix(where)},0" for name in NAMES[:4]]
    write(data / where, rows)
    images = facts(data)
    assert (len(images), images.label_names) == (10, ["a", "b"])
    assert f"{where}metadata.csv lists 4 of 10 images" in images.notes
    assert "the folders are the classes; --label_column label takes those of the table" in images.notes
    images = facts(data, label_column="label")
    assert (len(images), images.labels.tolist()) == (10, [0] * 4 + [-1] * 6)
    assert images.label_problem.startswith("6 of 10 images have no label in 'label': a/4.png, b/0.png")


def test_a_table_of_some_images_where_there_are_no_folders(tmp_path):
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    write(tmp_path, ["0.png,cat", "1.png,dog", "./2.png,cat"])
    images = facts(tmp_path)
    assert (images.label_names, images.labels.tolist()) == (["cat", "dog"], [0, 1, 0, -1])


def test_a_table_of_captions_takes_no_classes_away(data):
    write(data, [f"{name},hello" for name in NAMES], "file_name,text")
    images = facts(data)
    assert (len(images), images.label_names) == (10, ["a", "b"])
    assert images.notes == ["columns that are not used: text"]
    with pytest.raises(UsageError, match="no column 'texts' for that. Did you mean 'text'"):
        load_images(str(data), label_column="texts")


def test_images_that_are_not_there_and_images_listed_twice_are_told(data):
    write(data, [f"{name},{'ab'.index(name[0])}" for name in [*NAMES, "a/none.png"]] + ["a/0.png,1", "b/0.png,1"])
    images = facts(data)
    assert (len(images), images.labels.tolist()) == (10, [0] * 5 + [1] * 5)
    assert "1 file of metadata.csv not found: a/none.png" in images.notes
    assert "2 images listed more than once: a/0.png, b/0.png" in images.notes
    assert "of these with different labels, where the first one counts: a/0.png" in images.notes


def test_a_table_opens_nothing_outside_of_the_folder(data, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.png"
    outside.write_bytes(png(99))
    paths = [str(outside), os.path.relpath(outside, data), "a/../../x.png", "/dev/zero", "hf://x/y.png"]
    write(data, [f"{name},0" for name in NAMES] + [f"{path},1" for path in paths])
    images = facts(data)
    assert len(images) == 10
    assert images.notes[1].startswith("5 files of metadata.csv not found")


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv of Windows", "tsv"])
def test_forms_of_tables(data, kind):
    labels = [0, 1] * 5
    if kind == "jsonl":
        rows = [json.dumps({"file_name": name, "label": label}) for name, label in zip(NAMES, labels, strict=True)]
        (data / "metadata.jsonl").write_text("\n".join(rows))
    elif kind == "parquet":
        pq.write_table(pa.table({"file_name": NAMES, "label": labels}), data / "metadata.parquet")
    else:
        sep, name = ("\t", "metadata.tsv") if kind == "tsv" else (";", "Metadata.CSV")
        rows = [
            f"{n.replace('/', chr(92)) if sep == ';' else n}{sep}{label}"
            for n, label in zip(NAMES, labels, strict=True)
        ]
        (data / name).write_text("\ufeff" + "\r\n".join([f"File_Name{sep}Label", *rows]), encoding="utf-8")
    assert facts(data).labels.tolist() == labels


def test_tables_that_cannot_be_used(data):
    write(data, ["1,2"], "a,b")
    images = facts(data)
    assert images.label_names == ["a", "b"]
    assert images.notes[0] == "metadata.csv is not read: none of its columns (a, b) is file_name"
    write(data, ["{}"], "{}", "metadata.jsonl")
    with pytest.raises(UsageError, match="several tables for one folder: metadata.csv, metadata.jsonl"):
        load_images(str(data))
    (data / "metadata.csv").unlink()
    (data / "metadata.jsonl").unlink()
    (data / "metadata.parquet").write_bytes(b"not parquet")
    with pytest.raises(UsageError, match="metadata.parquet cannot be read"):
        load_images(str(data))


def test_splits_have_the_same_numbers_of_classes(tmp_path):
    for split, labels in (("train", "bcd"), ("test", "dc")):
        (tmp_path / split).mkdir()
        for number, _ in enumerate(labels):
            (tmp_path / split / f"{number}.png").write_bytes(png(number))
        write(tmp_path / split, [f"{number}.png,{label}" for number, label in enumerate(labels)])
    assert facts(tmp_path).labels.tolist() == [0, 1, 2]
    images = facts(tmp_path, split="test")
    assert (images.labels.tolist(), images.label_names) == ([2, 1], ["b", "c", "d"])


def test_files_of_webdataset_beside_images(data):
    for number, name in enumerate(NAMES):
        (data / name).with_suffix(".cls").write_text(f"{number % 3}\n")
        (data / name).with_suffix(".json").write_text("{}")
    images = facts(data)
    assert (images.num_classes, images.labels.tolist()) == (3, [n % 3 for n in range(10)])
    assert images.notes == ["classes are those of 'cls' in the .cls files", "left out: 10 .json"]


def test_several_images_of_a_sample_have_its_class(data):
    for number, name in enumerate(["a.left.png", "a.right.png", "b.left.png"]):
        (data / "pairs" / name).parent.mkdir(exist_ok=True)
        (data / "pairs" / name).write_bytes(png(number))
    (data / "pairs" / "a.cls").write_text("dog")
    (data / "pairs" / "b.cls").write_text("cat")
    images = load_images(str(data / "pairs"))
    assert (images.label_names, images.labels.tolist()) == (["cat", "dog"], [1, 1, 0])
    assert "2 samples hold 3 images, and all are read" in images.notes


def test_a_column_of_a_table_divides_a_folder(tmp_path):
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    splits = ["train", "train", "Train", "val", "test"]
    rows = [f"{number}.png,{'ab'[number % 2]},{splits[number]}" for number in range(5)]
    write(tmp_path, rows, "file_name,label,split")
    images = load_images(str(tmp_path))
    assert (images.labels.tolist(), images.splits) == ([0, 1, 0], ["train", "validation", "test"])
    assert images.notes[0] == (
        "splits are those that the table declares: train (3), validation (1), test (1); this is train"
    )
    other = load_images(str(tmp_path), split="val")
    assert (other.labels.tolist(), other.label_names) == ([1], ["a", "b"])
    write(tmp_path, [f"{number}.png,{number}" for number in range(5)], "file_name,split")
    assert len(load_images(str(tmp_path))) == 5
