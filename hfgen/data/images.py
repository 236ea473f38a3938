"""Images of a dataset that was found: their facts, and their pixels when they are needed."""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hfgen.data.facts import Facts, Items, Options
from hfgen.data.pixels import CHANNELS, SIXTEEN_BITS, naming, to_pixels
from hfgen.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ImageFacts(Facts):
    """Facts of images that were found and inspected, but not decoded.

    Attributes:
        mode: the PIL mode that fits every image seen: L, RGB or RGBA.
        sizes: (width, height) -> the number of images seen of that size.
        value_range: the values of images of more than 8 bits that stand for black and white; None where all have 8.
    """

    noun = ("image", "images")

    mode: str
    sizes: Counter[tuple[int, int]]
    value_range: tuple[float, float] | None = None

    @property
    def channels(self) -> int:
        return CHANNELS[self.mode]

    def words(self, options: Options) -> str:
        side = options.get("resolution") or self.resolution()
        return f"{self.mode}, {side}x{side}"

    def info(self) -> dict[str, Any]:
        sizes = {f"{w}x{h}": count for (w, h), count in self.sizes.most_common(5)}
        return {"mode": self.mode, "channels": self.channels, "commonest_sizes": sizes}

    def recorded(self, options: Options) -> dict[str, Any]:
        limits = {"value_range": list(self.value_range)} if self.value_range else {}
        return {"channels": self.channels, "resolution": options.get("resolution") or self.resolution(), **limits}

    def read_as(self, recorded: Mapping[str, Any]) -> Self:
        """Return the images as others of the same data were read: with alpha or not, in the same range of values.

        Older versions kept unused alpha, and took all wide values for 16 bits.
        """
        if "channels" not in recorded:
            return self
        modes = {number: mode for mode, number in CHANNELS.items()}
        wanted, limits = modes.get(recorded["channels"], self.mode), recorded.get("value_range", SIXTEEN_BITS)
        mode = wanted if {self.mode, wanted} <= {"RGB", "RGBA"} else self.mode
        known = (limits[0], limits[1]) if self.value_range and limits else self.value_range
        return replace(self, mode=mode, value_range=known)

    def read_like(self, trained_on: Any) -> Self:
        return self.read_as({"channels": trained_on.channels, "value_range": trained_on.value_range})

    def refuse_other(self, trained_on: Any, options: Options) -> None:
        """Raise a UsageError of validation images whose mode or size differs from the training images'."""
        if self.mode != trained_on.mode:
            raise UsageError(
                f"--validation_split has images of mode {self.mode}, and the training images are of "
                f"{trained_on.mode}.\nConvert both: --image_mode {trained_on.mode}; or leave --validation_split out."
            )
        if options.get("resolution") is None and self.resolution() != trained_on.resolution():
            raise UsageError(
                f"--validation_split has images of {self.resolution()} pixels a side, and the training images have "
                f"{trained_on.resolution()}.\nResize both: --resolution {trained_on.resolution()}"
            )

    def resolution(self) -> int:
        """Return the side of the images, where they are square and of one size.

        Raises:
            UsageError: they are not, so the user must choose a size.
        """
        (width, height), _ = self.sizes.most_common(1)[0]
        if len(self.sizes) == 1 and width == height:
            return width
        sides = [side for size in self.sizes for side in size]
        found = f"{width}x{height}" if len(self.sizes) == 1 else f"of sides {min(sides)} to {max(sides)}"
        raise UsageError(
            f"{self.name}: the images are {found} pixels, not square and of one size.\n"
            f"Choose a size to resize them to, for example --resolution {_power_of_two(min(sides))} "
            "(the center is cropped; --no_center_crop squeezes the whole image).\n"
            "In Python: images.tensor(indices, resolution)."
        )


@dataclass(frozen=True, kw_only=True)
class Images(ImageFacts, Items):
    """A dataset whose images can be read in any order, by index.

    Attributes:
        open_image: number of an image in the dataset -> the image, not decoded yet.
        name_image: number -> how the user finds it: its path in the dataset, or its row.
    """

    open_image: Callable[[int], Image.Image]
    name_image: Callable[[int], str] = "image {}".format

    def tensor(self, indices: Sequence[int] | range, resolution: int | None = None) -> Tensor:
        """Decode images for a network: (B, C, resolution, resolution), float32 in [-1, 1]."""
        side = resolution or self.resolution()
        return torch.stack([torch.from_numpy(self.decode(i, side)) for i in indices]).float() / 127.5 - 1

    def decode(self, index: int, resolution: int, center_crop: bool = True) -> np.ndarray:
        """Decode image `index`: uint8, shape (C, resolution, resolution).

        Raises:
            HFGenError: it cannot be read.
        """
        row = self.row(index)
        with naming(self.name, functools.partial(self.name_image, row)), self.open_image(row) as image:
            return to_pixels(image, self.mode, resolution, center_crop, self.value_range)

    def name_of(self, index: int) -> str:
        """Return how the user finds image `index`: its path in the dataset, or its row."""
        return self.name_image(self.row(index))


def _power_of_two(side: int) -> int:
    return max(16, 1 << (max(side, 1).bit_length() - 1))


def decode_images(
    images: Images, resolution: int, center_crop: bool, progress: Callable[[Sequence[int]], Iterable[int]] = iter
) -> Tensor:
    """Decode all images into memory: uint8, shape (N, C, resolution, resolution)."""
    pixels = torch.empty((len(images), images.channels, resolution, resolution), dtype=torch.uint8)
    for index in progress(range(len(images))):
        pixels[index] = torch.from_numpy(images.decode(index, resolution, center_crop))
    return pixels
