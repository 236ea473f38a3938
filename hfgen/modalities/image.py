"""Images as pipelines take and give them: checked tensors, pictures, grids, files."""

import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusers import ImagePipelineOutput
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch import Tensor

from hfgen.errors import UsageError, did_you_mean
from hfgen.modalities.formats import check_memory, on_white, open_picture


def check_images(images: Tensor, shape: Sequence[int]) -> None:
    """Raise a UsageError unless images are float, in [-1, 1] and (B, *shape); warn if they seem to be in [0, 1]."""
    if not isinstance(images, Tensor):
        raise UsageError(
            f"Images are a {type(images).__name__}; expected a tensor (B, C, H, W) of floats in [-1, 1], such as\n"
            "`load_images(name).tensor(range(8))` gives."
        )
    if tuple(images.shape[1:]) != tuple(shape) or images.ndim != len(shape) + 1:
        expected = ", ".join(map(str, shape))
        raise UsageError(f"Images of shape {tuple(images.shape)} were given; expected (B, {expected}).")
    if not images.is_floating_point():
        raise UsageError(f"Images are {images.dtype}; expected floats in [-1, 1]: x / 127.5 - 1 of bytes.")
    if not len(images):
        raise UsageError("No image was given; expected at least one.")
    low, high = images.aminmax()
    if not (low >= -1 and high <= 1):
        raise UsageError(
            f"Images lie in [{low:g}, {high:g}]; expected [-1, 1]: x / 127.5 - 1 of bytes, 2 x - 1 of [0, 1]."
        )
    if low == 0 and high > 0.5:
        warnings.warn(
            "All images lie in [0, 1]; expected [-1, 1]. If their range is [0, 1], give 2 x - 1.", stacklevel=4
        )


def postprocess(images: Tensor, output_type: str = "pil") -> Any:
    """Return images in [-1, 1], shape (B, C, H, W), as PIL, numpy or torch, rounded as by diffusers."""
    return VaeImageProcessor().postprocess(images.detach().float().clamp(-1, 1), output_type=output_type)


OUTPUT_TYPES = ("pil", "np", "pt")


def check_output_type(output_type: str | None) -> str:
    """Return the type in which images are returned; raise a UsageError for an unknown one."""
    if output_type is not None and output_type not in OUTPUT_TYPES:
        raise UsageError(f"output_type is {output_type!r}.{did_you_mean(str(output_type), OUTPUT_TYPES)}")
    return output_type or OUTPUT_TYPES[0]


def to_output(images: Tensor, output_type: str = "pil") -> ImagePipelineOutput:
    """Return images in [-1, 1], shape (B, C, H, W), as diffusers' output."""
    return ImagePipelineOutput(images=postprocess(images, output_type))


def image_grid(images: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """Arrange images row by row, by default in about as many rows as columns; the last row is filled with black."""
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    width, height = images[0].size
    grid = Image.new(images[0].mode, (columns * width, rows * height))  # diffusers' make_image_grid is always RGB
    for index, image in enumerate(images):
        grid.paste(image, (index % columns * width, index // columns * height))
    return grid


ROWS, COLUMNS = 4, 8  # of a sheet of reconstructions


def pairs_grid(originals: Tensor, others: Tensor) -> Image.Image:
    """Arrange rows of images, each above the row of its counterparts; both in [-1, 1], shape (B, C, H, W)."""
    pairs, count = [postprocess(originals), postprocess(others)], len(originals)
    tiles = [tile for start in range(0, count, COLUMNS) for row in pairs for tile in row[start : start + COLUMNS]]
    return image_grid(tiles, min(COLUMNS, count))


def read_image(path: Path) -> Image.Image:
    """Read an image of a known format into memory and close its file."""
    with open_picture(path) as image:
        check_memory(image)
        image.load()
        return image.copy()


def save_image(image: Image.Image, path: Path, **options: Any) -> None:
    """Write an image under another name, then rename it, so that no half-written file has the real name.

    Args:
        options: of pillow's `Image.save`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    kind = Image.registered_extensions().get(path.suffix.lower(), "PNG")
    if kind == "JPEG" and image.mode in ("RGBA", "LA"):  # which has no alpha
        image = on_white(image).convert("RGB")
    try:
        image.save(temporary, format=kind, **options)
        os.replace(temporary, path)
    except BaseException:  # a signal, too
        temporary.unlink(missing_ok=True)
        raise
