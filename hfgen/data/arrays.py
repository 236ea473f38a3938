"""Arrays of images: `.npy` and `.npz` files, as numpy, keras and MedMNIST write them."""

import functools
import re
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hfgen.data.columns import classes_among
from hfgen.data.headers import inspect_headers
from hfgen.data.images import Images
from hfgen.data.labels import Classes
from hfgen.data.pixel_columns import side_of
from hfgen.data.pixels import eight_bit
from hfgen.data.sources import DataSource, NoSplitError
from hfgen.data.splits import SPLITS, chosen_split
from hfgen.errors import UsageError, did_you_mean

ROLES = {
    "images": ("images", "image", "imgs", "img", "x", "xs", "data", "pixels", "samples", "arr_0"),
    "labels": ("labels", "label", "y", "ys", "targets", "target", "classes", "class", "arr_1"),
    "names": ("class_names", "label_names", "target_names", "names", "classes"),
}
READING: tuple[type[Exception], ...] = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, MemoryError)
READING += (AttributeError, TypeError)
MOST_UNPACKED = 1 << 30  # bytes of an array that was packed 500 times smaller


@dataclass(frozen=True)
class _Arrays:
    """The arrays of a file, each read when it is asked for.

    Attributes:
        names: of all arrays.
    """

    path: Path
    name: str
    names: list[str]

    @property
    def splits(self) -> dict[str, str]:
        """Return what the file calls a split -> its array of images."""
        found = {split: name for name in reversed(self._of("images")) if (split := _part(name)[1])}
        if found:
            return dict(reversed(found.items()))
        whole = self._of("images") or (self.names if len(self.names) == 1 else [])
        return {"train": whole[0]} if whole else {}

    def labels_of(self, images: str) -> str | None:
        """Return the name of the array of labels that belongs to one of images."""
        return next((name for name in self._of("labels") if _part(name)[1] == _part(images)[1]), None)

    def _of(self, role: str) -> list[str]:
        """List the arrays that are called so, the surest name first."""
        found = [name for name in self.names if _part(name)[0] == role]
        return sorted(found, key=lambda name: ROLES[role].index(_rest(name)))

    def class_names(self, labels: str) -> tuple[list[str] | None, list[str]]:
        """Return the names of the classes, if the file has them and they can be read; and notes."""
        named = {name.casefold(): name for name in self.names if name != labels}
        name = next((named[role] for role in ROLES["names"] if role in named), None)
        if name is None:
            return None, []
        try:
            names = self.read(name)
        except UsageError:
            return None, [f"{name} holds objects of Python, which are not read"]
        texts = names.ndim == 1 and names.dtype.kind in "US"
        return ([str(text) for text in names.astype(str)] if texts else None), []

    def read(self, name: str) -> np.ndarray:
        """Read one array.

        Raises:
            UsageError: it is damaged, or holds objects of Python, which would have to be unpickled.
        """
        try:
            with self.path.open("rb") as file:
                refuse_bomb(self.path)
                loaded = np.load(file, allow_pickle=False)
                return loaded if isinstance(loaded, np.ndarray) else np.asarray(loaded[name])
        except READING as error:
            why = "it holds objects of Python, which are not read" if "allow_pickle" in str(error) else str(error)
            raise UsageError(f"{self.name}: the array {name!r} cannot be read: {why}") from error


def _part(name: str) -> tuple[str | None, str | None]:
    """Split an array's name in its role and the split.

    >>> _part("x_train"), _part("val_images"), _part("labels"), _part("class_names")
    (('images', 'train'), ('images', 'val'), ('labels', None), (None, None))
    """
    split, rest = next((word for word in _words(name) if word in SPLITS), None), _rest(name)
    return next((role for role in ("images", "labels") if rest in ROLES[role]), None), split


def _rest(name: str) -> str:
    """Return a name without its split: `x` of `x_train`."""
    return "_".join(word for word in _words(name) if word not in SPLITS)


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).casefold()) if word]


