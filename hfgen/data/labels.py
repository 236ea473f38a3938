"""Labels of images, as data have them, become classes 0, 1, 2 ... with names."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hfgen.errors import UsageError
from hfgen.files import printable

NO_CLASS = -1  # of an image without a label
MISSING = {"", "nan", "<na>"}  # texts by which tables say that a value is missing
WHOLE = re.compile(r"[+-]?\d+(?:\.0*|,00?)?", re.ASCII)  # a number as text; some languages write 1,0
SHOWN = 8  # classes or rows of a note

Value = int | str | None


@dataclass(frozen=True)
class Classes:
    """Classes of images.

    Attributes:
        labels: shape (N,), int64; -1 for an image without a label.
        names: name of each class; None where the data's own numbers 0, 1, 2 ... are the classes.
        notes: lines for the user, about how values were mapped.
        missing: which images have no label, in words; None where all have one.
    """

    labels: Tensor
    names: list[str] | None = None
    notes: list[str] = field(default_factory=list)
    missing: str | None = None


def row_number(index: int) -> str:
    return f"row {index}"


def classes_of(
    values: Sequence[Any] | np.ndarray,
    declared: Sequence[str] | None = None,
    column: str = "label",
    row: Callable[[int], str] = row_number,
) -> Classes:
    """Map the values of a column to classes.

    Whole numbers 0 to n - 1 that all occur are classes as they are. Other whole numbers become classes in their order,
    as do False and True; words in natural order, with 2 before 10. One-hot rows have the class of their 1. An empty
    value, NaN or None means that an image has no label; so does -1, unless -1 and 1 are the only values.

    Args:
        declared: names of all classes, if the data give them; the values are then their numbers, or these names.
        column: name of the column, for messages.
        row: names a row by its index, for messages.

    Raises:
        UsageError: the values are not classes, one for each image; a sentence without its end, to be written after
            the name of the data.
    """
    values, length = _one_each(values, column, row)
    ordered, indices = _sorted_values(values, column, row)
    if declared is not None:
        labels, names, notes = _among_declared(ordered, indices, _clean(declared), column, row)
    elif length is not None:
        labels, _, notes = _among_declared(ordered, indices, [*map(str, range(length))], column, row)
        names = None
    else:
        labels, names, notes = _numbered(ordered, indices, column)
    without = np.flatnonzero(labels == NO_CLASS)
    if len(without) == len(labels):
        raise UsageError(f"no row has a label in {column!r}")
    missing = _without_label(without, len(labels), column, row) if len(without) else None
    return Classes(torch.from_numpy(labels), names, notes, missing)


def natural(text: str) -> tuple[list[Any], str]:
    """Return the key by which a person sorts names.

    >>> sorted(["img10", "Img2", "img1"], key=natural)
    ['img1', 'Img2', 'img10']
    """
    parts = re.split(r"([0-9]+)", text.casefold())
    return [int(part) if number % 2 else part for number, part in enumerate(parts)], text


def _without_label(indices: np.ndarray, count: int, column: str, row: Callable[[int], str]) -> str:
    first = ", ".join(row(int(index)) for index in indices[:SHOWN])
    more = " ..." if len(indices) > SHOWN else ""
    return f"{len(indices)} of {count} images have no label in {column!r}: {first}{more}"


def _one_each(
    values: Sequence[Any] | np.ndarray, column: str, row: Callable[[int], str]
) -> tuple[Sequence[Any] | np.ndarray, int | None]:
    """Return one value for each image; of one-hot rows the place of the 1, and their length."""
    if isinstance(values, np.ndarray):
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if values.ndim == 1:
            return values, None
        values = values.tolist()
    lists = [v for v in values if isinstance(v, list | tuple | np.ndarray)]
    if not lists:
        return values, None
    rows = [list(v) if isinstance(v, list | tuple | np.ndarray) else [] if v is None else [v] for v in values]
    lengths = {len(entries) for entries in rows if entries}
    one_hot = len(lengths) == 1 and max(lengths) > 1 and all(_is_binary(entries) for entries in rows)
    several = [i for i, r in enumerate(rows) if (sum(map(int, r)) if one_hot else len(r)) > 1]
    if several:
        raise UsageError(
            f"{column!r} holds several labels for {len(several)} of {len(rows)} images, first for {row(several[0])}: "
            f"{_told(rows[several[0]])}; one class for each image is needed"
        )
    if not one_hot:
        return [entries[0] if entries else None for entries in rows], None
    return [[*map(int, entries)].index(1) if any(entries) else None for entries in rows], max(lengths)


def _is_binary(entries: Sequence[Any]) -> bool:
    return all(isinstance(entry, bool | int | float | np.number | np.bool_) and entry in (0, 1) for entry in entries)


def _sorted_values(
    values: Sequence[Any] | np.ndarray, column: str, row: Callable[[int], str]
) -> tuple[list[Any], np.ndarray]:
    """Return the different values in their order, and the place of each row's value among them; -1 for none."""
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
        found, indices = np.unique(values, return_inverse=True)
        return found.tolist(), indices.astype(np.int64)
    plain: list[Any] = [_plain(value, column, index, row) for index, value in enumerate(values)]
    kinds = {type(value) for value in plain if value is not None}
    different: list[Any]
    if str in kinds:
        plain, key = _texts(plain)
        different = sorted({*plain} - {None}, key=key)
    else:
        different = sorted({value for value in plain if value is not None})
    places = {value: place for place, value in enumerate(different)}
    return different, np.array([NO_CLASS if value is None else places[value] for value in plain], np.int64)


