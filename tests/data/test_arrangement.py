"""Names of folders say which images are of which split and class."""

import pytest

from hfgen.data.arrangement import arranged, in_order, split_of
from hfgen.data.sources import NoSplitError
from hfgen.data.splits import chosen_split, split_in


def of(files, split="train", folders=()):
    found = arranged("data", sorted(files), folders, split)
    return found.files, found.classes, found.names, found.notes


def images(*folders, each=2):
    return [f"{folder}/{i}.png".lstrip("/") for folder in folders for i in range(each)]


@pytest.mark.parametrize(
    "classes",
    [
        ("bus", "car", "train"),
        ("alpha", "beta", "dev"),
        ("no_test", "test-a"),
        ("soil", "evaluation of soil"),
        ("val", "test"),
        ("training", "walking"),
        ("Validation", "trainee"),
        ("test",),
    ],
)
def test_a_class_may_have_the_name_of_a_split(classes):
    files, found, names, _ = of(images(*classes))
    assert (files, names) == (sorted(images(*classes)), in_order(classes))
    assert found == [path.split("/")[0] for path in files]
    with pytest.raises(NoSplitError, match="no split 'other'. Known: "):
        of(images(*classes), "other")


@pytest.mark.parametrize(
    ("folders", "split"),
    [
        (("train", "test"), "test"),
        (("Training", "TESTING"), "test"),
        (("train", "val"), "validation"),
        (("train", "valid"), "val"),
        (("training_set", "test_set"), "test"),
        (("train2017", "val2017"), "dev"),
        (("train-images", "eval"), "testing"),
    ],
)
def test_folders_are_splits_where_all_have_their_names(folders, split):
    train, other = folders
    below = images(f"{train}/cat", f"{train}/dog") + images(f"{other}/cat", f"{other}/dog", each=3)
    for wanted, folder, count in (("train", train, 4), (split, other, 6)):
        files, classes, names, notes = of(below, wanted)
        assert files == sorted(path for path in below if path.startswith(f"{folder}/"))
        assert (len(files), names, sorted({*classes})) == (count, ["cat", "dog"], ["cat", "dog"])
        assert "splits: train (4), " in notes[0]


def test_a_split_that_is_asked_for_needs_no_train_beside_it():
    assert of(images("test/a", "test/b"), "test")[2] == ["a", "b"]
    assert of(images("test", "val"), "test")[0] == images("test")
    _, _, names, notes = of(images("test", "val"))
    assert names == ["test", "val"]
    line = "val, test: read as classes, for want of a folder train; --dataset_split reads them as splits"
    assert line in notes


@pytest.mark.parametrize("names", [["train_0.png", "test_1.png"], ["val/../x.png"[7:], "dev.png"]])
def test_a_flat_folder_is_one_split_whatever_its_files_are_called(names):
    assert of(names)[:3] == (sorted(names), None, None)
    with pytest.raises(NoSplitError, match="'test'. Known: train"):
        of(names, "test")


def test_splits_without_classes():
    assert of(images("train", "test"))[:3] == (images("train"), None, None)
    assert of(images("train/a", "train/b", "test"), "test")[:3] == (images("test"), None, None)


def test_classes_of_all_splits_have_the_numbers_of_train():
    below = images("train/b", "train/c", "val/a", "val/c")
    _, classes, names, notes = of(below, "validation")
    assert names == ["b", "c", "a"]
    assert [*dict.fromkeys(classes)] == ["a", "c"]
    assert "classes that the split train has not: a" in notes
    assert "no images of b in this split" in notes


def test_two_folders_of_one_split_are_read_together():
    files, classes, names, _ = of(images("train/a", "train/b", "val/a", "validation/b"), "val")
    assert files == images("val/a", "validation/b")
    assert (classes, names) == (["a", "a", "b", "b"], ["a", "b"])


def test_images_outside_of_classes_and_splits_are_told():
    files, _, names, notes = of([*images("cat", "dog"), "contact.png"])
    assert (len(files), names) == (4, ["cat", "dog"])
    assert notes == ["left out: 1 image outside of the class folders: contact.png"]
    files, _, _, notes = of([*images("train/a", "test/a"), "x.png", "train/y.png"])
    assert files == images("train/a")
    assert "left out: 1 image outside of the splits: x.png" in notes
    assert "left out: 1 image outside of the class folders: y.png" in notes


