"""Tables with a column for each pixel, or all pixels of an image as numbers in one text."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfgen.errors import UsageError, one_line

if TYPE_CHECKING:  # the commands that only print take a third longer with numpy
    import numpy as np

PIXEL = re.compile(r"(pixel|px|p|x)?[ _]?\d+(x\d+)?")  # names of columns: pixel0, 1x28, 783
LISTED = re.compile(r"\d{1,3}([ ,;]\d{1,3}){63,}")  # a text of pixels
LEAST = 64  # columns of pixels: images of 8x8


def side_of(values: int) -> tuple[int, ...] | None:
    """Return the shape that flattened images may have had: (28, 28) of 784, (32, 32, 3) of 3072.

    >>> side_of(784), side_of(3072), side_of(785)
    ((28, 28), (32, 32, 3), None)
    """
    for channels in (1, 3):
        side = round((values / channels) ** 0.5)
        if side >= 8 and side * side * channels == values:
            return (side, side) if channels == 1 else (side, side, channels)
    return None


def pixel_table(path: Path, delimiters: Sequence[str]) -> tuple[dict[str, list[Any]], list[str]] | None:
    """Read a text table whose columns are pixels: the other columns, `image`, and notes; None for another table.

    A first row of numbers alone names no columns: then the first column is `label`.

    Raises:
        UsageError: pixels are not whole numbers from 0 to 255.
    """
    with path.open("rb") as file:
        first = file.readline(1 << 20).decode("utf-8-sig", "replace")
    delimiter = max(delimiters, key=first.count)
    names = [name.strip().strip('"') for name in first.strip().split(delimiter)]
    is_headless = len(names) > LEAST and all(name.isdecimal() and int(name) < 256 for name in names[1:])
    if is_headless and len({*names}) < len(names):
        names = ["label", *(f"pixel{number}" for number in range(len(names) - 1))]
    else:
        is_headless = False
    pixels = pixel_names(names)
    if not pixels or len({*names}) < len(names):
        return None
    table = _read(path, names, delimiter, is_headless)
    try:
        pictures, note = pictures_of([table[name].to_numpy() for name in pixels])
    except ValueError as error:
        raise UsageError(f"{path.name}: the columns {pixels[0]} ... {pixels[-1]} {error}.") from error
    columns = {name: table[name].to_pylist() for name in names if name not in {*pixels}}
    return {"image": pictures, **columns}, [note]


def pixel_names(columns: Iterable[str]) -> list[str]:
    """Return the columns that are called like the pixels of square images; none where they are not as many."""
    pixels = [name for name in columns if PIXEL.fullmatch(name.casefold())]
    return pixels if len(pixels) >= LEAST and side_of(len(pixels)) else []


def pictures_of(columns: "Sequence[np.ndarray]") -> tuple[list[bytes], str]:
    """Return images from the columns of their pixels, and a line for the user.

    Raises:
        ValueError: pixels are not whole numbers from 0 to 255.
    """
    import numpy as np

    values, shape = np.stack(columns, axis=1), side_of(len(columns))
    if values.dtype.kind not in "iuf" or not np.array_equal(values, values.clip(0, 255).round()):
        raise ValueError("are not whole numbers from 0 to 255")
    assert shape is not None
    order = "rows of pixels" if len(shape) == 2 else "rows of pixels, the channels of each together"
    note = f"{len(columns)} columns are read as images of {shape[1]}x{shape[0]}, {order}"
    return [_netpbm(row.reshape(shape)) for row in values.astype(np.uint8)], note


def _read(path: Path, names: list[str], delimiter: str, is_headless: bool) -> Any:
    import pyarrow
    from pyarrow import csv

    try:
        return csv.read_csv(
            path,
            csv.ReadOptions(column_names=names, skip_rows=0 if is_headless else 1, block_size=1 << 24),
            csv.ParseOptions(delimiter=delimiter),
        )
    except pyarrow.ArrowInvalid as error:
        raise UsageError(f"{path.name} cannot be read: {one_line(error, 200)}") from error


def _netpbm(pixels: "np.ndarray") -> bytes:
    """Return gray or RGB pixels, uint8, as the file of an image, which costs nothing to make and to read."""
    height, width = pixels.shape[:2]
    return b"%s %d %d 255\n" % (b"P5" if pixels.ndim == 2 else b"P6", width, height) + pixels.tobytes()


def listed_pixels(text: str) -> bytes:
    """Return an image from its pixels as numbers in a text.

    Raises:
        ValueError: they are not whole numbers from 0 to 255, or too few or too many for a square.
    """
    import numpy as np

    return picture_of(np.array(re.split("[ ,;]+", text.strip()), np.int64))


def picture_of(values: Any) -> bytes:
    """Return an image from an array of pixels: (H, W), (H, W, C), (C, H, W), or flat and square; C is 1 or 3.

    Raises:
        ValueError: it has another shape, or values other than whole numbers from 0 to 255.
    """
    import numpy as np

    pixels = np.asarray(values)
    if pixels.ndim == 1 and (shape := side_of(len(pixels))) is not None:
        pixels = pixels.reshape(shape)
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3) and pixels.shape[2] not in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)) or 0 in pixels.shape:
        raise ValueError(f"its shape is {pixels.shape}")
    if pixels.dtype.kind not in "iu" or pixels.min() < 0 or pixels.max() > 255:
        raise ValueError("its pixels are not whole numbers from 0 to 255")
    return _netpbm(pixels.astype(np.uint8))
