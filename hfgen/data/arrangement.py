"""Splits and classes of images by the names of their folders: pure functions of relative paths.

- Sub-folders are splits only where all of them have names of splits and `train`, or the wanted split, is among them.
- Else they are classes, and what lies deeper belongs to its first folder. One folder that holds all class folders, as
  unpacked archives have it, does not count.
- Images without sub-folders are one split, whatever they are called.
"""

import functools
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hfgen.data.labels import natural
from hfgen.data.sources import NoSplitError
from hfgen.data.splits import ORDER, SPLITS, chosen_split
from hfgen.errors import counted, did_you_mean

NEUTRAL = {"set", "data", "dataset", "images", "imgs", "split"}  # train_set, val-images
SHOWN = 5  # names in a note


@dataclass(frozen=True)
class Arrangement:
    """The images of one split.

    Attributes:
        files: relative paths, sorted.
        classes: class of each; None where there are no classes.
        names: the classes in their order; those of the split `train` come first.
        notes: lines for the user.
        no_classes: why sub-folders are not classes; None where there is nothing to say.
        splits: the splits that the folder has.
    """

    files: list[str]
    classes: list[str] | None = None
    names: list[str] | None = None
    notes: list[str] = field(default_factory=list)
    no_classes: str | None = None
    splits: list[str] = field(default_factory=lambda: ["train"])


def arranged(name: str, files: Sequence[str], folders: Sequence[str] | None = (), split: str = "train") -> Arrangement:
    """Choose the files of a split, and name their classes.

    Args:
        name: of the dataset, for messages.
        files: relative paths of images, with `/`, sorted.
        folders: relative paths of folders, for a note on those without images; None leaves sub-folders without
            meaning, so that all files of the split are chosen and have no classes.

    Raises:
        NoSplitError: there is no such split.
    """
    wanted = split_of(split) or split
    top = _container(files, wanted)
    inside = _within(top, files)
    splits = _splits(inside, wanted)
    notes = [f"all is in the folder {shown([top[:-1]])}"] if top else []
    if not splits:
        if wanted != "train":
            raise NoSplitError(_no_split(name, split, ["train"]))
        top = "" if folders is None else _wrapper(files)
        if top:
            notes.append(f"all is in the folder {shown([top[:-1]])}, whose sub-folders are the classes")
        inside = _within(top, files)
        notes += [] if folders is None else _split_like(name, top, inside)
        return _with_classes(top, inside, _folders(top, folders), None, notes)
    if wanted not in splits:
        raise NoSplitError(_no_split(name, split, splits))
    counts = {kind: sum(len(_within(f"{folder}/", inside)) for folder in splits[kind]) for kind in splits}
    notes.append(f"splits: {', '.join(f'{kind} ({count:,})' for kind, count in counts.items())}; this is {wanted}")
    if outside := [path for path in inside if "/" not in path]:
        notes.append(f"left out: {counted(len(outside), 'image')} outside of the splits: {shown(outside)}")
    return replace(_of_split(top, inside, _folders(top, folders), splits, wanted, notes), splits=[*splits])


def as_declared(
    name: str, splits: Mapping[str, list[str]], folders: Sequence[str] | None, split: str, by: str
) -> Arrangement:
    """Choose the files of a split that a card or a table declares, and name their classes, as `arranged` does."""
    wanted = chosen_split(split, splits)
    if wanted is None:
        raise NoSplitError(_no_split(name, split, splits))
    trained = (
        as_declared(name, splits, folders, "train", by).names if wanted != "train" and "train" in splits else None
    )
    files = sorted({*splits[wanted]})
    top = posixpath.commonpath([posixpath.dirname(path) for path in files])
    top = f"{top}/" if top else ""
    counts = ", ".join(f"{kind} ({len({*found}):,})" for kind, found in splits.items())
    notes = [f"splits are those that {by} declares: {counts}; this is {wanted}"]
    return replace(_with_classes(top, _within(top, files), _folders(top, folders), trained, notes), splits=[*splits])


