"""Images of a dataset: find them, inspect their headers, decode them when they are needed."""

import functools
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hfgen.data.pixels import CHANNELS, common_mode, eight_bit, naming, open_record, to_pixels, true_mode, upright_size
from hfgen.data.sources import DataSource, class_columns_of, image_column_of, load_dataset
from hfgen.errors import UsageError

SCANNED = 20_000  # images whose headers are read; of a larger dataset, that many evenly spaced


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """Facts of a dataset that was found and inspected, but not decoded.

    Attributes:
        name: as the user gave it.
        mode: the PIL mode that fits every image seen: L, RGB or RGBA.
        sizes: (width, height) -> the number of images seen of that size.
        count: number of images; None for a stream of unknown length.
        notes: lines for the user.
        dataset_id: id on the Hub, for the card; None for local data.
    """

    name: str
    mode: str
    sizes: Counter[tuple[int, int]]
    count: int | None
    notes: list[str] = field(default_factory=list)
    label_names: list[str] | None = None
    dataset_id: str | None = None

    @property
    def channels(self) -> int:
        return CHANNELS[self.mode]

    @property
    def num_classes(self) -> int | None:
        return len(self.label_names) if self.label_names else None

    @property
    def how_to_label(self) -> str:
        """The advice to a user who wants labels where there are none."""
        return "Put the images in one sub-folder per class, or name a column: --label_column."

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
        open_image: index -> the image, not decoded yet.
        labels: class of each image, shape (N,), int64; None where the data have none.
    """

    open_image: Callable[[int], Image.Image]
    count: int
    labels: Tensor | None = None

    def __len__(self) -> int:
        return self.count

    @property
    def num_classes(self) -> int | None:
        if self.labels is None:
            return None
        return len(self.label_names) if self.label_names else int(self.labels.max()) + 1

    def tensor(self, indices: Sequence[int] | range, resolution: int | None = None) -> Tensor:
        """Decode images for a network: (B, C, resolution, resolution), float32 in [-1, 1]."""
        side = resolution or self.resolution()
        return torch.stack([torch.from_numpy(self.decode(i, side)) for i in indices]).float() / 127.5 - 1

    def decode(self, index: int, resolution: int, center_crop: bool = True) -> np.ndarray:
        """Decode image `index`: uint8, shape (C, resolution, resolution).

        Raises:
            HFGenError: it cannot be read.
        """
        with naming(self.name, index), self.open_image(index) as image:
            return to_pixels(image, self.mode, resolution, center_crop)


# --- finding ----------------------------------------------------------------------------------------------------
def load_images(
    name: str,
    split: str = "train",
    config_name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    cache_dir: str | None = None,
) -> Images:
    """Find a dataset and inspect its images' headers.

    Args:
        name: `mnist-mini`, a folder of images (with or without class sub-folders), a folder or file of parquet, an
            `.npz` or `.npy` file, or an id on the Hub.
        config_name: the configuration of a dataset on the Hub.
        image_column, label_column: None takes the only one of its kind.
        cache_dir: where datasets of the Hub are cached.

    Raises:
        UsageError: there is no such dataset, split or column, or it holds no images.
        HFGenError: an image cannot be read.
    """
    return images_from(DataSource(name, split, config_name, image_column, label_column, cache_dir))


def images_from(source: DataSource) -> Images:
    """Find a dataset and inspect its images' headers; the errors are those of `load_images`."""
    if source.is_array:
        return _from_arrays(source)
    dataset = load_dataset(source)
    column = image_column_of(source, dataset)
    labels, label_names = _labels(source, dataset)
    records = dataset.select_columns([column]).cast_column(column, _undecoded())
    open_image = functools.partial(_open_row, records, column)
    mode, sizes, notes = inspect_headers(source.name, len(records), open_image)
    return Images(
        name=source.name,
        open_image=open_image,
        count=len(records),
        mode=mode,
        sizes=sizes,
        notes=notes,
        labels=labels,
        label_names=label_names,
        dataset_id=source.dataset_id,
    )


def _undecoded() -> Any:
    import datasets

    return datasets.Image(decode=False)


