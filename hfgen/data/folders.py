"""Folders and archives of images become datasets: what is found in them, and the images and classes of a split."""

import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from hfgen.data.archives import is_archive, unpacked
from hfgen.data.arrangement import Arrangement, arranged, as_declared, display, shown
from hfgen.data.columns import classes_among
from hfgen.data.declared import declared_splits
from hfgen.data.headers import inspect_headers
from hfgen.data.images import Images
from hfgen.data.metadata import Beside, labels_beside, refuse_unknown
from hfgen.data.parquet_files import PARQUET, picture_columns
from hfgen.data.sources import BUILT_IN, DataSource, way_by_content, way_of
from hfgen.data.splits import ORDER
from hfgen.data.walk import Found, kind, left_out_note, walk
from hfgen.errors import UsageError, counted

TEXTS = (".csv", ".tsv", ".jsonl", ".ndjson")
TABLES = (*PARQUET, ".arrow", *TEXTS)  # read where there are no images
FEW = 4  # times the bytes of a folder's images that its archives have, where these are the data


def found_in(source: DataSource) -> Found | None:
    """Return the files of a folder or an archive of images; None where the source is neither.

    Raises:
        UsageError: there is nothing in it to read.
    """
    path, name = source.path, source.name
    if path.is_file() and is_archive(path):
        found: Found = unpacked(name, [path])
    elif name in BUILT_IN or not path.is_dir():
        return None
    else:
        found = walk(path)
        archives = [path / other for other in found.others if is_archive(other)]
        tables = [path / other for other in found.others if other.lower().endswith(TABLES)]
        if found.images and not _are_previews(found, archives + tables):
            return found
        if tables and not (archives and _are_texts_about(archives, tables)):
            return None
        if archives:
            found = unpacked(name, archives)
            found.left_out.update(kind(table.name) for table in tables)
    if found.images:
        source.refuse_configuration()
        return found
    what = "holds no images that hfgen reads" if found.left_out else "is an empty folder"
    told = "".join(f"; {note}" for note in left_out_note(found.left_out))
    raise UsageError(f"The dataset {name!r} {what}{told}.{_what_to_do(found)}")


def _what_to_do(found: Found) -> str:
    """Return a sentence on what to do with files other than images, by what most of them are."""
    arrays = [path for path in found.others if path.lower().endswith((".npz", ".npy"))]
    if arrays:
        stack = "" if len(arrays) == 1 else " Save them as arrays of one .npz."
        return f"{stack} Give the file itself: {found.root / display(arrays[0])}"
    endings = Counter(kind(path) for path in found.others)
    if (most := next((ending for ending, _ in endings.most_common() if way_of(ending)), None)) is not None:
        return f" {way_of(most)}."
    beginnings = (found.read(path, 4) for path in found.others[:20])
    return next((f" {way}." for way in map(way_by_content, beginnings) if way), "")


def _are_texts_about(archives: list[Path], tables: list[Path]) -> bool:
    """Return True for text tables that are small beside archives, such as the labels of Kaggle's data."""
    texts = [path for path in tables if path.suffix.lower() in TEXTS]
    sizes = [sum(path.stat().st_size for path in paths) for paths in (texts, archives)]
    return len(texts) == len(tables) and sizes[0] < sizes[1]


def _are_previews(found: Found, packed: list[Path]) -> bool:
    """Return True where a folder's images are few beside those in its archives, or in tables with a column of images.

    Such are the pictures beside the files of a dataset that was downloaded from the Hub.
    """
    packed = [
        path
        for path in packed
        if path.suffix.lower() not in (".parquet", ".pq") or any(picture_columns(path).values())
    ]
    packed = [path for path in packed if path.suffix.lower() not in TEXTS]
    if not packed:
        return False
    sizes = (os.path.getsize(found.root / path) for path in found.images)
    return sum(path.stat().st_size for path in packed) > FEW * sum(sizes)


def images_from_folder(source: DataSource, found: Found) -> Images:
    """Read the split of a folder; images are opened where they lie."""
    chosen = choose(source, found)
    folder = Folder(found, chosen.files)
    seen = inspect_headers(source, len(chosen.files), folder.open, folder.name)
    return Images(
        name=source.name,
        open_image=folder.open,
        name_image=folder.name,
        count=len(chosen.files),
        mode=seen.mode,
        sizes=seen.sizes,
        value_range=seen.value_range,
        notes=[*chosen.notes, *seen.notes],
        labels=chosen.labels,
        label_names=chosen.label_names,
        label_problem=chosen.label_problem,
        splits=chosen.splits,
    )


