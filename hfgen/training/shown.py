"""Pictures, curves and tables of a diagnosis: checked and bounded, for the run folder and the line of metrics."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from hfgen.errors import CheckError, HFGenError
from hfgen.modalities.image import save_image
from hfgen.objective import Diagnosis
from hfgen.run_folder import PICTURE_NAME
from hfgen.training.plots import plot_curve

MOST = 8  # pictures, and as many curves and tables
MOST_PIXELS = 1 << 22  # of a picture
MOST_POINTS = 500  # of a curve: they are in each line of metrics that holds a diagnosis
MOST_CELLS = 500  # of a table
MOST_LETTERS = 80  # of a cell
KINDS = ("warnings", "pictures", "curves", "tables")  # keys of a line's diagnosis beside its values
OTHERS = ("step", "samples", "reconstructions", "loss")  # pictures and plots of the training itself


def line_of(found: Diagnosis, objective: str) -> dict[str, Any]:
    """Return a diagnosis as a line of metrics holds it: values, warnings, curves, tables, and names of pictures.

    Args:
        objective: its name, for messages.

    Raises:
        HFGenError: something that cannot be shown, that is too large, or whose name is taken.
        CheckError: a point of a curve that is not a finite number.
    """
    lists = {name: value for name, value in found.values.items() if not _is_number(value)}
    _check_names(found, lists, objective)
    curves = {name: _curve(name, *points, objective) for name, points in found.curves.items()}
    tables = {name: _table(name, *parts, objective) for name, parts in found.tables.items()}
    values = {name: _plain(value) for name, value in found.values.items()}
    shown: dict[str, Any] = {"warnings": list(found.warnings), "pictures": sorted([*found.pictures, *curves])}
    shown |= {"curves": curves, "tables": tables}
    return {**values, **{kind: content for kind, content in shown.items() if content}}


def write_pictures(found: Diagnosis, samples: Path, step: int, objective: str) -> None:
    """Write each picture, and each curve as a plot, as `samples/NAME_STEP.png`; raises an HFGenError of a picture."""
    for name, picture in found.pictures.items():
        save_image(_picture(name, picture, objective), samples / f"{name}_{step:06d}.png")
    for name, (x, y) in found.curves.items():
        plot_curve(name, _numbers(x), _numbers(y), samples / f"{name}_{step:06d}.png")


def _check_names(found: Diagnosis, lists: Mapping[str, Any], objective: str) -> None:
    for kind in ("pictures", "curves", "tables"):
        if len(getattr(found, kind)) > MOST:
            raise HFGenError(f"{objective}.diagnose returned {len(getattr(found, kind))} {kind}; at most {MOST} fit.")
    for name in found.values:
        if name in KINDS:
            raise HFGenError(f"{objective}.diagnose returned a value called {name!r}, which is a field of its own.")
    seen = set(found.values) - set(lists)
    for name in [*lists, *found.pictures, *found.curves, *found.tables]:
        if not PICTURE_NAME.fullmatch(name):
            raise HFGenError(
                f"{objective}.diagnose shows {name!r}; such a name is a file's: at most 60 letters, digits, _ and -."
            )
        if name in seen or name in OTHERS:
            whose = "twice" if name in seen else "which is the training's own name for a picture"
            raise HFGenError(f"{objective}.diagnose shows {name!r} {whose}. Choose another name.")
        seen.add(name)


def _picture(name: str, picture: Any, objective: str) -> Image.Image:
    if isinstance(picture, Image.Image):
        made = picture if picture.mode in ("1", "L", "RGB") else picture.convert("RGB")
    else:
        made = Image.fromarray(_pixels(name, picture, objective))
    if made.width * made.height > MOST_PIXELS:
        raise HFGenError(
            f"{objective}.diagnose: the picture {name!r} has {made.width}x{made.height} pixels; "
            f"at most {MOST_PIXELS:,} are shown."
        )
    return made


def _pixels(name: str, picture: Any, objective: str) -> "np.ndarray[Any, Any]":
    """Return an array or a tensor (H, W) or (H, W, 3) as bytes."""
    if isinstance(picture, Tensor):
        picture = picture.detach().cpu()
        picture = picture.float() if picture.is_floating_point() else picture  # numpy has no bfloat16
    array = np.asarray(picture)
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or not array.size:
        raise HFGenError(
            f"{objective}.diagnose: the picture {name!r} has the shape {array.shape}; expected (H, W) or (H, W, 3)."
        )
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "fb" or not (array.min() >= 0 and array.max() <= 1):
        raise HFGenError(
            f"{objective}.diagnose: the picture {name!r} has {array.dtype} from {array.min()} to {array.max()}; "
            "expected bytes, or floats in [0, 1]."
        )
    return (array.astype(np.float64) * 255).round().astype(np.uint8)


def _curve(name: str, x: Any, y: Any, objective: str) -> dict[str, list[float]]:
    points = {"x": _numbers(x), "y": _numbers(y)}
    if len(points["x"]) != len(points["y"]) or not 1 <= len(points["x"]) <= MOST_POINTS:
        raise HFGenError(
            f"{objective}.diagnose: the curve {name!r} has {len(points['x'])} x and {len(points['y'])} y; expected as "
            f"many of both, at most {MOST_POINTS}."
        )
    if not all(map(math.isfinite, [*points["x"], *points["y"]])):
        raise CheckError(f"{objective}.diagnose: the curve {name!r} has a point that is not a finite number.")
    return points


def _table(name: str, columns: Sequence[Any], rows: Sequence[Sequence[Any]], objective: str) -> dict[str, list[Any]]:
    if not columns or any(len(row) != len(columns) for row in rows) or len(columns) * (len(rows) + 1) > MOST_CELLS:
        raise HFGenError(
            f"{objective}.diagnose: the table {name!r} must have rows as long as its {len(columns)} columns, and at "
            f"most {MOST_CELLS} cells."
        )
    return {"columns": [str(c)[:MOST_LETTERS] for c in columns], "rows": [[_cell(cell) for cell in r] for r in rows]}


def _cell(cell: Any) -> Any:
    cell = _plain(cell)
    finite = isinstance(cell, bool | int) or (isinstance(cell, float) and math.isfinite(cell))
    return cell if finite else str(cell)[:MOST_LETTERS]


def _numbers(values: Any) -> list[float]:
    return [float(value) for value in (values.tolist() if hasattr(values, "tolist") else values)]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) or (hasattr(value, "ndim") and value.ndim == 0)


def _plain(value: Any) -> Any:
    """Return a tensor's or an array's numbers as Python's own."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