def _labels(source: DataSource, dataset: Any) -> tuple[Tensor | None, list[str] | None]:
    wanted, found = source.label_column, class_columns_of(source, dataset)
    column = wanted or next((c for c in [*found, "label", "labels"] if c in dataset.features), None)
    if column is None:
        return None, None
    values = np.asarray(dataset[column][:])
    if not np.issubdtype(values.dtype, np.integer) or values.min() < 0:
        if wanted is None:
            return None, None  # a column that happens to be called label need not hold labels
        raise UsageError(f"{source.name}: the labels in {column!r} are not class numbers 0, 1, 2 ...")
    return torch.from_numpy(values.astype(np.int64)), getattr(dataset.features[column], "names", None)


def _from_arrays(source: DataSource) -> Images:
    """Read uint8 or uint16 images (N, H, W), (N, H, W, C) or (N, C, H, W); an `.npz` may hold labels too."""
    name, arrays = source.name, _load_arrays(source)
    pixels = next((arrays[k] for k in ("images", "image", "x", "x_train", "arr_0") if k in arrays), None)
    if pixels is None:
        raise UsageError(f"{name} has no array 'images'; it holds {', '.join(arrays)}.")
    pixels = _channels_last(name, pixels)
    labels = next((arrays[k] for k in ("labels", "label", "y", "y_train") if k in arrays), None)
    if labels is not None and (labels.shape != pixels.shape[:1] or labels.dtype.kind not in "iu" or labels.min() < 0):
        raise UsageError(f"{name}: labels are {labels.dtype} of shape {labels.shape}; expected a class 0, 1 ... each.")
    open_image = functools.partial(_open_array, pixels)
    mode, sizes, notes = inspect_headers(name, len(pixels), open_image)
    if pixels.dtype == np.uint16:
        notes.append("16-bit images are scaled to 8 bits")
    tensor = None if labels is None else torch.from_numpy(labels.astype(np.int64))
    return Images(
        name=name, open_image=open_image, count=len(pixels), mode=mode, sizes=sizes, notes=notes, labels=tensor
    )


def _load_arrays(source: DataSource) -> dict[str, np.ndarray]:
    try:
        with source.path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            return {"images": loaded} if isinstance(loaded, np.ndarray) else {k: loaded[k] for k in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"{source.name} cannot be read: {error}") from error


def _channels_last(name: str, pixels: np.ndarray) -> np.ndarray:
    """Return gray images as (N, H, W), others as (N, H, W, C)."""
    if pixels.ndim == 4 and pixels.shape[1] in (1, 3, 4) and pixels.shape[3] not in (1, 3, 4):
        pixels = pixels.transpose(0, 2, 3, 1)
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim not in (3, 4) or len(pixels) == 0:
        raise UsageError(
            f"{name}: images are {pixels.dtype} of shape {pixels.shape}; "
            "expected uint8 or uint16, (N, H, W), (N, H, W, C) or (N, C, H, W)."
        )
    return pixels[..., 0] if pixels.ndim == 4 and pixels.shape[3] == 1 else pixels


# --- looking ----------------------------------------------------------------------------------------------------
def inspect_headers(
    name: str, count: int, open_image: Callable[[int], Image.Image]
) -> tuple[str, Counter[tuple[int, int]], list[str]]:
    """Return one mode for all images, their sizes, and notes for the user; reads headers, not pixels."""
    if count == 0:
        raise UsageError(f"The dataset {name!r} holds no images.")
    modes: Counter[str] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    for index in evenly_spaced(count, SCANNED):
        with naming(name, index), open_image(index) as image:
            modes[true_mode(image)] += 1
            sizes[upright_size(image)] += 1
    notes = []
    if any(mode.startswith("I") for mode in modes):
        notes.append("16-bit images are scaled to 8 bits")
    mode = common_mode(modes)
    if len(modes) > 1:
        notes.append(f"modes {', '.join(sorted(modes))} are converted to {mode}")
    return mode, sizes, notes


def evenly_spaced(count: int, at_most: int) -> Iterable[int]:
    return range(count) if count <= at_most else (i * count // at_most for i in range(at_most))


def _open_array(pixels: np.ndarray, index: int) -> Image.Image:
    return Image.fromarray(eight_bit(pixels[index]))


def _open_row(records: Any, column: str, index: int) -> Image.Image:
    """Open the image of a row of `datasets`; PIL reads only the header until the pixels are needed."""
    return open_record(records[index][column])


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
