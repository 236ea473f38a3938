"""`PointModality`: points, rows of a table of numbers, such as users of flow libraries try first.

Two moons, or a `.csv` or `.npy` file of one's own. Stored and sampled they are the same: float32, (D,). As every
modality's, this module imports torch and numpy only when a method is called: listing it costs nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hfgen import Metric, Modality, UsageError

MOONS = "two-moons"
LEAST = 1e-3  # of the standard deviation, by which a point that is sampled again may be off on another machine


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

    def find(self, name: str, split: str, options: Mapping[str, Any], streaming: bool = False) -> Any:
        from hfgen_points.data import COUNTS, Points, read_table, two_moons

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
    ) -> Any:
        from hfgen import Batches
        from hfgen_points.data import PointSource

        by_class = bool(options["class_conditional"])
        return Batches(PointSource(facts, device), layout, options["seed"], device, by_class)

    def sample_shape(self, pipeline: Any) -> tuple[int, int]:
        return len(pipeline(seeds=[0])[0][0]), 1

    def shape_words(self, shape: tuple[int, int]) -> str:
        return f"{shape[0]} numbers"

    def output(self, samples: Any, pipeline: Any, output_type: str) -> Any:
        from hfgen_points.data import PointPipelineOutput

        return PointPipelineOutput(samples.cpu().numpy() if output_type == "np" else samples)

    # --- measuring ----------------------------------------------------------------------------------------------

    def possible_metrics(self, pipeline: Any, protocol: Any) -> Sequence[str]:
        return [*self.metrics]

    def reference(self, items: Any, pipeline: Any, protocol: Any, progress: Callable[[Any], Any] = iter) -> Any:
        from hfgen import Real, stored_sha256

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
    ) -> dict[str, Any]:
        from hfgen import Estimate
        from hfgen_points.data import energy_distance

        if "energy_distance" not in wanted:
            return {}
        drawn = self.draw_stored(pipeline, range(protocol.seed, protocol.seed + protocol.num_images), options)
        return {"energy_distance": Estimate(energy_distance(drawn, real.stored))}

    def draw_stored(self, pipeline: Any, seeds: Sequence[int], options: Mapping[str, Any]) -> Any:
        return pipeline(seeds=seeds, output_type="pt", **options).points.cpu()

    # --- files --------------------------------------------------------------------------------------------------

    def kind_of(self, output: str) -> str | None:
        return {".csv": "table", ".npy": "array", ".png": "scatter"}.get(Path(output).suffix.lower())

    def save_item(self, item: Any, path: Path) -> None:
        import numpy as np

        np.savetxt(path, item[None], delimiter=",", fmt="%.9g")

    def write_items(
        self,
        batches: Iterator[tuple[Sequence[int], Sequence[Any]]],
        kind: str,
        output: Path,
        seeds: Sequence[int],
        labels: Sequence[int] | None,
    ) -> int:
        import numpy as np

        from hfgen_points.data import scatter

        points = np.concatenate([np.stack(items) for _, items in batches])
        if kind == "scatter":
            scatter(points, output)
        elif kind == "array":
            np.save(output, points, allow_pickle=False)
        else:
            np.savetxt(output, points, delimiter=",", fmt="%.9g")  # all digits of a float32
        return len(points)

    def write_preview(self, items: Sequence[Any], seeds: Sequence[int], stem: Path) -> None:
        import numpy as np

        from hfgen_points.data import scatter

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
        import numpy as np

        kept = np.loadtxt(f"{stem}.txt", ndmin=2, dtype=np.float32)
        bound = LEAST * kept.std()
        off = [float(np.abs(kept[seed] - item).max()) for seed, item in zip(seeds, items, strict=True)]
        return [f"seed {seed} gives another point" for seed, far in zip(seeds, off, strict=True) if not far <= bound]
