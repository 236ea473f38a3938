"""Arrays of images: `.npy` and `.npz` files, as numpy writes them."""

import functools
import zipfile
import zlib

import numpy as np
import torch
from PIL import Image

from hfgen.data.headers import inspect_headers
from hfgen.data.images import Images
from hfgen.data.pixels import eight_bit
from hfgen.data.sources import DataSource
from hfgen.errors import UsageError


def images_from_arrays(source: DataSource) -> Images:
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


def _open_array(pixels: np.ndarray, index: int) -> Image.Image:
    return Image.fromarray(eight_bit(pixels[index]))
