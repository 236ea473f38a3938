"""Plots of a run's metrics: curves over its steps, and bars of the lists in its last diagnosis."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hfgen.run_folder import listed, scalars

MOST_IN_A_COLUMN = 3  # panels; more are in two columns
NO_CURVE = {"step", "epoch", "learning_rate", "seconds", "data_wait", "diagnosis"}


def plot_run(metrics: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """Write `loss.png`, and `<name>.png` for each list in the last diagnosis."""
    plot_curves(metrics, folder / "loss.png")
    for name, values in listed(metrics[-1]).items():
        plot_bars(name, values, folder / f"{name}.png")


def plot_curves(metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot losses, then other metrics, then each number of the diagnoses that changed, over the optimizer steps."""
    names = sorted({name for line in metrics for name in line if not name.endswith("_per_second")} - NO_CURVE)
    lines = [{**line, **{f"{name}, diagnosis": value for name, value in scalars(line).items()}} for line in metrics]
    found = sorted({name for line in lines for name in line if name.endswith(", diagnosis")})
    diagnosed = [name for name in found if len({line[name] for line in lines if name in line}) > 1]
    kinds = sorted({name.rpartition("_")[2] for name in names}, key=lambda kind: (kind != "loss", kind))
    alike = [[name for name in names if name.rpartition("_")[2] == kind] for kind in kinds]  # share an axis
    panels = [*alike, *([name] for name in diagnosed)]
    if not panels:
        return
    columns = 1 if len(panels) <= MOST_IN_A_COLUMN else 2
    rows = -(-len(panels) // columns)
    figure = _figure(3.2 * rows if columns == 1 else 2.4 * rows, 8 if columns == 1 else 12)
    for place, panel in enumerate(panels):
        axes = figure.add_subplot(rows, columns, place + 1)
        for name in panel:
            points = [(line["step"], line[name]) for line in lines if name in line]
            marker = "." if len(points) < 20 else None
            axes.plot(*zip(*points, strict=True), label=_label(name), linewidth=1.2, marker=marker)
        axes.set_ylabel("loss" if panel[0].endswith("loss") else "")
        axes.set_xlabel("optimizer step")
        axes.grid(alpha=0.3)
        axes.legend(loc="best")  # unsaid it is the same, with a warning if it took a second
    _save(figure, path)


def plot_bars(name: str, values: Sequence[float], path: Path) -> None:
    """Plot one bar for each number, in order."""
    figure = _figure(3.2)
    axes = figure.add_subplot()
    axes.bar(range(len(values)), values, width=0.8)
    axes.set_ylabel(_label(name))
    axes.set_xlabel(_counted_by(name))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3, axis="y")
    _save(figure, path)


def plot_curve(name: str, x: Sequence[float], y: Sequence[float], path: Path) -> None:
    """Plot the points of a curve, in their order."""
    figure = _figure(3.2)
    axes = figure.add_subplot()
    axes.plot(x, y, linewidth=1.2, marker="." if len(x) < 20 else None)
    axes.set_ylabel(_label(name))
    axes.grid(alpha=0.3)
    _save(figure, path)


def _counted_by(name: str) -> str:
    """Return what the numbers of a list are counted by.

    >>> _counted_by("kl_per_dimension"), _counted_by("norms")
    ('dimension', 'index')
    """
    return name.rpartition("_per_")[2].replace("_", " ") if "_per_" in name else "index"


def _label(name: str) -> str:
    return (name.removesuffix("_loss") or name).replace("_", " ")


def _figure(height: float, width: float = 8) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
