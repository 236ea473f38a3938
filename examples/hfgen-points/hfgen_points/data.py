"""Points as data: two moons, tables of one's own, batches, the distance of two sets, and a picture."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from hfgen import Items, UsageError

COUNTS, NOISE = {"train": 10_000, "test": 2_000}, 0.05


@dataclass
class PointPipelineOutput(BaseOutput):
    """Points that a pipeline sampled: float32, (B, D), as an array or a tensor."""

    points: Any


@dataclass(frozen=True, kw_only=True)
class Points(Items):
    """The rows of a table of numbers.

    Attributes:
        values: float32, (N, D), of the whole dataset.
    """

    noun = ("point", "points")

    values: Tensor

    def stored(self) -> Tensor:
        """Return the points of this part of the dataset, (N, D)."""
        return self.values if self.rows is None else self.values[torch.from_numpy(self.rows)]

    def words(self, options: Mapping[str, Any]) -> str:
        return f"{self.values.shape[1]} numbers each"

    def info(self) -> dict[str, Any]:
        return {"numbers": self.values.shape[1]}

    def recorded(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return {"numbers": self.values.shape[1]}


def two_moons(split: str) -> tuple[Tensor, Tensor]:
    """Return points and the moon of each: half circles, the second turned and moved, with Gaussian noise of 0.05."""
    generator = torch.Generator().manual_seed([*COUNTS].index(split))
    angles = torch.rand(COUNTS[split], generator=generator) * math.pi
    moon = torch.arange(COUNTS[split]) % 2
    x = torch.where(moon == 0, angles.cos(), 1 - angles.cos())
    y = torch.where(moon == 0, angles.sin(), 0.5 - angles.sin())
    return torch.stack([x, y], 1) + NOISE * torch.randn(COUNTS[split], 2, generator=generator), moon


def read_table(path: Path) -> Tensor:
    """Read a `.npy` array (N, D), or a `.csv` file with or without a line of names.

    Raises:
        UsageError: it holds something other than finite numbers.
    """
    try:
        if path.suffix.lower() == ".npy":
            rows = np.load(path, allow_pickle=False)
        else:
            with path.open(encoding="utf-8") as file:
                named = any(not _is_number(word) for word in file.readline().split(","))
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # numpy's of a file without numbers
                rows = np.loadtxt(path, delimiter=",", skiprows=int(named), ndmin=2)
    except (OSError, ValueError, UserWarning) as error:
        raise UsageError(f"{path} cannot be read as a table of numbers: {error}") from error
    if rows.ndim != 2 or rows.dtype.kind not in "fiu" or not np.isfinite(rows).all():
        raise UsageError(f"{path} holds {rows.dtype} of shape {rows.shape}; expected finite numbers, (N, D).")
    return torch.from_numpy(rows.astype(np.float32))


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


class PointSource:
    """The points of a training, in memory (`hfgen.Batches`)."""

    in_memory = True

    def __init__(self, facts: Points, device: Any) -> None:
        self.facts, self.labels, self.values = facts, facts.labels, facts.stored().to(device)

    def __len__(self) -> int:
        return len(self.facts)

    def fetch(self, indices: Tensor, epoch: int | None) -> Tensor:
        return self.values[indices]

    def finish(self, stored: Tensor) -> dict[str, Tensor]:
        return {"point_values": stored}


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| of points (N, D) and (M, D) (Székely & Rizzo 2013), by the V-statistic."""
    x, y = x.double(), y.double()
    between, of_x, of_y = (torch.cdist(a, b).mean() for a, b in ((x, y), (x, x), (y, y)))
    return float(2 * between - of_x - of_y)


def scatter(points: Any, path: Path) -> None:
    """Draw the first two coordinates of points (N, D); a single one over its number."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), dpi=100)
    FigureCanvasAgg(figure)
    x, y = (points[:, 0], points[:, 1]) if points.shape[1] > 1 else (np.arange(len(points)), points[:, 0])
    figure.subplots().scatter(x, y, s=6)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
