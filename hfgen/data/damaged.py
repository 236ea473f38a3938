"""Files whose pixels are whole though something beside them is broken: they are read, others are not."""

import io
from itertools import pairwise

import numpy as np
from PIL import Image

from hfgen.modalities.formats import MOST_MEMORY, memory_of, without_text

END = b"\xff\xd9"
NOISE = [bytes([byte]) * 64 for byte in (0x55, 0xAA, 0x36)]


def textless_png(png: bytes) -> Image.Image | None:
    """Decode a PNG without its texts; None where it has none, so that something else must be broken."""
    rest = without_text(png)
    if rest == b"":
        return None
    image = Image.open(io.BytesIO(rest), formats=("PNG",))
    image.load()
    return image


def whole_jpeg(data: bytes) -> Image.Image | None:
    """Decode a JPEG without its end mark, if all of its pixels are there; None where some are missing.

    Nothing says how many bytes the pixels take. But where they are complete, it makes no difference what follows them;
    where they are cut off, what follows is decoded as the rest of them. A progressive JPEG is never complete without
    its end: a later scan would have made the same pixels finer.
    """
    data = data.rstrip(b"\xff")
    restarts = [b"\xff" + bytes([0xD0 + number]) + NOISE[0] for number in range(8)] if b"\xff\xdd" in data else []
    decoded = []
    for following in (b"", *NOISE, *restarts):
        image = Image.open(io.BytesIO(data + following + END), formats=("JPEG",))
        if image.info.get("progressive") or memory_of(image) > MOST_MEMORY:
            return None
        image.load()
        decoded.append(image)
    same = all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in pairwise(decoded))
    return decoded[0] if same else None
