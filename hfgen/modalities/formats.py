"""Formats of pictures that are opened: those that pillow decodes within this process, by an explicit list.

Pillow would open more. Left out are those that start another program (EPS: Ghostscript), that ask the system or a
handler to draw (WMF, EMF, BUFR, GRIB, HDF5), that unpack without a bound (FITS), that hold a document rather than a
picture (PSD, FPX, MIC, PDF), video (FLI, MPEG), and rare ones that widen what a stranger's file may reach for nobody.
"""

import io
import os
import struct
import threading
import warnings
from typing import IO

from PIL import Image

FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM")
FORMATS += ("QOI", "ICO", "ICNS", "DDS", "PCX", "SGI", "SUN")
TARGA = (".tga", ".icb", ".vda", ".vst")  # has no mark by which it is recognized: its ending must say it
REFUSED = {  # how a file begins -> what it is
    b"%!PS": "a PostScript program",
    b"\xc5\xd0\xd3\xc6": "a PostScript program",
    b"%PDF": "a PDF document",
    b"8BPS": "a Photoshop document",
    b"\xd7\xcd\xc6\x9a": "a Windows metafile",
    b"\xd0\xcf\x11\xe0": "an Office, FPX or MIC document",
    b"SIMPLE  =": "a FITS file",
    b"\x89HDF": "an HDF5 file",
    b"<svg": "an SVG drawing",
    b"<?xml": "XML, perhaps an SVG drawing",
    b"<!DOCTYPE": "a web page",
    b"<html": "a web page",
    b"version https://git-lfs": "a pointer of Git LFS, whose file was not fetched",
    b"\x00\x00\x01\xb3": "a video",
    b"\x00\x00\x01\xba": "a video",
}
KNOWN = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"RIFF": "WebP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
HEIF = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
TEXT = {b"tEXt", b"zTXt", b"iTXt", b"iCCP"}  # chunks of a PNG that say nothing of its pixels
MOST_MEMORY = 1 << 30  # bytes of a picture's pixels in pillow's memory
CONVERT = "convert it to PNG or JPEG"


def open_picture(source: str | os.PathLike[str] | IO[bytes], name: str = "") -> Image.Image:
    """Open a file of one of the `FORMATS`; its header alone is read until the pixels are needed.

    Args:
        name: of the file, where `source` is its content.

    Raises:
        OSError: it is none of them; the message says which kind of file it seems to be.
    """
    path = name or (os.fspath(source) if isinstance(source, (str, os.PathLike)) else "")
    targa = os.path.splitext(path)[1].lower() in TARGA
    try:
        image = _opened(source, (*FORMATS, "TGA") if targa else FORMATS)
    except ValueError:  # a PNG has a longer text than pillow reads
        rest = without_text(_beginning(source, -1))
        if rest == b"":
            raise
        return _opened(io.BytesIO(rest), ("PNG",))
    except Image.UnidentifiedImageError as error:
        raise OSError(f"it is {kind_of(_beginning(source))}") from error
    if image.format == "TIFF" and image.tag_v2.get(254, 0) & 1:  # type: ignore[attr-defined]
        image.close()
        raise OSError(f"it begins with a small preview, as raw files of cameras do; {CONVERT}")
    return image


_LOCK = threading.Lock()


def _opened(source: str | os.PathLike[str] | IO[bytes], formats: tuple[str, ...]) -> Image.Image:
    """Open without pillow's own bound on pixels: hfgen has one in bytes, and names the picture."""
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about formats that this pillow was built without
        most, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(source, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = most


def on_white(image: Image.Image) -> Image.Image:
    """Put an image with alpha on white; the result is RGBA, and opaque."""
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)


def memory_of(image: Image.Image) -> int:
    """Return the bytes that the pixels take once they are decoded, and a palette or 16 bits are converted."""
    return image.width * image.height * (1 if image.mode in ("1", "L") else 4)


def check_memory(image: Image.Image) -> None:
    """Raise an OSError, before the pixels are decoded, if they take more memory than `MOST_MEMORY`."""
    if memory_of(image) > MOST_MEMORY:
        raise OSError(
            f"it has {image.width}x{image.height} pixels, {memory_of(image) / 2**30:.1f} GiB of memory, more than the "
            f"{MOST_MEMORY >> 30} GiB that hfgen takes for a picture; make it smaller"
        )


def _beginning(source: str | os.PathLike[str] | IO[bytes], length: int = 64) -> bytes:
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            return file.read(length)
    source.seek(0)
    return source.read(length)


def without_text(png: bytes) -> bytes:
    """Return a PNG without its texts and color profile, which may be of any length; nothing where it has none.

    >>> without_text(b"some words")
    b''
    """
    if not png.startswith(b"\x89PNG"):
        return b""
    kept, start = [png[:8]], 8
    while start + 8 <= len(png):
        length, kind = struct.unpack(">I4s", png[start : start + 8])
        if kind not in TEXT:
            kept.append(png[start : start + 12 + length])
        start += 12 + length
    rest = b"".join([*kept, png[start:]])
    return rest if len(rest) < len(png) else b""


def kind_of(beginning: bytes) -> str:
    """Return in words what a file is that none of the `FORMATS` fits, from its first bytes.

    >>> kind_of(b"%!PS-Adobe-3.0 EPSF-3.0"), kind_of(b"")
    ('a PostScript program, which hfgen does not open; convert it to PNG or JPEG', 'empty')
    """
    if not beginning:
        return "empty"
    if beginning[4:8] == b"ftyp":
        if beginning[8:12] in HEIF:
            return f"HEIC, which pillow does not decode; {CONVERT}"
        return "a video, or a kind of picture that pillow does not decode"
    damaged = next((what for start, what in KNOWN.items() if beginning.startswith(start)), None)
    if damaged is not None:
        return f"a damaged {damaged} file"
    found = next((what for start, what in REFUSED.items() if beginning.startswith(start)), None)
    return "not an image that can be identified" if found is None else f"{found}, which hfgen does not open; {CONVERT}"
