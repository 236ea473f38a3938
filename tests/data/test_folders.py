"""Folders as people have them: which files are images, and the same whether read or streamed."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image
from stream_data import drawn, found, png, stream

from hfgen.data.folder_streams import FolderStream
from hfgen.data.layout import Layout
from hfgen.data.load import load_images
from hfgen.data.walk import Found, walk
from hfgen.errors import UsageError


def write(root, *names, content=None):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(len(name)) if content is None else content)
    return str(root)


def encoded(kind):
    import io

    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 9, np.uint8)).save(file, kind)
    return file.getvalue()


def test_files_that_are_no_images_are_left_out_and_counted(tmp_path):
    write(tmp_path, "a.jpg", "b.jpg", content=encoded("JPEG"))
    others = ["a.jpg.json", "a.jpg.supplemental-metadata.json", "a.xmp", "c.jpg.part", "d.jpg.crdownload", "x.mpg"]
    others += ["notes.txt", "labels.csv", "x.parquet", "films.mp4", "a.jpg~", "b.jpg.bak", "Makefile"]
    write(tmp_path, *others, content=b"{}")
    hidden = [".DS_Store", "._a.jpg", ".cache/a.png", "__MACOSX/._a.jpg", ".ipynb_checkpoints/a.jpg", "Thumbs.db"]
    write(tmp_path, *hidden, "@eaDir/a.jpg")
    images = load_images(str(tmp_path))
    assert (len(images), images.label_names) == (2, None)
    note, other = images.notes
    assert note.startswith("left out: ")
    assert other.startswith("not read: labels.csv, x.parquet; for labels in a table give it itself")
    for part in ("7 hidden or of the system", "2 .json", "1 .xmp", "1 .part", "2 of no known ending", "1 .csv"):
        assert part in note


def test_content_decides_where_an_ending_does_not(tmp_path):
    write(tmp_path, "a.jpg_large", "b", "c.jpg!d", "d.1", "e.JPG:orig", content=encoded("JPEG"))
    write(tmp_path, "f.heic", "g", "h.dat", content=b"\0\0\0\x18ftypheic")
    write(tmp_path, "i.PNG", "j.Jpeg")
    images = load_images(str(tmp_path))
    assert len(images) == 7
    assert {part in images.notes[0] for part in ("1 .heic", "1 .dat", "1 of no known ending")} == {True}


def test_vector_pictures_and_programs_for_ghostscript_are_never_opened(tmp_path):
    write(tmp_path, "a.png")
    write(
        tmp_path,
        "a.eps",
        "b.ps",
        "nothing",
        content=b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
    )
    assert len(load_images(str(tmp_path))) == 1


def test_links_are_followed_but_not_in_circles(tmp_path):
    write(tmp_path / "elsewhere", "1.png", "2.png")
    data = write(tmp_path / "data", "cat/1.png", "dog/1.png")
    os.symlink(tmp_path / "elsewhere", tmp_path / "data" / "bird")
    os.symlink(tmp_path / "elsewhere" / "1.png", tmp_path / "data" / "dog" / "2.png")
    os.symlink(tmp_path / "none.png", tmp_path / "data" / "dog" / "3.png")
    os.symlink(tmp_path / "data", tmp_path / "data" / "dog" / "again")
    os.symlink("itself.png", tmp_path / "data" / "dog" / "itself.png")
    os.mkfifo(tmp_path / "data" / "dog" / "pipe.png")
    images = load_images(data)
    assert (images.label_names, images.labels.tolist()) == (["bird", "cat", "dog"], [0, 0, 1, 2, 2])
    assert images.notes[0] == "3 images reached by links"
    assert "3 broken links or no regular files, 1 links to a folder read already" in images.notes[1]


@pytest.mark.parametrize("streamed", [False, True])
def test_names_that_are_not_utf_8(tmp_path, streamed):
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.makedirs(folder)
    for number in range(4):
        with open(folder + b"/%d\xff.png" % number, "wb") as file:
            file.write(png(number))
    write(tmp_path, "dog/1.png")
    if not streamed:
        images = load_images(str(tmp_path))
        assert images.decode(0, 16)[0, 0, 1] == 0
        assert images.label_names == ["caf\u00e9", "dog"]
    else:
        batches = stream(str(tmp_path), Layout(5))
        assert sorted(drawn(batches, 0, 1)[0][0]) == [0, 1, 2, 3, 9]


def tree(root):
    write(
        root, *(f"{split}/{kind}/{i}.png" for split in ("train", "val") for kind in ("c10", "c2", "B") for i in "123")
    )
    return write(root, "train/stray.png", "readme.txt")


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_stream_has_the_same_images_classes_and_splits(tmp_path, split):
    images, streamed = load_images(tree(tmp_path), split), found(tree(tmp_path), split=split)
    assert (images.label_names, len(images)) == (["B", "c2", "c10"], 9)
    for fact in ("label_names", "count", "mode", "sizes", "notes", "num_classes", "resolution"):
        left, right = getattr(images, fact), getattr(streamed, fact)
        assert (left() if callable(left) else left) == (right() if callable(right) else right)
    [table] = streamed.dataset.shard(1, 0).iter(100)
    assert table["label"].to_pylist() == images.labels.tolist()
    for index, record in enumerate(table["image"].to_pylist()):
        with images.open_image(index) as image:
            assert record["path"] == image.filename


def test_a_stream_keeps_the_numbers_of_classes_that_a_run_has(tmp_path):
    """Runs of before have them in the order of sorted words: c10 before c2."""
    streamed = found(tree(tmp_path))
    older = streamed.renumbered(["B", "c10", "c2"])
    [table] = older.dataset.shard(1, 0).iter(100)
    assert (older.label_names, table["label"].to_pylist()) == (["B", "c10", "c2"], [0] * 3 + [1] * 3 + [2] * 3)
    assert streamed.renumbered(["B", "other"]) is streamed


def test_a_stream_goes_on_where_older_checkpoints_were(tmp_path):
    """Their places are those of the `datasets` by which folders were streamed, one row to a chunk."""
    files = [f"{i}.png" for i in range(10)]
    for read, skipped in ((3, 0), (6, 2), (10, 10)):
        inner = {"shard_idx": 0, "shard_example_idx": skipped, "type": "ExamplesIterable"}
        outer = {"previous_state": inner, "num_chunks_since_previous_state": read - skipped, "batch_idx": 1}
        dataset = FolderStream(Found(tmp_path), files, None)
        dataset.load_state_dict({"examples_iterable": outer, "epoch": 0})
        tables = list(dataset.iter(4))
        assert [r["path"] for t in tables for r in t["image"].to_pylist()] == [str(tmp_path / f) for f in files[read:]]
        assert dataset.state_dict() == {"position": 10}


def test_columns_of_a_folder(tmp_path):
    data = write(tmp_path, "a/1.png", "b/1.png")
    assert load_images(data, image_column="image", label_column="label").num_classes == 2
    for wanted in ({"image_column": "label"}, {"label_column": "image"}, {"label_column": "y"}):
        with pytest.raises(UsageError, match="no column .* Columns: image, label"):
            load_images(data, **wanted)
    shutil.rmtree(tmp_path / "b")
    write(tmp_path, "1.png", "2.png")
    with pytest.raises(UsageError, match="no column 'label' for that. Columns: image."):
        load_images(data, label_column="label")


def test_a_folder_without_images_says_what_there_is(tmp_path):
    write(tmp_path, "a.heic", "b.heic", "notes.md", content=b"?")
    with pytest.raises(UsageError, match="holds no images that hfgen reads; left out: 2 .heic, 1 .md"):
        load_images(str(tmp_path))


def test_an_array_in_a_folder_is_named(tmp_path):
    write(tmp_path, "a.npz", "b.txt", content=b"?")
    with pytest.raises(UsageError, match="left out: 1 .npz, 1 .txt. Give the file itself: .*a.npz"):
        load_images(str(tmp_path))


def test_a_walk_lists_paths_below_the_folder(tmp_path):
    write(tmp_path / "a.png" / "b.png", "c.png")
    seen = walk(tmp_path)
    assert (seen.images, seen.folders) == (["a.png/b.png/c.png"], ["a.png", "a.png/b.png"])


@pytest.mark.parametrize(
    ("file", "content", "way"),
    [
        ("data_batch_1", b"\x80\x04x", "pickles, which run code"),
        ("train-images-idx3-ubyte", b"\0\0\x08\x03", r"IDX\): save them as .npz"),
        ("a.HEIC", b"x", "Convert the photos to JPEG or PNG"),
        ("a.tfrecord", b"x", "as parquet or .npz"),
        ("train-images-idx3-ubyte.gz", b"x", r"\(IDX\). Save the arrays as .npz"),
    ],
)
def test_a_folder_of_other_files_says_what_to_do(tmp_path, file, content, way):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UsageError, match=way):
        load_images(str(tmp_path))


def test_a_table_beside_images_is_named(tmp_path):
    (tmp_path / "0.png").write_bytes(png(1))
    (tmp_path / "labels.csv").write_text("image,label\n0.png,cat\n")
    *_, note = load_images(str(tmp_path)).notes
    assert note == f"not read: labels.csv; for labels in a table give it itself, {tmp_path / 'labels.csv'}"
    assert load_images(str(tmp_path / "labels.csv")).label_names == ["cat"]
