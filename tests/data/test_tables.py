"""Tables of images as people have them: parquet without features, text tables, saved datasets, configurations."""

import base64
import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hfgen.data.csv_files import read_csv
from hfgen.data.load import load_images
from hfgen.data.on_the_hub import why_not_found
from hfgen.data.sources import DataSource, NoSplitError
from hfgen.data.splits import splits_in
from hfgen.data.streams import stream_images
from hfgen.errors import HFGenError, UsageError

pytestmark = pytest.mark.usefixtures("own_cache")


def png(gray):
    file = io.BytesIO()
    Image.new("L", (4, 4), gray).save(file, "PNG")
    return file.getvalue()


def grays(images):
    return [int(images.decode(index, 4).max()) for index in range(len(images))]


@pytest.fixture
def photos(tmp_path):
    """A folder with three pictures, and a function that writes a table beside them."""
    for number in range(3):
        path = tmp_path / "photos" / "pictures" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(10 * number))

    def write(content, name="table.csv", encoding="utf-8"):
        path = tmp_path / "photos" / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return str(path)

    return write


FORMS = {
    "comma": ("file,kind\npictures/0.png,cat\npictures/1.png,dog\n", "utf-8"),
    "semicolon": ("file;kind\r\npictures/0.png;cat\r\npictures/1.png;dog\r\n", "utf-8"),
    "tab": ("file\tkind\npictures/0.png\tcat\npictures/1.png\tdog", "utf-8"),
    "byte order mark": ("file,kind\npictures/0.png,cat\npictures/1.png,dog\n", "utf-8-sig"),
    "UTF-16 as Excel's Unicode text": ("file\tkind\r\npictures/0.png\tcat\r\npictures/1.png\tdog\r\n", "utf-16"),
    "UTF-16 without a mark": ("file;kind\npictures/0.png;cat\npictures/1.png;dog\n", "utf-16-le"),
    "an index of pandas": (",file,kind\n0,pictures/0.png,cat\n1,pictures/1.png,dog\n", "utf-8"),
    "sep=": ("sep=;\nfile;kind\npictures/0.png;cat\npictures/1.png;dog\n", "utf-8"),
    "quotes and commas": (
        '"file","note","kind"\n"pictures/0.png","a, b","cat"\n"pictures/1.png","c","dog"\n',
        "utf-8",
    ),
    "a delimiter at the end": ("file;kind;\npictures/0.png;cat;\npictures/1.png;dog;\n", "utf-8"),
    "blank lines": ("file,kind\n\npictures/0.png,cat\n,\npictures/1.png,dog\n\n", "utf-8"),
    "backslashes": ("file,kind\npictures\\0.png,cat\npictures\\1.png,dog\n", "utf-8"),
    "the folder's own name": ("file,kind\nphotos/pictures/0.png,cat\nphotos/pictures/1.png,dog\n", "utf-8"),
    "names alone": ("file,kind\n0.png,cat\n1.png,dog\n", "utf-8"),
}


@pytest.mark.parametrize("form", FORMS)
def test_text_tables_of_paths(photos, form):
    text, encoding = FORMS[form]
    images = load_images(photos(text, encoding=encoding), label_column="kind")
    assert (grays(images), images.labels.tolist(), images.label_names) == ([0, 10], [0, 1], ["cat", "dog"])


def test_absolute_paths_in_the_folder_and_names_of_classes_of_windows(photos, tmp_path):
    rows = "".join(f"{tmp_path}/photos/pictures/{number}.png;{kind}\n" for number, kind in enumerate(["é", "ü"]))
    images = load_images(photos("file;label\n" + rows, encoding="cp1252"))
    assert (grays(images), images.label_names) == ([0, 10], ["é", "ü"])
    assert "is read as Windows-1252" in images.notes[0]