def images_from_arrays(source: DataSource) -> Images:
    """Read the images of a split, and their labels if there are any.

    Images are whole numbers of shape (N, H, W), (N, H, W, C) or (N, C, H, W). Arrays named like `x_train`, `y_test` or
    `val_images` are splits; a file without such names has the split `train` only.

    Raises:
        UsageError: the file cannot be read, has no such split or array, or the array is not one of images.
    """
    arrays = _opened(source)
    name = _images_name(source, arrays)
    pixels, notes = _pixels(f"{source.name}: {name}", arrays.read(name))
    labels, class_notes, problem = _classes(source, arrays, name, len(pixels))
    open_image = functools.partial(_open_array, pixels)
    seen = inspect_headers(source, len(pixels), open_image)
    if pixels.dtype == np.uint16:
        notes.append(f"16-bit images are scaled to 8 bits; the largest value is {pixels.max()} of 65535")
    return Images(
        name=source.name,
        open_image=open_image,
        count=len(pixels),
        mode=seen.mode,
        sizes=seen.sizes,
        notes=[*notes, *seen.notes, *class_notes],
        splits=list(arrays.splits),
        labels=None if labels is None else labels.labels,
        label_names=None if labels is None else labels.names,
        label_problem=problem,
    )


def refuse_bomb(path: Path) -> None:
    """Raise an OSError of an `.npz` that unpacks to 500 times its bytes and more than `MOST_UNPACKED`."""
    if path.suffix.lower() != ".npz":
        return
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.file_size > max(MOST_UNPACKED, 500 * member.compress_size):
                raise OSError(f"{member.filename} unpacks to {member.file_size:,} bytes of {member.compress_size:,}")


def _opened(source: DataSource) -> _Arrays:
    try:
        if source.path.suffix.lower() == ".npy":
            return _Arrays(source.path, source.name, ["images"])
        with source.path.open("rb") as file, np.load(file, allow_pickle=False) as loaded:
            return _Arrays(source.path, source.name, list(loaded.files))
    except READING as error:
        raise UsageError(f"{source.name} cannot be read: {error}") from error


def _images_name(source: DataSource, arrays: _Arrays) -> str:
    """Return the name of the array of images that is asked for by column or split."""
    wanted, splits = source.image_column, arrays.splits
    split = chosen_split(source.split, splits)
    _refuse_unknown(source, arrays, wanted)
    if wanted is not None and (source.split == "train" or (split and splits[split] == wanted)):
        return wanted
    if split is not None and wanted is None:
        return splits[split]
    if not splits:
        held = f"holds {', '.join(arrays.names)}" if arrays.names else "holds no arrays"
        raise UsageError(
            f"{source.name} {held}; none is called images or x.\nChoose with --image_column and --label_column."
        )
    near = "" if wanted else did_you_mean(source.split, splits)
    near = "" if "Known" in near else near
    held = ", ".join(f"{split} ({name})" for split, name in splits.items())
    raise NoSplitError(
        f"The dataset {source.name!r} has no split {source.split!r}.{near} It has {held}.\n"
        "Choose with --dataset_split."
    )


def _refuse_unknown(source: DataSource, arrays: _Arrays, wanted: str | None) -> None:
    if wanted is not None and wanted not in arrays.names:
        near = did_you_mean(wanted, arrays.names)
        raise UsageError(f"{source.name} has no array {wanted!r}.{near} It holds {', '.join(arrays.names)}.")


def _classes(
    source: DataSource, arrays: _Arrays, images: str, count: int
) -> tuple[Classes | None, list[str], str | None]:
    """Return the classes, notes, and why there are none, as `classes_among` does."""
    _refuse_unknown(source, arrays, source.label_column)
    name = source.label_column or arrays.labels_of(images)
    if name is None:
        return None, _about_labels_beside(source), None
    if _part(images)[1] and _part(name)[1] not in (None, _part(images)[1]):
        raise UsageError(f"{source.name}: --label_column {name} belongs to another split than {images}.")
    try:
        labels = arrays.read(name)
        if labels.shape[:1] != (count,):
            raise UsageError(f"{name!r} has {len(labels) if labels.ndim else 1} labels for {count} images")
    except UsageError as error:
        if source.label_column is not None:
            raise UsageError(f"{source.name}: {error}.") from error
        return None, [f"no classes: {error}"], str(error)
    names, notes = arrays.class_names(name)
    classes, more, problem = classes_among(source, labels, names, name)
    return classes, [*notes, *more], problem


