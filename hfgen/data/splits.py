"""Names of splits, as people and libraries write them."""

import re
from collections.abc import Iterable
from pathlib import PurePath

SPLITS = {"train": "train", "training": "train"}  # a name -> what it stands for, as `datasets` has them
SPLITS |= dict.fromkeys(("validation", "valid", "val", "dev"), "validation")
SPLITS |= dict.fromkeys(("test", "testing", "eval", "evaluation"), "test")
SPLIT_COLUMNS = (
    "split",
    "subset",
    "partition",
    "data_set",
    "dataset",
    "set",
)  # of tables, that name the split of a row
ORDER = ("train", "validation", "test")


def chosen_split(wanted: str, there: Iterable[str]) -> str | None:
    """Return the split that is meant, where `val`, `valid` and `validation` are one; None without it.

    >>> chosen_split("validation", ["train", "val"]), chosen_split("tset", ["train"])
    ('val', None)
    """
    names = list(there)
    meant = SPLITS.get(wanted, wanted)
    return wanted if wanted in names else next((name for name in names if SPLITS.get(name, name) == meant), None)


def split_in(path: str) -> str | None:
    """Return the split that a file's name says, or else the nearest folder's that says one.

    >>> split_in("train-00000-of-00002.parquet"), split_in("data/val/3.parquet"), split_in("faces.parquet")
    ('train', 'validation', None)
    """
    for part in (PurePath(path).stem, *PurePath(path).parts[-2::-1]):
        words = re.split(r"[^a-z]+", part.casefold())
        found = {SPLITS[word] for word in words if word in SPLITS}
        if len(found) == 1:
            return found.pop()
    return None


def splits_in(paths: Iterable[str]) -> dict[str, list[str]]:
    """Divide files by the splits that all of their names say, `train` among them; else all are the split `train`."""
    files = sorted(paths)
    found = {file: split_in(file) for file in files}
    if None in found.values() or "train" not in found.values():
        return {"train": files}
    names = sorted({str(split) for split in found.values()}, key=ORDER.index)
    return {name: [file for file in files if found[file] == name] for name in names}