def _split_like(name: str, top: str, files: list[str]) -> list[str]:
    """Return a line on classes that are called like splits."""
    if others := _splits(files, "validation") or _splits(files, "test"):
        listed = shown(folder for folders in others.values() for folder in folders)
        return [f"{listed}: read as classes, for want of a folder train; --dataset_split reads them as splits"]
    names = in_order(map(first_folder, files)) if all("/" in path for path in files) else []
    alike = [name for name in names if split_of(name) or re.match("(train|test)(?![a-z])", name)]
    if len(names) > 1 and alike:
        among = f", as not all of {shown(names)} are names of splits" if len(alike) < len(names) else ""
        return [f"{shown(alike)}: read as classes{among}; for one of them alone give {name}/{top}{alike[-1]}"]
    inner = {path.split("/")[1] if path.count("/") > 1 else "" for path in files}
    if names and len(inner) > 1 and all(map(split_of, inner)):
        return [f"each class has its own {shown(sorted(inner))}, which are read together: splits lie around classes"]
    return []


def _of_split(
    top: str, files: list[str], folders: list[str] | None, splits: dict[str, list[str]], wanted: str, notes: list[str]
) -> Arrangement:
    trained = None
    if wanted != "train" and "train" in splits:
        train = _of_split(top, files, folders, splits, "train", [])
        trained = train.names
    parts = [
        _with_classes(f"{top}{folder}/", _within(f"{folder}/", files), _folders(f"{folder}/", folders), trained, [])
        for folder in splits[wanted]
    ]
    if len(parts) == 1:
        return replace(parts[0], notes=notes + parts[0].notes)
    paths = [path for part in parts for path in part.files]
    notes += [note for part in parts for note in part.notes]
    if any(part.classes is None for part in parts):
        return Arrangement(sorted(paths), None, None, notes)
    pairs = sorted(zip(paths, (c for part in parts for c in part.classes or []), strict=True))
    found = in_order((c for _, c in pairs), trained)
    return Arrangement([path for path, _ in pairs], [c for _, c in pairs], found, notes)


def _with_classes(
    top: str, files: list[str], folders: list[str] | None, trained: list[str] | None, notes: list[str]
) -> Arrangement:
    """Name the classes of files in one folder: their first sub-folders.

    Args:
        trained: the classes of the split `train`, whose numbers hold in all splits.
    """
    outside = [path for path in files if "/" not in path]
    below = [path for path in files if "/" in path]
    if not below or folders is None:
        return Arrangement([top + path for path in files], notes=notes)
    alone = len({path.partition("/")[0] for path in below}) == 1
    if len(outside) > len(below) or (alone and len(outside) == len(below)):
        why = (
            f"{len(outside):,} images lie in the folder itself, and {len(below):,} in sub-folders "
            f"({shown(in_order(map(first_folder, below)))})"
        )
        return Arrangement([top + path for path in files], notes=[*notes, f"no classes: {why}"], no_classes=why)
    if outside:
        notes.append(f"left out: {counted(len(outside), 'image')} outside of the class folders: {shown(outside)}")
    classes = [first_folder(path) for path in below]
    names = in_order(classes, trained)
    notes += _about_classes(top, below, folders, names, trained)
    return Arrangement([top + path for path in below], classes, names, notes)


def _about_classes(
    top: str, files: list[str], folders: list[str], names: list[str], trained: list[str] | None
) -> list[str]:
    notes = []
    deeper = in_order({path.split("/")[1] for path in files if path.count("/") > 1})
    if len(names) == 1:
        place = f"give the folder {top}{names[0]} in it"
        inner = f"; for classes of its sub-folders ({shown(deeper)}), {place}" if deeper[1:] else ""
        notes.append(f"all images are in one sub-folder, {shown(names)}: one class{inner}")
    elif deeper:
        notes.append(f"deeper folders ({shown(deeper)}) belong to the class around them")
    if new := [name for name in names if trained is not None and name not in trained]:
        notes.append(f"classes that the split train has not: {shown(new)}")
    with_images = {path.partition("/")[0] for path in files}
    if absent := sorted({*(trained or [])} - {display(folder) for folder in with_images}, key=natural):
        notes.append(f"no images of {shown(absent)} in this split")
    if empty := [path for path in folders if "/" not in path and path not in with_images]:
        notes.append(f"left out: sub-folders without images: {shown(map(display, empty))}")
    return notes


