"""Quality against sampling time: a point for each result, a line through one model in several numbers of steps."""

import io
from collections.abc import Sequence
from typing import Any

from hfgen.errors import UsageError
from hfgen.results.comparison import STEPS, Comparison, letter
from hfgen.results.rows import ERRORS, Row

WIDE = 8  # largest by smallest value from which an axis is logarithmic
AXES = ("fid", "seconds_per_image")
MARKERS = "osD^vP*Xdp"


def image(c: Comparison, kind: str) -> bytes:
    """The plot as a file of this kind, `png` or `svg`.

    Raises:
        UsageError: no result has both a FID and a time.
    """
    if not plottable(c):
        raise UsageError(
            "There is nothing to plot: no result has both a FID and seconds per image. Measure them, with\n"
            "`hfgen evaluate TARGET --metrics fid,seconds_per_image`, or write a table: --output FILE.md or .html."
        )
    file = io.BytesIO()
    figure(c).savefig(file, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else None)
    return file.getvalue()


def plottable(c: Comparison) -> list[Row]:
    return [row for row in c.rows if set(AXES) <= set(row.values)]


def figure(c: Comparison) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(drawn)
    axes = drawn.add_subplot()
    rows = plottable(c)
    lines = [_draw(axes, i, _text(label), points) for i, (label, points) in enumerate(_lines(c, rows))]
    times, values = ([row.values[name]["value"] for row in rows] for name in reversed(AXES))
    if "fid" in c.floor:
        floor = c.floor["fid"]["value"]
        lines.append(axes.axhline(floor, color="0.4", linestyle="--", linewidth=1, label="real images (the floor)"))
        values.append(floor)
    _scale(axes, "x", times)
    _scale(axes, "y", values)
    axes.set_xlabel(_of_time(c, rows))
    axes.set_ylabel(_of_quality(c))
    axes.grid(alpha=0.3, which="both")
    axes.margins(0.12)
    drawn.legend(handles=lines, loc="outside upper center", ncols=2, fontsize="small")
    return drawn


def _of_time(c: Comparison, rows: Sequence[Row]) -> str:
    numbers = "; beside the points: steps" if any(_number_of_steps(row) is not None for row in rows) else ""
    several = " on different hardware, which does not compare" if len(c.hardware) > 1 else ""
    return f"seconds per image{several}{numbers}"


def _of_quality(c: Comparison) -> str:
    of = f" ({_text(c.extractor['name'])}, n={c.protocol['num_images']:,})" if c.extractor else ""
    return f"FID{of}, +- {ERRORS} errors"


def _lines(c: Comparison, rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """(label, points): those of one model that differ in the number of steps alone, and of one machine."""
    lines: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        lines.setdefault((row.result.key, _sampler_but_steps(row), row.hardware), []).append(row)
    models = [model for model, _, _ in lines]
    found = []
    for (model, sampler, hardware), points in lines.items():
        words = [points[0].name, *([sampler] if models.count(model) > 1 else [])]
        on = f" ({letter(hardware)})" if len(c.hardware) > 1 else ""
        found.append((", ".join(words) + on, sorted(points, key=_steps)))
    return found


def _number_of_steps(row: Row) -> Any:
    return row.result.sampler["options"].get(STEPS)


def _sampler_but_steps(row: Row) -> str:
    return ", ".join(word for word in row.sampler.split(", ") if word != f"{_number_of_steps(row)} steps")


def _steps(row: Row) -> float:
    return float(row.values.get("network_evaluations", row.values["seconds_per_image"])["value"])


def _draw(axes: Any, i: int, label: str, points: Sequence[Row]) -> Any:
    """The i-th line; its numbers of steps stand above it or below, where the next line's do not."""
    x, y = ([row.values[name]["value"] for row in points] for name in reversed(AXES))
    errors = [ERRORS * row.values["fid"].get("error", 0) for row in points]
    look = {"color": f"C{i % 10}", "marker": MARKERS[i % len(MARKERS)], "markersize": 6, "linewidth": 1.2}
    drawn = axes.errorbar(x, y, errors, label=label, capsize=3, **look)
    place = {"xytext": (0, 9 if i % 2 else -9), "textcoords": "offset points", "ha": "center"}
    for row, *at in zip(points, x, y, strict=True):
        if (steps := _number_of_steps(row)) is not None:
            up = "bottom" if i % 2 else "top"
            axes.annotate(_text(str(steps)), at, va=up, fontsize="small", color=look["color"], **place)
    return drawn


def _scale(axes: Any, which: str, values: Sequence[float]) -> None:
    """Logarithmic where the values are far apart, but in plain numbers."""
    if min(values) > 0 and max(values) > WIDE * min(values):
        getattr(axes, f"set_{which}scale")("log", nonpositive="clip")
        getattr(axes, f"{which}axis").set_major_formatter("{x:g}")


def _text(words: str) -> str:
    """Escape a label: matplotlib reads `$` as mathematics, and hides a label that starts with an underscore."""
    return words.replace("$", r"\$") if not words.startswith("_") else f" {words}".replace("$", r"\$")
