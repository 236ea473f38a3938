"""Images that cannot be read are left out before the order of a training is drawn, the same in every process."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch
from tqdm import tqdm

from hfgen.data.images import Images
from hfgen.errors import HFGenError, UsageError, counted

AT_MOST = 10  # images, or one in a hundred where that is more: beyond it, something else is wrong
NAMED = 4


def readable(images: Images) -> Images:
    """Decode every image once, in threads, and return those that can be decoded; the others are counted and named.

    Raises:
        UsageError: too many cannot be read, or one lies outside of its dataset.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        numbers = range(len(images))
        tried = pool.map(lambda index: _is_readable(images, index), numbers)
        good = list(tqdm(tried, "Every image is read once", len(images), unit="image", leave=False, disable=None))
    bad = [index for index in numbers if not good[index]]
    if not bad:
        return images
    words = f"{len(bad)} of {counted(len(images), 'image')} cannot be read"
    names = _named([images.name_of(index) for index in bad])
    if len(bad) > max(AT_MOST, len(images) // 100):
        raise UsageError(
            f"{images.name}: {words}: {names}.\n"
            f"--on_error skip leaves out at most {AT_MOST}, or 1 % of the images. Fix or remove the others."
        )
    kept = images.part(torch.tensor(good).nonzero().flatten())
    return replace(kept, notes=[*images.notes, f"{words} and {'is' if len(bad) == 1 else 'are'} left out: {names}"])


def _is_readable(images: Images, index: int) -> bool:
    try:
        images.decode(index, resolution=1)
    except UsageError:
        raise
    except HFGenError:
        return False
    return True


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
