"""Images of a dataset that was found: their facts, and their pixels when they are needed."""

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hfgen.data.pixels import CHANNELS, naming, to_pixels
from hfgen.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """Facts of a dataset that was found and inspected, but not decoded.

    Attributes:
        name: as the user gave it.
        mode: the PIL mode that fits every image seen: L, RGB or RGBA.
        sizes: (width, height) -> the number of images seen of that size.
        count: number of images; None for a stream of unknown length.
        value_range: the values of images of more than 8 bits that stand for black and white; None where all have 8.
        notes: lines for the user.
        label_names: name of each class; None where there are no classes, or they are numbers.
        label_problem: why images have no class, or which have none; None where nothing is known to be wrong.
        splits: names of all splits that the dataset has, as far as known.
        dataset_id: id on the Hub, for the card; None for local data.
    """

    name: str
    mode: str
    sizes: Counter[tuple[int, int]]
    count: int | None
    value_range: tuple[float, float] | None = None
    notes: list[str] = field(default_factory=list)
    label_names: list[str] | None = None
    label_problem: str | None = None
    splits: list[str] = field(default_factory=list)
    dataset_id: str | None = None

    @property
    def channels(self) -> int:
        return CHANNELS[self.mode]

    @property
    def num_classes(self) -> int | None:
        return len(self.label_names) if self.label_names else None

    @property
    def all_labeled(self) -> bool:
        """Return whether each image has a class."""
        return self.num_classes is not None

    @property
    def how_to_label(self) -> str:
        """The advice to a user who wants labels where there are none."""
        return "Put the images in one sub-folder per class, or name a column: --label_column."

    def read_as(self, channels: int, value_range: tuple[float, float] | None) -> Self:
        """Return the images as others of the same data were read: with alpha or not, in the same range of values."""
        modes = {number: mode for mode, number in CHANNELS.items()}
        wanted = modes.get(channels, self.mode)
        mode = wanted if {self.mode, wanted} <= {"RGB", "RGBA"} else self.mode
        return replace(
            self, mode=mode, value_range=value_range if self.value_range and value_range else self.value_range
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
class Images(ImageFacts):
    """A dataset whose images can be read in any order, by index.

    Attributes:
        open_image: number of an image in the dataset -> the image, not decoded yet.
        name_image: number -> how the user finds it: its path in the dataset, or its row.
        labels: class of each image, shape (N,), int64, -1 for an image without; None where the data have none.
        rows: the numbers, shape (N,), of the images that this part of the dataset has; None for all.
        held_out: the other part of the dataset, which is not trained on; None where nothing is held out.
    """

    open_image: Callable[[int], Image.Image]
    name_image: Callable[[int], str] = "image {}".format
    count: int
    labels: Tensor | None = None
    rows: np.ndarray | None = None
    held_out: "Images | None" = None

    def __len__(self) -> int:
        return self.count

    @property
    def num_classes(self) -> int | None:
        if self.labels is None:
            return None
        return len(self.label_names) if self.label_names else int(self.labels.max()) + 1

    @property
    def all_labeled(self) -> bool:
        return self.labels is not None and bool((self.labels >= 0).all())

    def labeled(self) -> "Images":
        """Return the images that have a class; all of them where none has."""
        if self.labels is None or self.all_labeled:
            return self
        kept = torch.nonzero(self.labels >= 0).flatten()
        left_out = f"{len(self) - len(kept)} images without a class are left out"
        return replace(
            self.part(kept),
            label_problem=None,
            notes=[*(note for note in self.notes if note != self.label_problem), left_out],
        )

    def part(self, indices: Tensor) -> "Images":
        """Return the images of these indices, in their order."""
        rows = indices.numpy() if self.rows is None else self.rows[indices.numpy()]
        labels = None if self.labels is None else self.labels[indices]
        return replace(self, rows=rows, count=len(rows), labels=labels)

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

    def row(self, index: int) -> int:
        """Return the number in the whole dataset of image `index` of this part."""
        return index if self.rows is None else int(self.rows[index])


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
