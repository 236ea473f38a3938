"""The column of a table that holds the labels, and its classes."""

from collections.abc import Callable
from typing import Any

import numpy as np

from hfgen.data.labels import Classes, classes_of, row_number
from hfgen.data.sources import DataSource
from hfgen.data.splits import SPLIT_COLUMNS
from hfgen.errors import UsageError, did_you_mean

LABEL_COLUMNS = ("label", "labels", "class", "class_label", "class_name", "category", "target", "cls", "y")
SHOWN = 8  # columns in a note
FEW = 16  # texts that are classes even if all of them differ


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


def _unused(dataset: Any, image: str) -> list[str]:
    """Return a line on the columns of a table that nothing reads, where it has no column of labels."""
    import datasets

    plain = [n for n, feature in dataset.features.items() if n != image and not isinstance(feature, datasets.Image)]
    unused = [
        name
        for name in plain
        if name.casefold().replace(" ", "_") not in SPLIT_COLUMNS and not name.startswith("__index")
    ]
    if not unused:
        return []
    named = ", ".join(unused[:SHOWN]) + (" ..." if len(unused) > SHOWN else "")
    return [f"no classes: no column is called like labels; --label_column takes one of {named}"]


def labels_of(
    source: DataSource, dataset: Any, row: Callable[[int], str] = row_number, image: str = ""
) -> tuple[Classes | None, list[str], str | None]:
    """Return the classes of a dataset; notes; and why images have no class, where that is so.

    Args:
        image: the column of the images.

    Raises:
        UsageError: the wanted column does not exist, or does not hold classes.
    """
    column, notes = label_column_of(source, dataset)
    if column is None:
        return None, _unused(dataset, image), None
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
