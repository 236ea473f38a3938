"""The column of a table that holds the images, in the forms in which people have them."""

import io
import mimetypes
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from hfgen.data.labels import row_number
from hfgen.data.listed_files import is_file, is_outside, listed_files
from hfgen.data.pixel_columns import picture_of, pictures_of, pixel_names
from hfgen.data.pixels import UNREADABLE
from hfgen.data.sources import DataSource
from hfgen.errors import UsageError, did_you_mean
from hfgen.files import printable
from hfgen.modalities.formats import open_picture

PIXELS = ("image", "images", "img", "pixels", "x", "data")  # columns in which flat lists of numbers are pixels
SHOWN = 20  # columns in a message


def shown(columns: Iterable[str]) -> str:
    """List columns, the first of many."""
    names = [*columns]
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def with_images(source: DataSource, dataset: Any) -> tuple[Any, str, list[str]]:
    """Return a dataset with a column of images, as `Records` opens them; that column; and notes.

    The column is the wanted one, or the only one of images: of the type `datasets.Image`, of the bytes of pictures as
    pandas and polars write them, of arrays of pixels, or, in a local table, of paths of files below its folder.

    Raises:
        UsageError: there is no such column, there are several, or files that it names are not there.
    """
    import datasets

    wanted, columns = source.image_column, shown(dataset.features)
    if wanted is not None and wanted not in dataset.features:
        near = did_you_mean(wanted, dataset.features)
        raise UsageError(f"{source.name}: {wanted!r} is not a column of images.{near} Columns: {columns}.")
    found = [name for name, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    if wanted in found or (wanted is None and len(found) == 1):
        return dataset, wanted or found[0], []
    if wanted is None and not found and (pixels := pixel_names(dataset.features)):
        return _of_pixels(source, dataset, pixels)
    if wanted is not None or not found:
        first = _first_rows(dataset)
        kinds = {name: kind for name in dataset.features if (kind := _kind(source, first, name, name == wanted))}
        found = [name for name in kinds if wanted in (None, name)]
    if wanted is not None and not found:
        what = _told(next((row[wanted] for row in first if row[wanted] is not None), None))
        raise UsageError(f"{source.name}: {wanted!r} is not a column of images; it holds {what}. Columns: {columns}.")
    if len(found) != 1:
        what = "no column of images" if not found else f"several columns of images ({', '.join(found)})"
        lists = "" if found else _several(dataset)
        raise UsageError(f"{source.name}: {what}. Columns: {columns}.{lists} Choose with --image_column.")
    column, notes = found[0], list[str]()
    if isinstance(dataset, datasets.IterableDataset):
        return _streamed(source, dataset, column, kinds[column]), column, notes
    if kinds[column] == "paths":
        dataset, notes = _with_paths(source, dataset, column)
    elif kinds[column] == "arrays":
        dataset = _with_arrays(source, dataset, column)
    return dataset, column, notes


def _several(dataset: Any) -> str:
    """Return a sentence on a column whose rows hold several pictures each."""
    rows = _first_rows(dataset)
    for name in rows[0] if rows else ():
        value = next((row[name] for row in rows if row[name]), None)
        entry = value[0] if isinstance(value, list) and value else None
        content = entry.get("bytes") if isinstance(entry, dict) else entry
        if isinstance(content, bytes) and _opens(content):
            return f" {name!r} holds lists of images: write one image a row."
    return ""


def _of_pixels(source: DataSource, dataset: Any, pixels: list[str]) -> tuple[Any, str, list[str]]:
    """Make images of a table with a column for each pixel."""
    import datasets

    if isinstance(dataset, datasets.IterableDataset):
        raise UsageError(f"{source.name} has a column for each pixel, which is not streamed; leave out --streaming.")
    table = dataset.with_format("arrow")[:]
    try:
        pictures, note = pictures_of([table[name].to_numpy() for name in pixels])
    except ValueError as error:
        raise UsageError(f"{source.name}: the columns {pixels[0]} ... {pixels[-1]} {error}.") from error
    name = "image" if "image" not in dataset.features else "_image"
    return dataset.remove_columns(pixels).add_column(name, pictures), name, [note]


def _streamed(source: DataSource, dataset: Any, column: str, kind: str) -> Any:
    """Give the column of a stream the type of images.

    Raises:
        UsageError: it holds paths or arrays, or bytes as `datasets` does not convert them in a stream.
    """
    import datasets

    if kind == "bytes" and "view" in str(getattr(dataset.features[column], "dtype", "")):
        kind = "bytes in a form"  # of newer versions of arrow, which `datasets` does not convert in a stream
    if kind != "bytes":
        raise UsageError(f"{source.name} holds {kind} in {column!r}, which are not streamed; leave out --streaming.")
    return dataset.cast_column(column, datasets.Image(decode=False))


def _first_rows(dataset: Any) -> list[dict[str, Any]]:
    table = next(iter(dataset.with_format("arrow").iter(batch_size=8)), None)
    return [] if table is None else table.to_pylist()


def _kind(source: DataSource, rows: list[dict[str, Any]], column: str, is_wanted: bool) -> str | None:
    """Return `bytes`, `paths` or `arrays` for a column that holds pictures so, by its first value; else None."""
    value = next((row[column] for row in rows if row[column] is not None), None)
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return "bytes" if is_wanted or _opens(value) else None
    if isinstance(value, str | int) and source.path.exists() and not isinstance(value, bool):
        guessed, _ = mimetypes.guess_type(str(value).replace("\\", "/"))
        is_path = (
            (is_wanted and isinstance(value, str))
            or (guessed or "").startswith("image/")
            or _name_files(source, rows, column)
        )
        return "paths" if is_path else None
    if isinstance(value, list) and (is_wanted or column.casefold() in PIXELS or isinstance((value or [0])[0], list)):
        with suppress(ValueError):
            return "arrays" if picture_of(value) else None
    return None


def _name_files(source: DataSource, rows: list[dict[str, Any]], column: str) -> bool:
    """Return whether the values of a local table are names of images near it, without their endings."""
    if not source.path.is_file() or (
        "name" not in column.casefold() and not re.search(r"(?i)id|image|img|file", column)
    ):
        return False
    values = [str(row[column]) for row in rows if row[column] is not None]
    paths, _ = listed_files(values, source.path.parent, source.path.stem)
    return all(path is not None and is_file(source.path.parent, path) for path in paths)


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
        UsageError: files are not there.
    """
    root = source.path if source.path.is_dir() else source.path.parent
    stem = "" if source.path.is_dir() else source.path.stem
    values = [value.get("path") if isinstance(value, dict) else value for value in dataset[column][:]]
    paths, note = listed_files([None if value in (None, "") else str(value) for value in values], root, stem)
    missing = [row for row, path in enumerate(paths) if path and not is_outside(path) and not is_file(root, path)]
    if missing:
        listed = ", ".join(f"{row_number(row)} ({printable(str(values[row])[-60:])})" for row in missing[:4])
        raise UsageError(
            f"{source.name}: {len(missing)} of {len(paths)} files in {column!r} are not there: {listed}"
            f"{' ...' if len(missing) > 4 else ''}.\nPaths are looked for from the table's folder, {root}."
        )
    return _replaced(dataset, column, paths), [f"files of {column!r} are looked for {note}"] if note else []


def _with_arrays(source: DataSource, dataset: Any, column: str) -> Any:
    """Write arrays of pixels as files of images.

    Raises:
        UsageError: one is not of whole numbers from 0 to 255, or of another shape than an image.
    """
    pictures: list[bytes | None] = []
    for batch in dataset.select_columns([column]).with_format("arrow").iter(batch_size=1000):
        for value in batch[column].to_pylist():
            try:
                pictures.append(None if value is None else picture_of(value))
            except ValueError as error:
                where = row_number(len(pictures))
                raise UsageError(f"{source.name}: {column!r} holds no image in {where}: {error}.") from error
    return _replaced(dataset, column, pictures)


def _replaced(dataset: Any, column: str, values: list[Any]) -> Any:
    new = "_".join(["new", *dataset.features])  # no column's name
    return dataset.add_column(new, values).remove_columns(column).rename_column(new, column)
