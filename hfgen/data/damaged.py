"""Files whose pixels are whole though something beside them is broken: they are read, others are not."""

import io
import struct
from itertools import pairwise

import numpy as np
from PIL import Image

from hfgen.modalities.formats import MOST_MEMORY, memory_of

TEXT = {b"tEXt", b"zTXt", b"iTXt", b"iCCP"}  # chunks of a PNG that say nothing of its pixels
END = b"\xff\xd9"
NOISE = [bytes([byte]) * 64 for byte in (0x55, 0xAA, 0x36)]


def without_text(png: bytes) -> bytes:
    """Return a PNG without its texts and color profile, which may be of any length.

    >>> without_text(b"\\x89PNG....no chunks")
    b'\\x89PNG....no chunks'
    """
    kept, start = [png[:8]], 8
    while start + 8 <= len(png):
        length, kind = struct.unpack(">I4s", png[start : start + 8])
        if kind not in TEXT:
            kept.append(png[start : start + 12 + length])
        start += 12 + length
    return b"".join([*kept, png[start:]])


def textless_png(png: bytes) -> Image.Image | None:
    """Decode a PNG without its texts; None where it has none, so that something else must be broken."""
    rest = without_text(png)
    if rest == png:
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
