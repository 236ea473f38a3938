"""Random folders with a known truth are read as they were made."""

import random

import pytest
from stream_data import png

from hfgen.data.arrangement import arranged, in_order
from hfgen.data.folders import choose, found_in
from hfgen.data.sources import DataSource, NoSplitError
from hfgen.data.streams import stream_images

WORDS = ["cat", "dog", "Class 2", "class10", "train", "test", "dev", "trainers", "\u00e9t\u00e9", "a.b", "eval x"]
SPLITS = {"train": ["train", "Training"], "validation": ["val", "valid", "dev"], "test": ["test", "eval"]}


def tree(rng):
    """A random tree of files, and what is in it: {split: {path: class}}, and the images outside of it."""
    splits = ["train", *rng.sample(["validation", "test"], rng.randrange(3))] if rng.random() < 0.5 else [None]
    top = rng.choice(["", "", "one/", "one/two/"])
    classes = rng.sample(WORDS, rng.randrange(2, 6)) if rng.random() < 0.7 else [None]
    if splits == [None] and "train" in classes and {*classes} <= {"train", "test", "dev"}:
        classes.append("fish")
    if splits == [None] and classes == [None]:
        top = ""
    truth, outside = {}, []
    for split in splits:
        place = top + (f"{rng.choice(SPLITS[split])}/" if split else "")
        truth[split or "train"] = {
            f"{place}{f'{name}/' if name else ''}{deeper}{rng.choice(['train', 'test', 'img'])}_{i}.png": name
            for name in classes
            for i, deeper in enumerate([""] + [rng.choice(["", "old/", "a/test/"]) for _ in range(3)])
            if name or not deeper
        }
        if classes != [None] and (split or not top) and rng.random() < 0.5:
            outside.append(f"{place}stray.png")
    return truth, outside, classes


def test_random_trees_are_read_as_they_were_made():
    for seed in range(500):
        check(*tree(random.Random(seed)), read_names)


def read_names(files, split):
    found = arranged("data", sorted(files), (), split)
    return found.files, found.classes, found.names, found.notes


def check(truth, outside, classes, read):
    files = [path for split in truth.values() for path in split] + outside
    for split in ("train", "validation", "test"):
        if split not in truth:
            with pytest.raises(NoSplitError):
                read(files, split)
            continue
        found, of_each, names, notes = read(files, split)
        assert found == sorted(truth[split])
        assert of_each == (None if classes == [None] else [truth[split][path] for path in found])
        assert names == (None if classes == [None] else in_order(classes))
        told = " ".join(note for note in notes if "outside" in note)
        assert told.count("stray.png") == sum(1 for p in outside if p.rpartition("/")[0] in _places(truth[split], p))


def _places(paths, stray):
    """The folder of a stray image, if the images of this split lie below it."""
    folder = stray.rpartition("/")[0]
    return {folder} if any(path.startswith(f"{folder}/" if folder else "") for path in paths) else set()


LITTER = [
    ".DS_Store",
    "notes.txt",
    "a.png.json",
    "x.jpg.part",
    "._b.png",
    "Thumbs.db",
    ".cache/x.png",
    "y.heic",
    "z.mp4",
]
ENDINGS = [".png", ".PNG", ".jpg", "", ".png_large", ".1"]


@pytest.mark.parametrize("seed", range(20))
def test_random_folders_on_the_disk_are_read_as_they_were_made(tmp_path, seed):
    """With endings of all kinds, and litter in each folder; read and streamed."""
    rng = random.Random(seed)
    truth, outside, classes = tree(rng)
    renamed = {path: path.removesuffix(".png") + rng.choice(ENDINGS) for split in truth.values() for path in split}
    truth = {split: {renamed[path]: name for path, name in of.items()} for split, of in truth.items()}
    for path in [*(path for of in truth.values() for path in of), *outside]:
        place = tmp_path / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(png(1, side=2))
        for name in rng.sample(LITTER, 2):
            (place.parent / name).parent.mkdir(exist_ok=True)
            (place.parent / name).write_bytes(b"litter")

    def read(files, split):
        source = DataSource(str(tmp_path), split)
        chosen = choose(source, found_in(source))
        streamed = stream_images(source)
        [table] = streamed.dataset.iter(1000)
        assert [record["path"] for record in table["image"].to_pylist()] == [str(tmp_path / f) for f in chosen.files]
        labels = None if chosen.labels is None else chosen.labels.tolist()
        assert (table["label"].to_pylist() if labels else None, streamed.label_names) == (labels, chosen.label_names)
        assert "left out: " in chosen.notes[-1]
        of_each = None if labels is None else [chosen.label_names[label] for label in labels]
        return chosen.files, of_each, chosen.label_names, chosen.notes

    check(truth, outside, classes, read)
