"""Pictures of many images: a grid, and a latent walk."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from hfgen.pipeline import HFGenPipeline


def image_grid(images: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """Row by row, about as many rows as columns unless told; the last row is filled with black."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    width, height = images[0].size
    grid = Image.new(images[0].mode, (columns * width, rows * height))  # diffusers' make_image_grid is always RGB
    for index, image in enumerate(images):
        grid.paste(image, (index % columns * width, index // columns * height))
    return grid


def draw(
    pipeline: "HFGenPipeline",
    seeds: Sequence[int],
    class_labels: Sequence[int] | None = None,
    batch_size: int = 64,
    **options: Any,
) -> list[Image.Image]:
    """One PIL image per seed, drawn in batches; the batch size changes nothing but memory and speed.

    Args:
        options: what the pipeline's call takes beyond seeds and labels.
    """
    images: list[Image.Image] = []
    for start in range(0, len(seeds), batch_size):
        part = slice(start, start + batch_size)
        labels = None if class_labels is None else class_labels[part]
        images += pipeline(seeds=seeds[part], class_labels=labels, **options).images
    return images


def read_image(path: Path) -> Image.Image:
    """The picture, whole in memory, its file closed."""
    with Image.open(path) as image:
        image.load()
        return image.copy()


def save_image(image: Image.Image, path: Path) -> None:
    """Write under another name first, so that a half-written picture never bears the real one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    try:
        image.save(temporary, format=Image.registered_extensions().get(path.suffix.lower(), "PNG"))
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
