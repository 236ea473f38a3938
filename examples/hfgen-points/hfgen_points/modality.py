"""Points: a modality of its own, rows of a table of numbers, such as users of flow libraries try first.

Two moons, or a `.csv` or `.npy` file of one's own. Stored and sampled they are the same: float32, (D,).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from torch import Tensor

from hfgen import Batches, Estimate, Items, Metric, Modality, Real, UsageError, stored_sha256

MOONS, COUNTS, NOISE = "two-moons", {"train": 10_000, "test": 2_000}, 0.05
LEAST = 1e-3  # of the standard deviation, by which a point that is sampled again may be off on another machine


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
            first = path.open(encoding="utf-8").readline().split(",")
            named = any(not _is_number(word) for word in first)
            rows = np.loadtxt(path, delimiter=",", skiprows=int(named), ndmin=2)
    except (OSError, ValueError) as error:
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


class PointModality(Modality):
    """Points: `build` takes the number of their coordinates as `sample_size`, and 1 as `in_channels`."""

    noun = ("point", "points")
    batch_key = "point_values"
    output_types = ("np", "pt")
    item_suffix = ".csv"
    sample_file = "points.csv"
    tags = ("point-generation",)
    metrics = {
        "energy_distance": Metric("energy distance", "lower", "of sampled and real points; 0 of equal laws", "samples")
    }
    built_in = {MOONS: "10,000 training and 2,000 test points of two half circles, 2 numbers, 2 classes"}

    def find(self, name: str, split: str, options: Mapping[str, Any], streaming: bool = False) -> Points:
        path = Path(name).expanduser()
        if streaming:
            raise UsageError(f"{name}: points are read whole; leave out --streaming.")
        if name == MOONS and split in COUNTS:
            values, moon = two_moons(split)
            classes: dict[str, Any] = {"labels": moon, "label_names": ["upper", "lower"]}
            return Points(name=name, count=len(values), values=values, splits=[*COUNTS], **classes)
        if path.suffix.lower() not in (".csv", ".npy") or not path.is_file():
            raise UsageError(f"{name}, split {split}: points are {MOONS} (train, test), or a .csv or .npy file.")
        if split != "train":
            raise UsageError(
                f"{name} is one table, which has the split 'train' alone; hold out --validation_fraction."
            )
        values = read_table(path)
        return Points(name=name, count=len(values), values=values, splits=["train"])

    def shape(self, facts: Any, options: Mapping[str, Any], components: Mapping[str, Any]) -> tuple[int, int]:
        return facts.values.shape[1], 1

    def batches(
        self,
        facts: Any,
        layout: Any,
        options: Mapping[str, Any],
        pipeline: Any,
        device: Any,
        note: Callable[[str], Any],
        progress: Callable[[Any], Any] = iter,
    ) -> Batches:
        by_class = bool(options["class_conditional"])
        return Batches(PointSource(facts, device), layout, options["seed"], device, by_class)

    def sample_shape(self, pipeline: Any) -> tuple[int, int]:
        return len(pipeline(seeds=[0])[0][0]), 1

    def shape_words(self, shape: tuple[int, int]) -> str:
        return f"{shape[0]} numbers"

    def output(self, samples: Any, pipeline: Any, output_type: str) -> PointPipelineOutput:
        return PointPipelineOutput(samples.cpu().numpy() if output_type == "np" else samples)

    # --- measuring ----------------------------------------------------------------------------------------------

    def possible_metrics(self, pipeline: Any, protocol: Any) -> Sequence[str]:
        return [*self.metrics]

    def reference(self, items: Any, pipeline: Any, protocol: Any, progress: Callable[[Any], Any] = iter) -> Real:
        stored = items.stored()
        return Real(items, stored, stored_sha256(stored))

    def measure(
        self,
        pipeline: Any,
        real: Any,
        protocol: Any,
        wanted: Sequence[str],
        *,
        options: Mapping[str, Any],
        partial: Path | None = None,
        identity: str = "",
        alone: bool = False,
        bars: Callable[[str], Callable[[Any], Any]],
    ) -> dict[str, Estimate]:
        if "energy_distance" not in wanted:
            return {}
        drawn = self.draw_stored(pipeline, range(protocol.seed, protocol.seed + protocol.num_images), options)
        return {"energy_distance": Estimate(energy_distance(drawn, real.stored))}

    def draw_stored(self, pipeline: Any, seeds: Sequence[int], options: Mapping[str, Any]) -> Tensor:
        return pipeline(seeds=seeds, output_type="pt", **options).points.cpu()

    # --- files --------------------------------------------------------------------------------------------------

    def kind_of(self, output: str) -> str | None:
        return {".csv": "table", ".npy": "array", ".png": "scatter"}.get(Path(output).suffix.lower())

    def save_item(self, item: Any, path: Path) -> None:
        np.savetxt(path, item[None], delimiter=",", fmt="%.9g")

    def write_items(
        self,
        batches: Iterator[tuple[Sequence[int], Sequence[Any]]],
        kind: str,
        output: Path,
        seeds: Sequence[int],
        labels: Sequence[int] | None,
    ) -> int:
        points = np.concatenate([np.stack(items) for _, items in batches])
        if kind == "scatter":
            scatter(points, output)
        elif kind == "array":
            np.save(output, points, allow_pickle=False)
        else:
            np.savetxt(output, points, delimiter=",", fmt="%.9g")  # all digits of a float32
        return len(points)

    def write_preview(self, items: Sequence[Any], seeds: Sequence[int], stem: Path) -> None:
        stem.parent.mkdir(parents=True, exist_ok=True)
        points = np.stack(items)
        np.savetxt(f"{stem}.txt", points, fmt="%.9g")
        scatter(points, Path(f"{stem}.png"))

    def previews(self, stem: Path) -> dict[str, Any]:
        from PIL import Image

        path = Path(f"{stem}.png")
        return {"image": Image.open(path).convert("RGB")} if path.is_file() else {}

    def card_block(self, count: int, data: Mapping[str, Any], folder: Path, stem: str) -> str:
        return f"![{count} samples]({stem}.png)"

    def card_shape(self, data: Mapping[str, Any]) -> str:
        return f"{data['numbers']} numbers"

    def different(self, items: Sequence[Any], seeds: Sequence[int], count: int, stem: Path) -> list[str]:
        kept = np.loadtxt(f"{stem}.txt", ndmin=2, dtype=np.float32)
        bound = LEAST * kept.std()
        off = [float(np.abs(kept[seed] - item).max()) for seed, item in zip(seeds, items, strict=True)]
        return [f"seed {seed} gives another point" for seed, far in zip(seeds, off, strict=True) if not far <= bound]


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