@pytest.mark.parametrize(
    ("encoding", "words", "told"),
    [
        ("gbk", ["\u72d7", "\u732b"], "GB 18030"),
        ("shift_jis", ["\u3044\u306c", "\u306d\u3053"], "Shift-JIS"),
        ("big5", ["\u72d7", "\u8c93"], "Big5"),
        ("euc-kr", ["\uac15\uc544\uc9c0", "\uace0\uc591\uc774"], "EUC-KR"),
        ("cp1251", ["\u043a\u043e\u0448\u043a\u0430", "\u0441\u043e\u0431\u0430\u043a\u0430"], "Windows-1251"),
        ("cp1253", ["\u03b3\u03ac\u03c4\u03b1", "\u03c3\u03ba\u03cd\u03bb\u03bf\u03c2"], "Windows-1253"),
        ("cp1252", ["Gr\xf6\xdfe", "na\xefve"], "Windows-1252"),
    ],
)
def test_words_of_all_countries(photos, encoding, words, told):
    rows = "".join(f"pictures/{number}.png,{words[number % 2]}\n" for number in range(3))
    images = load_images(photos("file,label\n" + rows, encoding=encoding))
    assert images.label_names == words
    assert f"is read as {told}" in images.notes[0]


def test_numbers_of_spreadsheets_are_classes(photos):
    rows = "".join(f"pictures/{number}.png;{number % 2},0\n" for number in range(3))
    images = load_images(photos("file;label\n" + rows))
    assert (images.labels.tolist(), images.label_names) == ([0, 1, 0], ["0", "1"])


def test_a_column_of_splits_divides_a_table(photos):
    rows = "".join(f"pictures/{n}.png,{split}\n" for n, split in enumerate(["train", "test", "train"]))
    name = photos("file,data set\n" + rows)
    assert grays(load_images(name)) == [0, 20]
    images = load_images(name, split="test")
    assert (grays(images), images.splits) == ([10], ["train", "test"])
    assert images.notes == ["splits are those of the column 'data set'"]
    with pytest.raises(NoSplitError, match="no split 'validation'. Known: test, train"):
        load_images(name, split="validation")


def test_tables_named_as_splits_are_splits(photos, tmp_path):
    photos("file\npictures/0.png\n", "train.csv")
    photos("file\npictures/1.png\npictures/2.png\n", "valid.csv")
    (tmp_path / "photos" / "notes.txt").write_text("x")
    table = tmp_path / "tables"
    shutil.copytree(tmp_path / "photos", table)
    from hfgen.data.local_tables import local_tables

    splits, _ = local_tables(table)
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 1, "validation": 2}
    (table / "others.csv").write_text("file\npictures/0.png\n")
    with pytest.raises(UsageError, match="holds several tables: others.csv, train.csv, valid.csv"):
        local_tables(table)


def test_files_that_are_not_there_are_counted_and_named(photos):
    rows = "pictures/0.png\npictures/8.png\npictures/9.png\n"
    with pytest.raises(UsageError, match=r"2 of 3 files in 'file' are not there: row 1 \(pictures/8.png\), row 2"):
        load_images(photos("file\n" + rows))


def test_no_table_opens_what_is_outside(photos, tmp_path):
    (tmp_path / "secret.png").write_bytes(png(99))
    for path in (tmp_path / "secret.png", "../secret.png", "pictures/../../secret.png", "https://example.org/a.png"):
        with pytest.raises(HFGenError):
            load_images(photos(f"file\n{path}\npictures/0.png\n"))


@pytest.mark.parametrize("written", ["base64", "a data address", "pandas", "pandas with datasets' dictionaries"])
def test_pictures_written_as_text(photos, written):
    ways = {
        "base64": lambda content: base64.b64encode(content).decode(),
        "a data address": lambda content: f"data:image/png;base64,{base64.b64encode(content).decode()}",
        "pandas": repr,
        "pandas with datasets' dictionaries": lambda content: repr({"bytes": content, "path": None}),
    }
    rows = "".join('{};"{}"\n'.format(n, ways[written](png(10 * n)).replace('"', '""')) for n in range(3))
    images = load_images(photos("label;image\n" + rows))
    assert (grays(images), images.labels.tolist()) == ([0, 10, 20], [0, 1, 2])