def _about_labels_beside(source: DataSource) -> list[str]:
    """Return a line on a file of labels that lies beside an `.npy` of images."""
    if source.path.suffix.lower() != ".npy":
        return []
    others = sorted(path for path in source.path.parent.glob("*.npy") if _part(path.stem)[0] == "labels")
    how = "numpy.savez('all.npz', images=..., labels=...)"
    return [f"no labels: {others[0].name} is not read; keep both in one file: {how}"] if others else []


def _pixels(name: str, pixels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return gray images as (N, H, W), others as (N, H, W, C), in 8 or 16 bits; and notes.

    Raises:
        UsageError: they are of another shape, or their range of values is not known.
    """
    notes, shape = [], pixels.shape
    channels = (1, 3, 4)
    if pixels.ndim == 2 and len(pixels) and (flat := side_of(shape[1])):
        again = (-1, *flat[2:], *flat[:2])
        raise UsageError(f"{name} has the shape {shape}; give images a height and a width: x.reshape{again}.")
    if pixels.ndim == 4 and shape[1] in channels and shape[3] in channels:
        notes.append(f"the shape {shape} is read as (N, H, W, C): {shape[2]}x{shape[1]} pixels of {shape[3]} channels")
    elif pixels.ndim == 4 and shape[1] in channels:
        pixels = pixels.transpose(0, 2, 3, 1)
    elif pixels.ndim == 3 and shape[2] in channels[1:] and min(shape[:2]) >= 8:
        raise UsageError(f"{name} has the shape {shape}, which is that of one image; expected (N, H, W, C): x[None].")
    fits = pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] in channels)
    if not fits or 0 in shape:
        raise UsageError(
            f"{name} has the shape {shape} of {pixels.dtype}; expected (N, H, W), (N, H, W, C) or (N, C, H, W) "
            "with 1, 3 or 4 channels: gray, RGB or RGBA. Choose channels and axes before you save."
        )
    pixels = pixels[..., 0] if pixels.ndim == 4 and pixels.shape[3] == 1 else pixels
    bits, note = _whole_numbers(name, pixels)
    return bits, notes + note


def _whole_numbers(name: str, pixels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return the values as uint8 or uint16, by their type and range."""
    if pixels.dtype == np.uint8:
        only = "the largest value is 1: are these 0 and 1 instead of 0 and 255?"
        return pixels, [only] if pixels.max() == 1 else []
    least, most = pixels.min(), pixels.max()
    if pixels.dtype.kind in "iu" and least >= 0 and most <= 65535:
        note = f"{pixels.dtype} values from {least} to {most} are taken as 8 bits"
        return (pixels.astype(np.uint8), [note]) if most <= 255 else (pixels.astype(np.uint16), [])
    raise UsageError(
        f"{name} holds {pixels.dtype} values{_range(least, most)}; expected 0 to 255 as uint8.\n{_how(pixels)}"
    )


def _range(least: Any, most: Any) -> str:
    with suppress(TypeError, ValueError):
        return f" from {float(least):.4g} to {float(most):.4g}"
    return ""


def _how(pixels: np.ndarray) -> str:
    """Tell how to convert values to uint8, as their range suggests."""
    kind = pixels.dtype.kind
    if kind == "b":
        return 'Convert them: x.astype("uint8") * 255.'
    if kind not in "f" or not np.isfinite(pixels).all():
        return "Convert them before they are saved."
    least, most = pixels.min(), pixels.max()
    scaled = "(x * 255)" if least >= 0 and most <= 1 else "((x + 1) * 127.5)" if least >= -1 and most <= 1 else "x"
    if scaled == "x" and (least < 0 or most > 255):
        return 'Scale them to 0 ... 255, then: x.round().astype("uint8").'
    return f'Convert them: {scaled}.round().astype("uint8").'


def _open_array(pixels: np.ndarray, index: int) -> Image.Image:
    return Image.fromarray(eight_bit(pixels[index]))