def test_a_folder_of_photos_with_a_small_sub_folder_has_no_classes():
    files, classes, names, notes = of([*images("", each=9), *images("edited")])
    assert (len(files), classes, names) == (11, None, None)
    assert notes == ["no classes: 9 images lie in the folder itself, and 2 in sub-folders (edited)"]


def test_what_lies_deeper_belongs_to_its_first_folder():
    files, classes, names, notes = of([*images("cat", "dog"), *images("cat/old", "dog/a/b/c", each=1)])
    assert (len(files), names) == (6, ["cat", "dog"])
    assert classes == ["cat"] * 3 + ["dog"] * 3
    assert notes == ["deeper folders (a, old) belong to the class around them"]


def test_one_folder_around_class_folders_is_no_class():
    files, classes, names, notes = of(images("zip/flowers/rose", "zip/flowers/tulip"))
    assert (classes, names) == (["rose", "rose", "tulip", "tulip"], ["rose", "tulip"])
    assert (files, notes) == (
        images("zip/flowers/rose", "zip/flowers/tulip"),
        ["all is in the folder zip/flowers, whose sub-folders are the classes"],
    )


@pytest.mark.parametrize("beside", [["flowers/x.png"], ["x.png"]])
def test_one_class_is_told_with_the_way_to_its_sub_folders(beside):
    _, _, names, notes = of(images("flowers/rose", "flowers/tulip") + beside)
    assert names == ["flowers"]
    assert "for classes of its sub-folders (rose, tulip), give the folder flowers in it" in " ".join(notes)


def test_as_many_images_beside_one_folder_as_in_it_are_one_set():
    assert of([*images("", each=3), *images("thumbnails", each=3)])[1:3] == (None, None)
    assert of([*images("", each=4), *images("cat", "dog")])[2] == ["cat", "dog"]


def test_splits_may_have_a_number():
    below = images("train/cat", "train/dog", "test1")
    assert of(below)[:2] == (images("train/cat", "train/dog"), ["cat", "cat", "dog", "dog"])
    assert of(below, "test")[0] == images("test1")


@pytest.mark.parametrize(
    ("folders", "line"),
    [
        (("test", "train", "extra"), "test, train: read as classes, as not all of extra, test, train are names of"),
        (("trainA", "trainB", "testA"), "testA, trainA, trainB: read as classes; for one of them alone give data/"),
        (("cat/train", "cat/test", "dog/train"), "each class has its own test, train, which are read together"),
    ],
)
def test_classes_that_look_like_splits_are_told(folders, line):
    files, _, names, notes = of(images(*folders))
    assert (len(files), names) == (6, in_order(folder.split("/")[0] for folder in folders))
    assert notes[0].startswith(line)


def test_splits_in_one_folder_around_them_are_found():
    files, _, names, notes = of(images("my/data/train/a", "my/data/train/b", "my/data/test/a"))
    assert (files, names) == (images("my/data/train/a", "my/data/train/b"), ["a", "b"])
    assert notes[0] == "all is in the folder my/data"


def test_sub_folders_without_images_are_no_classes():
    _, _, names, notes = of(images("cat", "dog"), folders=["bird", "cat", "cat/x", "dog"])
    assert names == ["cat", "dog"]
    assert notes == ["left out: sub-folders without images: bird"]
    assert of(images("train/a"), folders=["labels", "labels/x", "train"])[2] == ["a"]


def test_classes_have_the_order_that_a_person_expects():
    names = ["class10", "class2", "Class1", "10", "9", "b", "A"]
    assert of(images(*names))[2] == ["9", "10", "A", "b", "Class1", "class2", "class10"]


def test_names_of_classes_are_text_in_one_form():
    assert of(images("cafe\u0301", "caf\u00e9", "x"))[2] == ["caf\u00e9", "x"]
    assert of(images("caf\udce9", "a\nb"))[2] == ["a?b", "caf\u00e9"]


@pytest.mark.parametrize(("name", "split"), [("eval", "test"), ("Evaluation", "test"), ("val", "validation")])
def test_folders_files_and_arrays_name_splits_alike(name, split):
    assert split_of(name) == split_in(f"{name}.parquet") == split
    assert chosen_split(name.lower(), ["train", split]) == split