def test_json_lines(photos):
    rows = [{"image": f"pictures/{n}.png", "label": bool(n % 2)} for n in range(3)]
    images = load_images(photos("\n".join(map(json.dumps, rows)), "table.jsonl"))
    assert (grays(images), images.label_names) == ([0, 10, 20], ["False", "True"])
    with pytest.raises(UsageError, match="line 1 is not JSON"):
        load_images(photos("{", "table.jsonl"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no rows"),
        ("file,label\n", "holds no rows"),
        ("file,label\npictures/0.png,a,b\n", "row 2 has 3 values where the first row names 2 columns"),
        ("name,label\nx,a\ny,b\n", "no column of images. Columns: name, label"),
    ],
)
def test_a_table_that_cannot_be_read_is_told(photos, text, message):
    with pytest.raises(UsageError, match=message):
        load_images(photos(text))


def test_columns_of_a_table_each_have_a_name(tmp_path):
    (tmp_path / "a.csv").write_text("a, a ,\n1,2,3\n")
    assert read_csv(tmp_path / "a.csv") == ({"a": ["1"], "a_1": ["2"], "column_2": ["3"]}, [])


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.struct({"bytes": pa.binary()})])
def test_parquet_of_pictures_without_features(tmp_path, kind):
    values = [{"bytes": png(10 * n)} if pa.types.is_struct(kind) else png(10 * n) for n in range(3)]
    columns = {"picture": pa.array(values, kind), "blob": pa.array([b"x"] * 3), "label": pa.array([5, 9, 5])}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    images = load_images(str(tmp_path / "a.parquet"))
    assert (grays(images), images.labels.tolist(), images.label_names) == ([0, 10, 20], [0, 1, 0], ["5", "9"])
    assert grays(load_images(str(tmp_path / "a.parquet"), image_column="picture")) == [0, 10, 20]
    if kind == pa.binary_view():
        with pytest.raises(UsageError, match="not streamed"):
            stream_images(DataSource(str(tmp_path / "a.parquet")))
    else:
        assert stream_images(DataSource(str(tmp_path / "a.parquet"))).count == 3
    with pytest.raises(HFGenError, match="cannot be read"):
        load_images(str(tmp_path / "a.parquet"), image_column="blob")
    with pytest.raises(UsageError, match="'label' is not a column of images; it holds 5. Columns"):
        load_images(str(tmp_path / "a.parquet"), image_column="label")


def test_words_of_a_categorical_column_of_pandas(tmp_path):
    pandas = pytest.importorskip("pandas")
    kinds = pandas.Categorical(["dog", "cat", "dog"])
    pandas.DataFrame({"image": [png(n) for n in range(3)], "label": kinds}).to_parquet(tmp_path / "a.parquet")
    images = load_images(str(tmp_path / "a.parquet"))
    assert (images.labels.tolist(), images.label_names) == ([1, 0, 1], ["cat", "dog"])


def test_files_of_parquet_are_splits_where_all_of_them_say_so(tmp_path):
    split = {"train-0-of-2.parquet": "train", "train-1-of-2.parquet": "train", "sub/test.parquet": "test"}
    assert splits_in(split) == {
        "train": ["train-0-of-2.parquet", "train-1-of-2.parquet"],
        "test": ["sub/test.parquet"],
    }
    assert splits_in(["val/0.parquet", "train/0.parquet"]) == {
        "train": ["train/0.parquet"],
        "validation": ["val/0.parquet"],
    }
    assert splits_in(["faces.parquet", "test-shots.parquet"]) == {"train": ["faces.parquet", "test-shots.parquet"]}
    assert splits_in(["testing.parquet"]) == {"train": ["testing.parquet"]}
    for number, name in enumerate(["faces.parquet", "test_shots.parquet"]):
        pq.write_table(pa.table({"image": [png(10 * number)]}), tmp_path / name)
    assert grays(load_images(str(tmp_path))) == [0, 10]


