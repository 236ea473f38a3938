"""Columns of a table: which one holds the images, and which one their labels."""

import io
import itertools
import mimetypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hfgen.data.labels import Classes, classes_of, row_number
from hfgen.data.pixels import UNREADABLE
from hfgen.data.sources import DataSource
from hfgen.errors import UsageError, did_you_mean
from hfgen.files import printable
from hfgen.modalities.formats import open_picture

LABEL_COLUMNS = ("label", "labels", "class", "class_label", "class_name", "category", "target", "cls", "y")
FEW = 16  # texts that are classes even if all of them differ


def with_images(source: DataSource, dataset: Any) -> tuple[Any, str, list[str]]:
    """Return a dataset whose column of images is of the type `datasets.Image`; that column; and notes.

    The column is the wanted one, or the only one of images: of that type, of the bytes of pictures as pandas and
    polars write them, or, in a local table, of paths of files below its folder.

    Raises:
        UsageError: there is no such column, there are several, or files that it names are not there.
    """
    import datasets

    wanted, columns = source.image_column, ", ".join(dataset.features)
    if wanted is not None and wanted not in dataset.features:
        near = did_you_mean(wanted, dataset.features)
        raise UsageError(f"{source.name}: {wanted!r} is not a column of images.{near} Columns: {columns}.")
    found = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    if wanted in found or (wanted is None and len(found) == 1):
        return dataset, wanted or found[0], []
    if wanted is not None or not found:
        first = _first_rows(dataset)
        kinds = {name: kind for name in dataset.features if (kind := _kind(source, first, name, name == wanted))}
        found = [name for name in kinds if wanted in (None, name)]
    if wanted is not None and not found:
        what = _told(next((row[wanted] for row in first if row[wanted] is not None), None))
        raise UsageError(f"{source.name}: {wanted!r} is not a column of images; it holds {what}. Columns: {columns}.")
    if len(found) != 1:
        what = "no column of images" if not found else f"several columns of images ({', '.join(found)})"
        raise UsageError(f"{source.name}: {what}. Columns: {columns}. Choose with --image_column.")
    column, notes = found[0], list[str]()
    if kinds[column] == "paths":
        dataset, notes = _with_paths(source, dataset, column)
    return dataset.cast_column(column, datasets.Image(decode=False)), column, notes


def _first_rows(dataset: Any) -> list[dict[str, Any]]:
    table = next(iter(dataset.with_format("arrow").iter(batch_size=8)), None)
    return [] if table is None else table.to_pylist()


def _kind(source: DataSource, rows: list[dict[str, Any]], column: str, is_wanted: bool) -> str | None:
    """Return `bytes` or `paths` for a column that holds pictures so, by its first value; else None."""
    value = next((row[column] for row in rows if row[column] is not None), None)
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return "bytes" if is_wanted or _opens(value) else None
    if isinstance(value, str) and source.path.exists():
        guessed, _ = mimetypes.guess_type(value.replace("\\", "/"))
        return "paths" if is_wanted or (guessed or "").startswith("image/") else None
    return None


def _opens(content: bytes) -> bool:
    try:
        with open_picture(io.BytesIO(content)):
            return True
    except UNREADABLE:
        return False


def _told(value: Any) -> str:
    text = repr(value)
    return str(printable(text if len(text) <= 60 else f"{text[:57]}..."))


def _with_paths(source: DataSource, dataset: Any, column: str) -> tuple[Any, list[str]]:
    """Write the paths of a local table as they are below its folder, whichever way they were written.

    Raises:
        UsageError: files are not there; the dataset is streamed.
    """
    if not hasattr(dataset, "add_column"):
        raise UsageError(f"{source.name} names files in {column!r}, which are not streamed; leave out --streaming.")
    root = source.path if source.path.is_dir() else source.path.parent
    values = [value.get("path") if isinstance(value, dict) else value for value in dataset[column][:]]
    first = next(value for value in values if value)
    below = next((f for f in ["", *_folders(root)] if _is_file(root / f, _relative(first, root))), "")
    paths = [None if not value else os.path.join(below, _relative(str(value), root)) for value in values]
    missing = [row for row, path in enumerate(paths) if path and not _is_outside(path) and not _is_file(root, path)]
    if missing:
        listed = ", ".join(f"{row_number(row)} ({printable(str(values[row])[-60:])})" for row in missing[:4])
        raise UsageError(
            f"{source.name}: {len(missing)} of {len(paths)} files in {column!r} are not there: {listed}"
            f"{' ...' if len(missing) > 4 else ''}.\nPaths are looked for from the table's folder, {root}."
        )
    note = [f"files of {column!r} are looked for in {below}/"] if below else []
    new = "_".join(["paths", *dataset.features])  # no column's name
    return dataset.add_column(new, paths).remove_columns(column).rename_column(new, column), note


