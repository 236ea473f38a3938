"""What a training shows of itself on the way: sample grid, reconstructions, the family's own diagnosis."""

from pathlib import Path
from typing import Any

from torch import Tensor

from hfgen import grid
from hfgen.data import evenly_spaced
from hfgen.images import postprocess
from hfgen.objective import Batch
from hfgen.pipeline import HFGenPipeline, evaluating

EXAMPLES = 500  # training images of a diagnosis, as Burda et al. 2016 take for active units
COLUMNS = 8


def validate(pipeline: HFGenPipeline, examples: Batch, folder: Path, step: int, num_images: int) -> dict[str, Any]:
    """Draw the pictures of a step; return what the family's diagnosis found.

    Args:
        examples: always the same training images.
    """
    samples = folder / "samples"
    images = grid.draw(pipeline, range(num_images), **pipeline.validation_options)
    grid.save_image(grid.image_grid(images), samples / f"step_{step:06d}.png")
    with evaluating(pipeline.models().values()):
        if reconstructs(pipeline):
            grid.save_image(reconstruction_grid(pipeline, examples), samples / f"reconstructions_{step:06d}.png")
        values, warnings = pipeline.objective_class.diagnose(pipeline, examples)
    return {**values, **({"warnings": list(warnings)} if warnings else {})}


def reconstructs(pipeline: HFGenPipeline) -> bool:
    """Whether the family maps images to latents and back."""
    family = type(pipeline)
    return family.encode is not HFGenPipeline.encode and family.decode is not HFGenPipeline.decode


def reconstruction_grid(pipeline: HFGenPipeline, examples: Batch, rows: int = 4) -> Any:
    """Rows of training images, each above the row of their reconstructions."""
    count = min(rows * COLUMNS, len(examples["pixel_values"]))
    shown = list(evenly_spaced(len(examples["pixel_values"]), count))  # folders are sorted by class
    labels: Tensor | None = examples["class_labels"][shown] if "class_labels" in examples else None
    originals = examples["pixel_values"][shown]
    pairs = [postprocess(x) for x in (originals, pipeline.reconstruct(originals, class_labels=labels))]
    tiles = [tile for start in range(0, count, COLUMNS) for row in pairs for tile in row[start : start + COLUMNS]]
    return grid.image_grid(tiles, min(COLUMNS, count))