def first_folder(path: str) -> str:
    return display(path.partition("/")[0])


@functools.lru_cache(maxsize=1 << 16)
def display(name: str) -> str:
    """Return a file's name as text: one form of accents, and no byte that is not UTF-8."""
    if not name.isascii():
        raw = name.encode("utf-8", "surrogateescape")
        try:
            name = unicodedata.normalize("NFC", raw.decode("utf-8"))
        except UnicodeDecodeError:
            name = raw.decode("latin-1")
    return "".join(c if c.isprintable() else "?" for c in name)


def in_order(names: Iterable[str], first: Sequence[str] | None = None) -> list[str]:
    """Return the different names in the order that a person expects, behind those that have a place already.

    >>> in_order(["class10", "class2", "Apple", "class2"])
    ['Apple', 'class2', 'class10']
    """
    return [*(first or []), *sorted({*names} - {*(first or [])}, key=natural)]


def split_of(name: str) -> str | None:
    """Return the split that a name stands for: train, validation or test; None for another name.

    >>> split_of("Val"), split_of("training_set"), split_of("train2017"), split_of("test1"), split_of("test-a")
    ('validation', 'train', 'train', 'test', None)
    """
    words = split_words(name)
    rest = [word for word in words if word not in NEUTRAL and not re.fullmatch("[12][0-9]{3}|[1-9]", word)]
    if len(rest) != 1:
        return None
    return SPLITS.get(rest[0])


def split_words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+|(?<=[a-z])(?=(?:[12][0-9]{3}|[1-9])$)", name.lower()) if word]


def _splits(files: list[str], wanted: str) -> dict[str, list[str]]:
    """Return split -> its folders; empty where the folders are not all splits."""
    found: dict[str, list[str]] = {}
    for folder in sorted({path.partition("/")[0] for path in files if "/" in path}):
        kind = split_of(folder)
        if kind is None:
            return {}
        found.setdefault(kind, []).append(folder)
    return {kind: found[kind] for kind in ORDER if kind in found} if {"train", wanted} & found.keys() else {}


def _container(files: Sequence[str], wanted: str) -> str:
    """Return the one folder that holds all splits, such as that which an archive was packed from, with its `/`."""
    top = ""
    while True:
        inside = _within(top, files)
        folders = {path.partition("/")[0] if "/" in path else "" for path in inside}
        if len(folders) != 1 or folders == {""} or _splits(inside, wanted):
            return top if top and _splits(inside, wanted) else ""
        top += f"{folders.pop()}/"


def _wrapper(files: Sequence[str]) -> str:
    """Return the one folder that holds all class folders, with its `/`; empty where there is none."""
    top = ""
    while True:
        firsts = {path.partition("/")[0] if "/" in path else "" for path in _within(top, files)}
        if len(firsts) != 1 or firsts == {""}:
            return "" if "" in firsts else top
        top += f"{firsts.pop()}/"


def _folders(top: str, folders: Sequence[str] | None) -> list[str] | None:
    return None if folders is None else _within(top, folders)


def _within(top: str, paths: Sequence[str]) -> list[str]:
    return [path[len(top) :] for path in paths if path.startswith(top)]


def shown(names: Iterable[str]) -> str:
    names = [display(name) for name in names]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def _no_split(name: str, split: str, known: Iterable[str]) -> str:
    return f"The dataset {name!r} has no split {split!r}.{did_you_mean(split, known)} Choose with --dataset_split."
