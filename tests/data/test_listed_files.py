"""Files that a table lists are found below its folder, as they may be written elsewhere; nothing outside is asked."""

import pytest

from hfgen.data.listed_files import listed_files


@pytest.fixture
def root(tmp_path):
    for path in ("train/1.jpg", "train/2.JPG", "test/1.jpg", "images/a b.png", "images/deep/c.png", "labels.csv"):
        (tmp_path / "faces" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "faces" / path).write_bytes(b"")
    return tmp_path / "faces"


@pytest.mark.parametrize(
    ("values", "found", "told"),
    [
        (["train/1.jpg", None, "gone.jpg"], ["train/1.jpg", None, "gone.jpg"], ""),
        (["1", "2", "3"], ["train/1.jpg", "train/2.JPG", "train/3"], "in train/, by their names without an ending"),
        (["images\\\\a b.png".replace("\\\\", "\\")], ["images/a b.png"], ""),
        (["./a b.png"], ["images/a b.png"], "in images/"),
        (["faces/images/deep/c.png"], ["images/deep/c.png"], ""),
        (["/home/bob/faces/images/a b.png", "/home/bob/faces/train/1.jpg"], None, "without /home/bob/faces/ before"),
        (["C:\\Users\\bob\\images\\a b.png"], ["images/a b.png"], "without C:/Users/bob/ before them"),
        (["/mnt/1.jpg"], ["train/1.jpg"], "in train/, without /mnt/ before them"),
        (["/etc/passwd"], ["/etc/passwd"], ""),
        (["/x/../labels.csv"], ["/x/../labels.csv"], ""),
        (["../faces/labels"], ["../faces/labels"], ""),
        ([None, ""], [None, None], ""),
    ],
)
def test_files_that_a_table_lists(root, values, found, told):
    paths, note = listed_files(values, root, "train")
    assert paths == (found or ["images/a b.png", "train/1.jpg"])
    assert note.startswith(told)
    assert bool(note) == bool(told)
