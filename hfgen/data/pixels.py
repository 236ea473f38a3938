"""Image files are decoded to pixels of one mode and size."""

import contextlib
import struct
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from PIL import ExifTags, Image, ImageOps

from hfgen.data.records import OutsideError
from hfgen.errors import HFGenError, UsageError

CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}
GRAY_MODES = {"1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N"}
UNREADABLE: tuple[type[Exception], ...] = (OSError, ValueError, SyntaxError, TypeError, EOFError, LookupError)
UNREADABLE += (struct.error, Image.DecompressionBombError)


@contextlib.contextmanager
def naming(name: str, which: Callable[[], str]) -> Iterator[None]:
    """Turn whatever PIL raises in the `with` block into one error that names the image.

    Args:
        name: of the dataset.
        which: called in the case of an error; returns how the user finds the image.

    Raises:
        UsageError: the image lies outside of the dataset.
        HFGenError: it cannot be read.
    """
    try:
        yield
    except HFGenError:
        raise
    except OutsideError as error:
        raise UsageError(
            f"{name}: {which()} names {error}.\n"
            "hfgen opens only regular files below the dataset's own folder, and those of its own repository on the\n"
            "Hub. If you trust it, put the images there, or into the table as bytes."
        ) from error
    except UNREADABLE as error:
        raise HFGenError(f"{name}: {which()} cannot be read: {error}\nFix or remove that file.") from error


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (width, height), with the orientation of the file's EXIF data applied."""
    if "exif" not in image.info:  # `getexif` of a PNG without it would decode the whole image
        return image.size
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (image.height, image.width) if turned else image.size


def true_mode(image: Image.Image) -> str:
    return "RGBA" if image.mode == "PA" or "transparency" in image.info else image.mode


def common_mode(modes: Iterable[str]) -> str:
    """Return L where all are gray, RGBA where all have alpha, else RGB."""
    modes = set(modes)
    if modes <= GRAY_MODES:
        return "L"
    return "RGBA" if modes <= {"RGBA", "LA"} else "RGB"


TURNED = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # keys that may hold an orientation


def to_pixels(image: Image.Image, mode: str, resolution: int, center_crop: bool = True) -> np.ndarray:
    """Return the image as uint8, shape (C, resolution, resolution)."""
    if any(key in image.info for key in TURNED):
        image = ImageOps.exif_transpose(image)  # a camera that was held sideways writes it into the file
    pixels = np.array(resize(to_mode(image, mode), resolution, center_crop))
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert to 8 bits and this mode; 16-bit gray is scaled, where PIL's own conversion would clip."""
    if image.mode == mode and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        image = Image.fromarray(eight_bit(np.asarray(image)))
    elif image.mode == "F":
        raise ValueError("float pixels have no known range; convert them to 8 or 16 bits")
    if mode != "RGBA" and true_mode(image) in ("RGBA", "LA"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def eight_bit(pixels: np.ndarray) -> np.ndarray:
    """Scale [0, 65535] to [0, 255], rounded; uint8 stays."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("pixels outside 0..65535")
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)


def resize(image: Image.Image, resolution: int, center_crop: bool = True) -> Image.Image:
    """Resize to a square by Lanczos, which filters before it shrinks; images of that size stay as they are."""
    if image.size == (resolution, resolution):
        return image
    if not center_crop:
        return image.resize((resolution, resolution), Image.Resampling.LANCZOS)
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((resolution, resolution), Image.Resampling.LANCZOS, box=box)