def saved_dataset(folder, count=4):
    from datasets import ClassLabel, Dataset, Features, Image as ImageFeature

    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["a", "b"])})
    rows = {"image": [Image.new("L", (4, 4), 10 * n) for n in range(count)], "label": [n % 2 for n in range(count)]}
    return Dataset.from_dict(rows, features=features)


def test_saved_datasets(tmp_path):
    from datasets import DatasetDict

    saved_dataset(tmp_path).save_to_disk(tmp_path / "disk")
    DatasetDict(train=saved_dataset(tmp_path), val=saved_dataset(tmp_path, 2)).save_to_disk(tmp_path / "dict")
    for name in ("disk", "dict"):
        images = load_images(str(tmp_path / name))
        assert (grays(images), images.label_names, images.labels.tolist()) == ([0, 10, 20, 30], ["a", "b"], [0, 1] * 2)
        assert stream_images(DataSource(str(tmp_path / name))).label_names == ["a", "b"]
    assert images.splits == ["train", "val"]
    assert len(load_images(str(tmp_path / "dict"), split="validation")) == 2
    with pytest.raises(NoSplitError, match="no split 'test'"):
        load_images(str(tmp_path / "dict"), split="test")


def test_a_saved_dataset_reads_files_of_its_own_folder_alone(tmp_path):
    saved_dataset(tmp_path).save_to_disk(tmp_path / "disk")
    shutil.copy(tmp_path / "disk" / "data-00000-of-00001.arrow", tmp_path / "other.arrow")
    state = json.loads((tmp_path / "disk" / "state.json").read_text())
    state["_data_files"] = [{"filename": "../other.arrow"}]
    (tmp_path / "disk" / "state.json").write_text(json.dumps(state))
    with pytest.raises(UsageError, match="files outside of its folder"):
        load_images(str(tmp_path / "disk"))
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["../disk"]}))
    with pytest.raises(UsageError, match="does not list the folders"):
        load_images(str(tmp_path))


