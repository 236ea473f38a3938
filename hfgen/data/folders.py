"""Folders and archives of images become datasets: what is found in them, and the images and classes of a split."""

import os
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from hfgen.data.archives import is_archive, unpacked
from hfgen.data.arrangement import Arrangement, arranged, display
from hfgen.data.columns import classes_among
from hfgen.data.headers import inspect_headers
from hfgen.data.images import Images
from hfgen.data.metadata import Beside, labels_beside, refuse_unknown
from hfgen.data.sources import BUILT_IN, DataSource
from hfgen.data.walk import Found, kind, left_out_note, walk
from hfgen.errors import UsageError, counted

TEXTS = (".csv", ".tsv", ".jsonl", ".ndjson")
TABLES = (".parquet", ".pq", ".arrow", *TEXTS)  # read where there are no images
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
        if tables:
            return None
        if archives:
            found = unpacked(name, archives)
    if found.images:
        source.refuse_configuration()
        return found
    what = "holds no images that hfgen reads" if found.left_out else "is an empty folder"
    told = "".join(f"; {note}" for note in left_out_note(found.left_out))
    array = next((path for path in found.others if path.lower().endswith((".npz", ".npy"))), None)
    hint = f" Give the file itself: {found.root / display(array)}" if array else ""
    raise UsageError(f"The dataset {name!r} {what}{told}.{hint}")


def _are_previews(found: Found, packed: list[Path]) -> bool:
    """Return True where a folder's images are few beside those in its archives, or in tables with a column of images.

    Such are the pictures beside the files of a dataset that was downloaded from the Hub.
    """
    packed = [path for path in packed if path.suffix.lower() not in (".parquet", ".pq") or _holds_images(path)]
    packed = [path for path in packed if path.suffix.lower() not in TEXTS]
    if not packed:
        return False
    sizes = (os.path.getsize(found.root / path) for path in found.images)
    return sum(path.stat().st_size for path in packed) > FEW * sum(sizes)


def _holds_images(path: Path) -> bool:
    import pyarrow.parquet
    from pyarrow import types

    try:
        kinds = [field.type for field in pyarrow.parquet.read_schema(path)]
    except (OSError, pyarrow.ArrowException):
        return False
    structs = [kind for kind in kinds if types.is_struct(kind) and kind.get_field_index("bytes") >= 0]
    return bool(structs) or any(types.is_binary(kind) or types.is_large_binary(kind) for kind in kinds)


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
    by_folder = arranged(source.name, found.images, found.folders, source.split)
    beside = labels_beside(source, found)
    columns = ["image", *(["label"] if by_folder.names else []), *(beside.columns if beside else [])]
    refuse_unknown(source, columns)
    chosen = None if beside is None else _by_table(source, found, by_folder, beside)
    if chosen is None:
        notes = [*by_folder.notes, *(beside.notes if beside else [])]
        splits, why = by_folder.splits, by_folder.no_classes
        chosen = Chosen(by_folder.files, _numbers(by_folder), by_folder.names, why, splits, notes)
    links = [f"{counted(found.links, 'image')} reached by links"] if found.links else []
    left_out = found.left_out - Counter(map(kind, beside.files if beside else []))
    return replace(chosen, notes=[*chosen.notes, *links, *left_out_note(left_out)])


def _by_table(source: DataSource, found: Found, by_folder: Arrangement, beside: Beside) -> Chosen | None:
    """Choose by the labels of a table; None where the folders decide."""
    whole = arranged(source.name, found.images, None, source.split)
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