@dataclass(frozen=True)
class Folder:
    """Images of a folder, opened and named by their numbers.

    Attributes:
        files: relative paths, which a walk found.
    """

    found: Found
    files: list[str]

    def open(self, index: int) -> Image.Image:
        return self.found.open(self.files[index])

    def name(self, index: int) -> str:
        return display(self.files[index])


@dataclass(frozen=True)
class Chosen:
    """The images of a split with their classes, as `Images` has them."""

    files: list[str]
    labels: torch.Tensor | None
    label_names: list[str] | None
    label_problem: str | None
    splits: list[str]
    notes: list[str]


def choose(source: DataSource, found: Found) -> Chosen:
    """Choose the images of a split, and their classes: those of a table beside them, or else of the folders.

    A table decides where it has a label for each image, or where its column is asked for, or where there are no class
    folders.

    Raises:
        NoSplitError: there is no such split.
        UsageError: a column does not exist or does not hold classes, or a table is damaged.
    """
    beside = labels_beside(source, found)
    listed = beside.splits if beside else {}
    by_folder = _by_folders(source, found, found.folders, listed)
    columns = ["image", *(["label"] if by_folder.names else []), *(beside.columns if beside else [])]
    refuse_unknown(source, columns)
    chosen = None if beside is None else _by_table(source, found, by_folder, beside)
    if chosen is None:
        notes = [*by_folder.notes, *(beside.notes if beside else [])]
        splits, why = by_folder.splits, by_folder.no_classes
        chosen = Chosen(by_folder.files, _numbers(by_folder), by_folder.names, why, splits, notes)
    links = [f"{counted(found.links, 'image')} reached by links"] if found.links else []
    used = beside.files if beside else []
    left_out = left_out_note(found.left_out - Counter(map(kind, used)))
    return replace(chosen, notes=[*chosen.notes, *links, *left_out, *_about_tables(found, used)])


def _about_tables(found: Found, used: list[str]) -> list[str]:
    """Return a line on a table beside images that is not read with them."""
    if type(found) is not Found:
        return []
    tables = [path for path in found.others if path.lower().endswith((*PARQUET, *TEXTS)) and path not in used]
    if not tables:
        return []
    tables.sort(key=lambda path: (path.count("/"), path))
    return [f"not read: {shown(tables)}; for labels in a table give it itself, {found.root / display(tables[0])}"]


def _by_folders(
    source: DataSource, found: Found, folders: list[str] | None, listed: dict[str, str] | None = None
) -> Arrangement:
    """Arrange by the splits that a copied repository of the Hub or a table declares, or else by the names of folders.

    Args:
        listed: image -> its split, as a table has it.
    """
    declared = declared_splits(found.root, found.images) if type(found) is Found else None
    if declared is not None:
        return as_declared(source.name, declared, folders, source.split, "README.md")
    if listed and len(listed) == len(found.images):
        declared = {split: [path for path in found.images if listed[path] == split] for split in ORDER}
        declared = {split: paths for split, paths in declared.items() if paths}
        return as_declared(source.name, declared, folders, source.split, "the table")
    return arranged(source.name, found.images, folders, source.split)


def _by_table(source: DataSource, found: Found, by_folder: Arrangement, beside: Beside) -> Chosen | None:
    """Choose by the labels of a table; None where the folders decide."""
    whole = _by_folders(source, found, None, beside.splits)
    listed = [path for path in whole.files if path in beside.values]
    told = f"{beside.source} lists {len(listed):,} of {len(whole.files):,} images"
    if len(listed) < len(whole.files):
        beside.notes.append(told)
    if beside.column is None or source.label_column not in (None, beside.column):
        return None
    if by_folder.names and source.label_column is None and len(listed) < len(whole.files):
        beside.notes.append(f"the folders are the classes; --label_column {beside.column} takes those of the table")
        return None
    values = [beside.values.get(path) for path in found.images]  # of all splits, which have the same numbers
    classes, notes, problem = classes_among(source, values, None, beside.column, found.images.__getitem__)
    if classes is None:
        beside.notes.extend(notes)
        return None
    places = {path: place for place, path in enumerate(found.images)}
    labels = classes.labels[[places[path] for path in whole.files]]
    by = [f"classes are those of {beside.column!r} in {beside.source}"]
    notes = [*whole.notes, *by, *beside.notes, *notes]
    if bool((labels < 0).all()):
        return Chosen(whole.files, None, None, problem, whole.splits, notes)
    return Chosen(whole.files, labels, classes.names, problem, whole.splits, notes)


def _numbers(chosen: Arrangement) -> torch.Tensor | None:
    if chosen.classes is None or chosen.names is None:
        return None
    numbers = {name: number for number, name in enumerate(chosen.names)}
    return torch.tensor([numbers[name] for name in chosen.classes])