def test_a_copied_repository_with_several_configurations(tmp_path):
    for number, name in enumerate(["small", "large"]):
        (tmp_path / "two" / name).mkdir(parents=True)
        pq.write_table(pa.table({"image": [png(10 * number)]}), tmp_path / "two" / name / "train-0.parquet")
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/*.parquet\n" for name in ("small", "large"))
    (tmp_path / "two" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    name = str(tmp_path / "two")
    assert grays(load_images(name, config_name="large")) == [10]
    with pytest.raises(UsageError, match="several configurations: small, large. Choose with --dataset_config_name"):
        load_images(name)
    with pytest.raises(UsageError, match="no configuration 'smal'. Did you mean 'small'"):
        load_images(name, config_name="smal")


def test_a_dataset_that_is_a_program_is_told_as_such():
    error = RuntimeError("Dataset scripts are no longer supported, but found faces.py")
    told = why_not_found("org/faces", None, error)
    assert told.startswith("The dataset 'org/faces' is a program (faces.py), which is not run.")
    assert "refs/convert/parquet" in told


@pytest.mark.parametrize(
    ("name", "way"), [("a.xlsx", "as CSV"), ("a.pkl", "runs code"), ("a.orc", "as parquet"), ("a.mat", "as .npz")]
)
def test_files_of_other_kinds_are_refused_with_what_to_do(tmp_path, name, way):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UsageError, match=f"unknown kind; known: .parquet, .csv.*{way}"):
        load_images(str(tmp_path / name))


@pytest.mark.parametrize("form", ["named", "by place", "without names", "semicolons"])
def test_a_column_for_each_pixel(photos, form):
    delimiter = ";" if form == "semicolons" else ","
    names = [f"{n // 8 + 1}x{n % 8 + 1}" if form == "by place" else f"pixel{n}" for n in range(64)]
    rows = [[n + 3, *[20 * n] * 64] for n in range(3)]
    lines = [*([] if form == "without names" else [["label", *names]]), *rows]
    images = load_images(photos("\n".join(delimiter.join(map(str, line)) for line in lines)))
    assert [int(images.decode(n, 8).max()) for n in range(3)] == [0, 20, 40]
    assert (images.label_names, images.labels.tolist(), images.resolution()) == (["3", "4", "5"], [0, 1, 2], 8)
    assert images.notes[0].startswith("64 columns are read as images of 8x8")


def test_pixels_outside_of_bytes_are_refused_and_other_wide_tables_are_no_images(photos):
    names = ",".join(f"p{n}" for n in range(64))
    for value in ("256", "0.5", "-1"):
        with pytest.raises(UsageError, match="p0 ... p63 are not whole numbers from 0 to 255"):
            load_images(photos(f"{names}\n{','.join([value] * 64)}\n"))
    with pytest.raises(UsageError, match="no column of images"):
        load_images(photos(f"{names},p64\n{','.join(['1'] * 65)}\n"))


def test_tables_of_paths_are_not_streamed(photos):
    name = photos("file\npictures/0.png\n")
    with pytest.raises(UsageError, match="holds paths in 'file', which are not streamed; leave out --streaming"):
        stream_images(DataSource(name))


def test_all_pixels_in_one_text(photos):
    rows = "".join(f"{n},{' '.join(['7'] * 64)}\n" for n in range(2))
    images = load_images(photos("emotion,pixels\n" + rows), label_column="emotion")
    assert (images.decode(1, 8).max(), images.labels.tolist()) == (7, [0, 1])


def test_names_of_classes_in_lists_of_one(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Image as ImageFeature, List

    features = Features({"image": ImageFeature(), "label": List(ClassLabel(names=["a", "b"]))})
    rows = {"image": [Image.new("L", (4, 4))] * 3, "label": [[1], [0], [1]]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "a.parquet")
    images = load_images(str(tmp_path / "a.parquet"))
    assert (images.label_names, images.labels.tolist()) == (["a", "b"], [1, 0, 1])


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3), (3, 8, 8), (8, 8, 1)])
def test_parquet_of_arrays_of_pixels(tmp_path, shape):
    arrays = [np.full(shape, 10 * n).tolist() for n in range(3)]
    pq.write_table(pa.table({"digit": arrays, "label": [[1, 0], [0, 1], [1, 0]]}), tmp_path / "a.parquet")
    images = load_images(str(tmp_path / "a.parquet"))
    assert [int(images.decode(n, 8).max()) for n in range(3)] == [0, 10, 20]
    assert (images.mode, images.labels.tolist()) == ("RGB" if 3 in shape else "L", [0, 1, 0])
    with pytest.raises(UsageError, match="holds arrays in 'digit', which are not streamed"):
        stream_images(DataSource(str(tmp_path / "a.parquet")))


def test_arrays_that_are_no_images_are_told_by_row(tmp_path):
    good, wide, deep = np.zeros((8, 8), int), np.zeros((8, 8), int) + 300, np.zeros((8, 8, 5), int)
    for bad, why in ((wide, "not whole numbers from 0 to 255"), (deep.tolist(), "shape")):
        arrays = [good.tolist(), np.asarray(bad).tolist()] if bad is wide else [good[None].tolist(), deep.tolist()]
        pq.write_table(pa.table({"digit": arrays}), tmp_path / "a.parquet")
        with pytest.raises(UsageError, match=f"'digit' holds no image in row 1: .*{why}"):
            load_images(str(tmp_path / "a.parquet"))


def test_names_of_files_without_their_endings(photos, tmp_path):
    images = load_images(photos("id,label\n0,a\n2,b\n", name="pictures.csv"))
    assert (grays(images), images.label_names) == ([0, 20], ["a", "b"])
    assert images.notes[0] == "files of 'id' are looked for in pictures/, by their names without an ending"
    with pytest.raises(UsageError, match="no column of images"):
        load_images(photos("id,label\n0,a\n99,b\n", name="pictures.csv"))


def test_bytes_of_json_lines(photos):
    rows = [json.dumps({"image": {"bytes": base64.b64encode(png(n)).decode(), "path": None}}) for n in (10, 20)]
    assert grays(load_images(photos("\n".join(rows), name="a.jsonl"))) == [10, 20]
