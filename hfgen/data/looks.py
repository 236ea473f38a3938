"""A sample of the pixels is looked at before a training: alpha that nothing uses, the range of wide values."""

import contextlib
import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from PIL import Image

from hfgen.data.facts import evenly_spaced
from hfgen.data.pixels import UNREADABLE, loaded, true_mode
from hfgen.errors import HFGenError, UsageError
from hfgen.modalities.formats import MOST_MEMORY, memory_of

LOOKED_AT = 200  # images whose pixels are looked at
MOST_PIXELS = 200_000_000  # of them together
WIDTHS = (8, 10, 12, 14, 16)  # bits of what scanners and cameras measure, in files of 16 bits

Found = TypeVar("Found")
Range = tuple[float, float]


def of_sample(
    count: int, open_image: Callable[[int], Image.Image], look: Callable[[Image.Image], Found]
) -> list[Found]:
    """Return what `look` finds in some decoded images; others are passed over, to be named later."""
    found, pixels = [], 0
    for index in evenly_spaced(count, LOOKED_AT):
        with contextlib.suppress(*UNREADABLE, HFGenError), open_image(index) as image:
            if memory_of(image) <= MOST_MEMORY and pixels < MOST_PIXELS:
                pixels += image.width * image.height
                found.append(look(loaded(image)))
    return found


def is_opaque(image: Image.Image) -> bool:
    """Return whether nothing shows through the image."""
    if true_mode(image) not in ("RGBA", "LA"):
        return True
    return image.convert("RGBA").getchannel("A").getextrema() == (255, 255)


def extremes(image: Image.Image) -> tuple[float, float, bool]:
    """Return the lowest and the highest value, and whether all are whole numbers; of 8 bits: 0, 0."""
    if image.mode[:1] not in "IF":
        return 0, 0, True
    pixels = np.asarray(image)
    return (
        float(pixels.min()),
        float(pixels.max()),
        pixels.dtype.kind != "f" or bool((np.floor(pixels) == pixels).all()),
    )


def brightest(image: Image.Image) -> int:
    """Return the largest of all values of color, of 8 bits."""
    return int(np.asarray(image.convert("RGB")).max())


def range_of(name: str, found: list[tuple[float, float, bool]], complete: bool) -> tuple[Range, str]:
    """Return the values that stand for black and white, and a note for the user.

    Args:
        name: of the dataset.
        found: the extremes of images with values of more than 8 bits.
        complete: whether these are all images.

    Raises:
        UsageError: the values are of no range that is known.

    >>> range_of("scans", [(3, 3871, True)], True)[0], range_of("maps", [(0.0, 0.75, False)], True)[0]
    ((0, 4095), (0, 1))
    """
    low, high = min(a for a, _, _ in found), max(b for _, b, _ in found)
    whole = all(w for _, _, w in found) and high > 1
    bits = next((bits for bits in WIDTHS if high < 2**bits), None)
    seen = f"from {low:g} to {high:g}{'' if complete else f' in {len(found)} images that were looked at'}"
    if whole and low >= 0 and bits == 16:
        return (0, 65535), "16-bit images are scaled to 8 bits"
    if whole and low >= 0 and bits is not None:
        most = 2**bits - 1
        return (0, most), f"values are {seen}: 0 to {most}, {bits} bits, is scaled to 8 bits (else give --value_range)"
    known = [r for r in ((0, 1), (-1, 1), (0, 255)) if math.isfinite(low) and r[0] <= low and high <= r[1]]
    if known and not whole:
        (black, white), *_ = known
        return (black, white), f"values are {seen}: {black} to {white} is scaled to 8 bits (else give --value_range)"
    raise UsageError(
        f"{name}: values are {seen}, which is not a range that hfgen knows.\n"
        "Say which stand for black and white, for example --value_range 0,4095; or convert the images to 8 or 16 bits."
    )
