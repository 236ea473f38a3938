"""Image files are decoded to pixels of one mode and size."""

import contextlib
import struct
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from PIL import ExifTags, Image, ImageOps

from hfgen.data.damaged import textless_png, whole_jpeg
from hfgen.data.records import OutsideError
from hfgen.errors import HFGenError, UsageError
from hfgen.modalities.formats import MOST_MEMORY, check_memory, memory_of, on_white

CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}
GRAY_MODES = {"1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"}
WIDE = ("I", "F")  # how modes of more than 8 bits begin
SIXTEEN_BITS = (0, 65535)
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
        raise HFGenError(
            f"{name}: {which()} cannot be read: {error}\n"
            "Fix or remove that file, or leave out what cannot be read: --on_error skip."
        ) from error


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return (width, height), with the orientation of the file's EXIF data applied."""
    if "exif" not in image.info:  # `getexif` of a PNG without it would decode the whole image
        return image.size
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    except UNREADABLE:  # a broken EXIF says nothing; the pixels are good
        turned = False
    return (image.height, image.width) if turned else image.size


def true_mode(image: Image.Image) -> str:
    """Return the mode with what a palette or a transparent color adds to it."""
    if image.mode == "PA" or "transparency" in image.info:
        return "RGBA"
    return {"RGBa": "RGBA", "La": "LA"}.get(image.mode, image.mode)


def is_cut(image: Image.Image) -> bool:
    """Return whether a color picture has 16 bits a channel; pillow keeps the upper eight."""
    tile = getattr(image, "tile", None)
    given = tile[0][3] if tile and image.mode in ("RGB", "RGBA", "LA") else None
    raw = given[0] if isinstance(given, tuple) and given else given
    return isinstance(raw, str) and ";16" in raw


def common_mode(modes: Iterable[str]) -> str:
    """Return L where all are gray, RGBA where all have alpha, else RGB."""
    modes = set(modes)
    if modes <= GRAY_MODES:
        return "L"
    return "RGBA" if modes <= {"RGBA", "LA"} else "RGB"


def holds_several(image: Image.Image) -> bool:
    """Return whether a file holds several pictures; previews and gain maps of phones' photos do not count."""
    animated = image.format != "MPO" and getattr(image, "is_animated", False)
    return animated and (image.format != "TIFF" or len(frames_of(image)) > 1)


def frames_of(image: Image.Image) -> list[int]:
    """Return the numbers of a file's pictures, without a TIFF's previews and masks; the file is left at its first."""
    if image.format == "MPO":
        return [0]
    frames = range(getattr(image, "n_frames", 1))
    if image.format != "TIFF" or len(frames) == 1:
        return list(frames)
    found = []
    for number in frames:
        image.seek(number)
        if not image.tag_v2.get(254, 0) & 5:  # type: ignore[attr-defined]  # NewSubfileType: a preview, or a mask
            found.append(number)
    image.seek(0)
    return found or [0]


TURNED = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # keys that may hold an orientation


def to_pixels(
    image: Image.Image,
    mode: str,
    resolution: int,
    center_crop: bool = True,
    value_range: tuple[float, float] | None = None,
) -> np.ndarray:
    """Return the image as uint8, shape (C, resolution, resolution).

    Args:
        value_range: the values that stand for black and white, of an image of more than 8 bits.
    """
    if memory_of(image) > MOST_MEMORY:
        image.draft(None, (resolution, resolution))  # of a JPEG, an eighth of each side at least
        check_memory(image)
    image = loaded(image)
    if any(key in image.info for key in TURNED):
        image = upright(image)  # a camera that was held sideways writes it into the file
    if image.mode == "L" and "transparency" not in image.info:  # the same pixels, of a quarter of the memory
        image = resize(image, resolution, center_crop)
    pixels = np.array(resize(to_mode(image, mode, value_range), resolution, center_crop))
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def upright(image: Image.Image) -> Image.Image:
    """Turn an image as its orientation says; as it is, where that cannot be read."""
    try:
        return ImageOps.exif_transpose(image) or image
    except UNREADABLE:
        return image


def loaded(image: Image.Image) -> Image.Image:
    """Decode the pixels; also of a JPEG that lacks only its end, and of a PNG with a text that is too long.

    Raises:
        OSError: pixels are missing, or as PIL raises.
    """
    try:
        image.load()
        return image
    except (OSError, ValueError):
        file = getattr(image, "fp", None)
        if file is None or image.format not in ("JPEG", "PNG"):
            raise
        file.seek(0)
        mended = whole_jpeg(file.read()) if image.format == "JPEG" else textless_png(file.read())
        if mended is None:
            raise
        return mended


def to_mode(image: Image.Image, mode: str, value_range: tuple[float, float] | None = None) -> Image.Image:
    """Convert to 8 bits and this mode; wide values are scaled, where PIL's own conversion would clip."""
    if image.mode == mode and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        image = Image.fromarray(eight_bit(np.asarray(image), value_range or SIXTEEN_BITS))
    elif image.mode == "F":
        if value_range is None:
            raise ValueError("float pixels have no known range: say it by --value_range, or convert them to 8 bits")
        image = Image.fromarray(eight_bit(np.asarray(image), value_range))
    elif image.mode == "LAB":
        image = image.convert("RGB")  # PIL converts it to nothing else
    if mode != "RGBA" and true_mode(image) in ("RGBA", "LA"):
        image = on_white(image)
    return image.convert(mode)


def eight_bit(pixels: np.ndarray, value_range: tuple[float, float] = SIXTEEN_BITS) -> np.ndarray:
    """Scale the range of values to [0, 255], rounded; uint8 stays.

    Raises:
        ValueError: a value lies outside of the range.
    """
    if pixels.dtype == np.uint8:
        return pixels
    low, high = value_range
    if not (pixels.min() >= low and pixels.max() <= high):
        raise ValueError(
            f"values from {pixels.min():g} to {pixels.max():g} are outside {low:g}..{high:g}, --value_range"
        )
    if pixels.dtype.kind in "iu" and value_range == SIXTEEN_BITS:
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.round((pixels.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)


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
