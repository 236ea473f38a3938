"""Curves of a run's metrics."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HANDLED = {"step", "epoch", "learning_rate", "images_per_second", "seconds"}


def plot_losses(metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """All losses over the optimizer steps, one panel; other metrics in a second one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = sorted({name for line in metrics for name in line} - HANDLED)
    panels = [[n for n in names if n.endswith("_loss")], [n for n in names if not n.endswith("_loss")]]
    panels = [panel for panel in panels if panel]
    if not panels:
        return
    figure = Figure(figsize=(8, 3.2 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    for row, panel in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, row + 1)
        for name in panel:
            points = [(line["step"], line[name]) for line in metrics if name in line]
            axes.plot(*zip(*points, strict=True), label=name.removesuffix("_loss"), linewidth=1.2)
        axes.set_ylabel("loss" if panel[0].endswith("_loss") else "")
        axes.set_xlabel("optimizer step")
        axes.grid(alpha=0.3)
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
