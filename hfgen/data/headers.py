"""Headers of images are read before their pixels: one mode for all, their sizes, and notes for the user."""

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from PIL import Image

from hfgen.data.facts import evenly_spaced
from hfgen.data.looks import Range, brightest, extremes, is_opaque, of_sample, range_of
from hfgen.data.pixels import SIXTEEN_BITS, WIDE, common_mode, holds_several, is_cut, naming, true_mode, upright_size
from hfgen.data.sources import DataSource
from hfgen.errors import HFGenError, UsageError, counted
from hfgen.modalities.formats import MOST_MEMORY, check_memory, memory_of

SCANNED = 20_000  # images whose headers are read; of a larger dataset, that many evenly spaced
DARK = 64  # upper 8 bits of 16, below which fewer bits were meant
HUGE = 89_478_485  # pixels, from which on pillow warns


@dataclass
class Seen:
    """The facts of the images whose headers were read.

    Attributes:
        mode: the mode that all are converted to: L, RGB or RGBA.
        sizes: (width, height) -> the number of images seen of that size.
        notes: lines for the user.
        value_range: the values of 16-bit and float images that stand for black and white; None where all have 8 bits.
    """

    mode: str = ""
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    value_range: Range | None = None


def inspect_headers(
    source: DataSource,
    count: int,
    open_image: Callable[[int], Image.Image],
    name_image: Callable[[int], str] = "image {}".format,
) -> Seen:
    """Read the headers of images, and the pixels of some where the mode leaves something open.

    Args:
        open_image: number -> the image, not decoded yet.
        name_image: number -> how the user finds it.

    Raises:
        UsageError: there are no images, or their values have no known range.
        HFGenError: an image cannot be read, unless `source.on_error` says to skip it.
    """
    if count == 0:
        raise UsageError(f"The dataset {source.name!r} holds no images.")
    seen, modes = Seen(), Counter[str]()
    several, cut, huge = 0, 0, list[str]()
    for index in evenly_spaced(count, SCANNED):
        try:
            with naming(source.name, functools.partial(name_image, index)), open_image(index) as image:
                modes[true_mode(image)] += 1
                seen.sizes[upright_size(image)] += 1
                cut += is_cut(image)
                several += not source.all_frames and holds_several(image)
                if image.width * image.height > HUGE:
                    huge.append(f"{name_image(index)} has {image.width}x{image.height} pixels")
                    _check_size(image)
        except UsageError:
            raise
        except HFGenError:
            if source.on_error == "fail":
                raise
    if not modes:
        raise UsageError(f"{source.name}: none of the images can be read.")
    if several:
        hold = "file holds" if several == 1 else "files hold"
        seen.notes.append(f"{several} {hold} several pictures; the first of each is read (--all_frames takes all)")
    if cut:
        seen.notes.append(_about_cut(source, cut, count, open_image))
    if huge:
        more = f", and {counted(len(huge) - 1, 'image')} more are as large" if len(huge) > 1 else ""
        seen.notes.append(f"{huge[0]}{more}: slow to read, each time")
    _choose(source, seen, modes, count, open_image)
    return seen


def _about_cut(source: DataSource, cut: int, count: int, open_image: Callable[[int], Image.Image]) -> str:
    """Return a line on color pictures of 16 bits a channel, whose upper 8 are read.

    Raises:
        UsageError: these bits are nearly empty, or another range of values is asked for.
    """
    most = max(of_sample(count, open_image, brightest), default=255)
    if source.value_range != SIXTEEN_BITS and (source.value_range or most < DARK):
        raise UsageError(
            f"{source.name}: {counted(cut, 'color image')} of 16 bits a channel; the upper 8 are read, which reach "
            f"{most} of 255.\nConvert the images so that white is 65535, or to 8 bits; --value_range scales gray "
            "images alone, and 0,65535 reads these as they are."
        )
    return f"of {counted(cut, 'color image')} of 16 bits a channel the upper 8 are read"


def _check_size(image: Image.Image) -> None:
    if memory_of(image) > MOST_MEMORY:
        image.draft(None, (1, 1))  # a JPEG can be decoded smaller than it is
        check_memory(image)


def _choose(
    source: DataSource, seen: Seen, modes: Counter[str], count: int, open_image: Callable[[int], Image.Image]
) -> None:
    """Choose one mode for all images, and the range of their values."""
    if any(mode.startswith(WIDE) for mode in modes):
        if source.value_range is not None:
            seen.value_range = source.value_range
            seen.notes.append("values from {:g} to {:g} are scaled to 8 bits".format(*source.value_range))
        elif found := [e for e in of_sample(count, open_image, extremes) if e[:2] != (0, 0)]:
            seen.value_range, note = range_of(source.name, found, complete=len(found) == count)
            seen.notes.append(note)
    seen.mode = source.image_mode or common_mode(modes)
    if source.image_mode is None and seen.mode == "RGBA":
        opaque = of_sample(count, open_image, is_opaque)
        if all(opaque):
            seen.mode = "L" if set(modes) == {"LA"} else "RGB"
            which = "of every image" if len(opaque) == count else f"of {len(opaque)} images that were looked at"
            seen.notes.append(
                f"alpha {which} is 255 everywhere, so images are {seen.mode} (--image_mode RGBA keeps it)"
                + ("" if len(opaque) == count else "; others are put on white")
            )
            return
    if len(modes) > 1 or source.image_mode not in (None, *modes):
        seen.notes.append(f"modes {', '.join(sorted(modes))} are converted to {seen.mode}")
