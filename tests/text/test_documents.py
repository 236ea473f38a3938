"""Documents of files, folders, tables and the built-in plays; splits, classes, and what is refused."""

import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hfgen import NoSplitError, UsageError
from hfgen_text.documents import Where, find_documents


def texts(found):
    return ["".join(document) for document in found.read()]


def write(folder, **files):
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def find(path, **options):
    by = options.pop("sample_by", "document")
    return find_documents(Where(str(path), **options), by)


def test_the_built_in_plays():
    """A row a play; the hash is that of the plays joined by an empty line."""
    import hashlib

    hashes = {"train": "926a526e", "validation": "bb3f4c06", "test": "05108961"}
    for split, expected in hashes.items():
        found = find("shakespeare-mini", split=split)
        assert found.splits == ["train", "validation", "test"]
        assert found.dataset_id is None
        assert found.labels is None
        joined = "\n".join(texts(found))
        assert joined.isascii()
        assert hashlib.sha256(joined.encode()).hexdigest()[:8] == expected
        assert found.count == (8 if split == "train" else 1)


def test_a_file_is_one_document(tmp_path):
    write(tmp_path, play="a\n\nb\r\n")
    (tmp_path / "play.txt").write_bytes(b"a\n\nb\r\n")
    for ending in (".txt", ".anything", ""):
        path = (tmp_path / "play.txt").rename(tmp_path / f"x{ending}")
        assert texts(find(path)) == ["a\n\nb\r\n"]
        path.rename(tmp_path / "play.txt")
    assert texts(find(tmp_path / "play.txt", sample_by="line")) == ["a", "b"]


def test_a_folder_of_files_is_read_anew(tmp_path):
    write(tmp_path, b="2", a="1", c10="4", c9="3")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    found = find(tmp_path)
    assert texts(found) == texts(found) == ["1", "2", "4", "3"]
    assert (found.count, found.labels, found.name_of(0)) == (4, None, "a.txt")


def test_files_named_by_splits(tmp_path):
    write(tmp_path, train="1", val="2")
    assert texts(find(tmp_path)) == ["1"]
    assert texts(find(tmp_path, split="validation")) == ["2"]
    assert find(tmp_path).splits == ["train", "validation"]
    with pytest.raises(NoSplitError, match="no split 'test'"):
        find(tmp_path, split="test")


def test_folders_are_splits_and_classes(tmp_path):
    write(tmp_path, train__cat__a="1", train__dog__a="2", test__dog__a="3")
    found = find(tmp_path)
    assert (texts(found), found.labels, found.declared) == (["1", "2"], ["cat", "dog"], ["cat", "dog"])
    found = find(tmp_path, split="test")
    assert (texts(found), found.labels, found.declared) == (["3"], ["dog"], ["cat", "dog"])


ROWS = [{"text": "a", "label": "x", "title": "one"}, {"text": "b\nc", "label": "y", "title": "two"}]


def tables(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    yield path
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "t.parquet")
    yield tmp_path / "t.parquet"
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    yield tmp_path / "saved"


def test_rows_of_tables(tmp_path):
    for path in tables(tmp_path):
        found = find(path)
        assert texts(found) == texts(found) == ["a", "b\nc"], path
        assert (found.count, [*found.labels]) == (2, ["x", "y"])
        assert texts(find(path, text_column="title")) == ["one", "two"]
        lines = find(path, sample_by="line")
        assert (texts(lines), lines.count, [*lines.labels]) == (["a", "b", "c"], 3, ["x", "y", "y"])
        with pytest.raises(UsageError, match="has no column 'txet'. Did you mean 'text'"):
            find(path, text_column="txet")
        with pytest.raises(UsageError, match="has no column 'labl'. Did you mean 'label'"):
            find(path, label_column="labl")


def test_streamed_rows(tmp_path):
    *_, parquet, _ = tables(tmp_path)
    found = find(parquet, streaming=True)
    assert texts(found) == texts(found) == ["a", "b\nc"]
    assert (found.labels, found.label_column) == (None, "label")


def test_the_only_column_of_texts(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"body": "a", "n": 1}')
    assert texts(find(path)) == ["a"]
    path.write_text('{"body": "a", "more": "b"}')
    with pytest.raises(UsageError, match="several columns of texts: body, more.\nName one by --text_column"):
        find(path)
    path.write_text('{"n": 1}')
    with pytest.raises(UsageError, match="no column of texts"):
        find(path)
    with pytest.raises(UsageError, match="the column 'n' of .* holds no texts"):
        find(path, text_column="n")


def test_a_value_that_is_no_text(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "a"}\n{"text": null}\n{"text": 3}')
    with pytest.raises(UsageError, match="row 2 holds no text in 'text', but int"):
        texts(find(path))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.txt", b"", "is an empty file"),
        ("x.jsonl", b"", "holds no rows"),
        ("x.jsonl", b'{"text": ""}', "is an empty file|holds no text"),
        ("x.txt", "café".encode("latin-1"), "not UTF-8"),
        ("x.bin", b"\0\1", "is a binary file"),
        ("x.parquet", b"PAR1", "cannot be read"),
    ],
)
def test_what_is_refused(name, content, said, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=said):
        find(tmp_path / name)


def test_no_such_dataset(tmp_path):
    with pytest.raises(UsageError, match="no such file or folder"):
        find(tmp_path / "x.jsonl")
    with pytest.raises(UsageError, match="is an empty folder"):
        find(tmp_path)