def _folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in itertools.islice(os.scandir(root), 200) if entry.is_dir())


def _relative(path: str, root: Path) -> str:
    """Return a path from the table's folder: of one with backslashes, an absolute one, one with the folder's name."""
    path = path.strip()
    if "\\" in path and not _is_file(root, path):
        path = path.replace("\\", "/")
    if os.path.isabs(path):
        return os.path.relpath(path, root.absolute()) if Path(path).is_relative_to(root.absolute()) else path
    path = path.removeprefix("./")
    below = path.removeprefix(f"{root.absolute().name}/")
    return below if below != path and not _is_file(root, path) else path


def _is_file(root: Path, path: str) -> bool:
    return not _is_outside(path) and (root / path).is_file()


def _is_outside(path: str) -> bool:
    """Return whether a path may lead out of the folder, so that nothing is asked about it."""
    return os.path.isabs(path) or ".." in Path(path).parts or "://" in path


def class_columns_of(source: DataSource, dataset: Any) -> list[str]:
    """List the columns that name their classes.

    Raises:
        UsageError: the wanted column, of whatever type, does not exist.
    """
    import datasets

    refuse_unknown_column(source, dataset.features)
    return [name for name, feature in dataset.features.items() if isinstance(feature, datasets.ClassLabel)]


def refuse_unknown_column(source: DataSource, columns: Any) -> None:
    """Raise a UsageError if the wanted column of labels is not one of these."""
    wanted = source.label_column
    if wanted is not None and wanted not in columns:
        near = did_you_mean(wanted, columns)
        raise UsageError(f"{source.name} has no column {wanted!r}.{near} Columns: {', '.join(columns)}.")


def label_column_of(source: DataSource, dataset: Any) -> tuple[str | None, list[str]]:
    """Return the column to take the labels from, and notes for the user; None where nothing is called like one."""
    found = class_columns_of(source, dataset)
    if source.label_column is not None:
        return source.label_column, []
    named = {name.casefold(): name for name in reversed([*dataset.features])}
    column = next(iter([*found, *(named[name] for name in LABEL_COLUMNS if name in named)]), None)
    others = ", ".join(found[1:])
    return column, [f"classes are those of {column!r}, not of {others}: --label_column"] if others else []


def labels_of(
    source: DataSource, dataset: Any, row: Callable[[int], str] = row_number
) -> tuple[Classes | None, list[str], str | None]:
    """Return the classes of a dataset; notes; and why images have no class, where that is so.

    Raises:
        UsageError: the wanted column does not exist, or does not hold classes.
    """
    column, notes = label_column_of(source, dataset)
    if column is None:
        return None, notes, None
    feature = dataset.features[column]
    names = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
    classes, more, problem = classes_among(source, _values(dataset, column), names, column, row)
    return classes, [*notes, *more], problem


def classes_among(
    source: DataSource, values: Any, names: list[str] | None, column: str, row: Callable[[int], str] = row_number
) -> tuple[Classes | None, list[str], str | None]:
    """Return the classes of a column's values; notes; and why images have no class, where that is so.

    Raises:
        UsageError: the column was asked for, and does not hold classes.
    """
    try:
        classes = classes_of(values, names, column, row)
        if source.label_column is None and isinstance(values, list):
            _refuse_texts(classes, column, len(values))
    except UsageError as error:
        if source.label_column is not None:
            raise UsageError(f"{source.name}: {error}.") from error
        return None, [f"no classes: {error}"], str(error)
    missing = [classes.missing] if classes.missing else []
    return classes, [*classes.notes, *missing], classes.missing


def _values(dataset: Any, column: str) -> Any:
    """Return a column as an array where it is of whole numbers, else as a list."""
    import pyarrow

    values = dataset.select_columns([column]).with_format("arrow")[:][column]
    if pyarrow.types.is_integer(values.type) and not values.null_count:
        return np.asarray(values.to_numpy())
    return values.to_pylist()


def _refuse_texts(classes: Classes, column: str, count: int) -> None:
    """Refuse texts that nearly all differ, as captions do, in a column that only happens to be called `label`."""
    different = len(classes.names or ())
    if different > max(FEW, count // 2):
        raise UsageError(f"{column!r} holds {different} texts for {count} images; --label_column {column} takes them")
