"""Headers of images are read before their pixels: one mode for all, their sizes, and notes for the user."""

import functools
from collections import Counter
from collections.abc import Callable, Iterable

from PIL import Image

from hfgen.data.pixels import common_mode, naming, true_mode, upright_size
from hfgen.errors import UsageError

SCANNED = 20_000  # images whose headers are read; of a larger dataset, that many evenly spaced


def inspect_headers(
    name: str,
    count: int,
    open_image: Callable[[int], Image.Image],
    name_image: Callable[[int], str] = "image {}".format,
) -> tuple[str, Counter[tuple[int, int]], list[str]]:
    """Return one mode for all images, their sizes, and notes for the user; reads headers, not pixels.

    Args:
        name: of the dataset.
        open_image: number -> the image, not decoded yet.
        name_image: number -> how the user finds it.
    """
    if count == 0:
        raise UsageError(f"The dataset {name!r} holds no images.")
    modes: Counter[str] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    for index in evenly_spaced(count, SCANNED):
        with naming(name, functools.partial(name_image, index)), open_image(index) as image:
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