def _texts(values: Sequence[Any]) -> tuple[list[Any], Callable[[Any], Any]]:
    """Return values as texts, and the key of their order; numbers with a fraction of zero as whole ones."""
    texts = {str(value) for value in values if value is not None}
    if not all(WHOLE.fullmatch(text) for text in texts):
        return [None if value is None else str(value) for value in values], natural
    if any(not text.lstrip("+-").isdecimal() for text in texts):
        return [None if value is None else str(_whole(str(value))) for value in values], int
    return [None if value is None else str(value) for value in values], _by_number


def _by_number(text: str) -> tuple[int, str]:
    return int(text), text


def _plain(value: Any, column: str, index: int, row: Callable[[int], str]) -> bool | int | str | None:
    """Return a value as Python's bool, int or text; None where it says that there is none."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or (isinstance(value, float | Decimal) and value != value):
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        text = _text(value)
        return None if text.casefold() in MISSING else text
    if isinstance(value, float | Decimal) and -1 << 63 < value < 1 << 63 and value == round(value):
        return int(value)
    if not isinstance(value, bool | int):
        what = "a number with a fraction" if isinstance(value, float | Decimal) else f"a {type(value).__name__}"
        raise UsageError(f"{column!r} holds {what}, which is not a class: {_told(value)} ({row(index)})")
    return value


def _text(value: str) -> str:
    """Return a name in one line and one of Unicode's forms, as a card and a terminal can show it."""
    return str(printable(" ".join(unicodedata.normalize("NFC", value).split())))


def _clean(names: Sequence[str]) -> list[str]:
    return [_text(str(name)) or str(number) for number, name in enumerate(names)]


def _whole(text: str) -> int:
    return int(re.split("[.,]", text)[0])


def _numbered(ordered: list[Any], indices: np.ndarray, column: str) -> tuple[np.ndarray, list[str] | None, list[str]]:
    """Number the values that occur: as they are if they are 0 to n - 1, else in their order."""
    numbers = [_number(value) for value in ordered]
    if numbers and numbers[0] == -1 and numbers != [-1, 1]:
        ordered, numbers, indices = ordered[1:], numbers[1:], indices - (indices >= 0)
    if numbers == [*range(len(ordered))] and not any(isinstance(value, str) for value in ordered[:1]):
        return indices, None, []
    names = [str(value) for value in ordered]
    notes = [] if names == [*map(str, range(len(names)))] else [f"classes of {column!r}: {table(names)}"]
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(name.casefold(), []).append(name)
    notes += [f"the classes {' and '.join(same)} differ only in case" for same in alike.values() if len(same) > 1]
    return indices, names, notes


def _number(value: Any) -> int | None:
    """Return a number, also of a text; None for words and booleans."""
    if isinstance(value, str):
        return _whole(value) if WHOLE.fullmatch(value) else None
    return None if isinstance(value, bool) else int(value)


def table(names: Sequence[str]) -> str:
    """List classes with their numbers, the first of many.

    >>> table(["cat", "dog"]), table(["-1", "1"])
    ('0 cat, 1 dog', '0 = -1, 1 = 1')
    """
    sign = " = " if any(name[:1].isdecimal() or name[:1] == "-" for name in names) else " "
    listed = ", ".join(f"{number}{sign}{name[:40]}" for number, name in enumerate(names[:SHOWN]))
    return f"{listed} ... {len(names) - 1}{sign}{names[-1][:40]}" if len(names) > SHOWN else listed


def _among_declared(
    ordered: list[Any], indices: np.ndarray, declared: list[str], column: str, row: Callable[[int], str]
) -> tuple[np.ndarray, list[str], list[str]]:
    """Number the values by the names that the data declare; classes without images stay, and are noted."""
    places = {name: number for number, name in enumerate(declared)}
    numbers = []
    for place, value in enumerate(ordered):
        number = places.get(value, NO_CLASS - 1) if isinstance(value, str) else int(value)
        if not NO_CLASS <= number < len(declared):
            where = row(int(np.flatnonzero(indices == place)[0]))
            raise UsageError(
                f"{column!r} declares {len(declared)} classes ({table(declared)}); {where} holds {_told(value)}"
            )
        numbers.append(number)
    labels = np.array([*numbers, NO_CLASS], np.int64)[indices]
    empty = [name for number, name in enumerate(declared) if number not in {*numbers}]
    noted = f"{len(empty)} of {len(declared)} declared classes have no image: {', '.join(empty[:SHOWN])}"
    return labels, declared, [noted + (" ..." if len(empty) > SHOWN else "")] if empty else []


def _told(value: Any) -> str:
    text = repr(value)
    return str(printable(text if len(text) <= 60 else f"{text[:57]}..."))
