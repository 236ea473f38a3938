"""What is broken beside good pixels does not matter; pixels that are missing do."""

import io
import struct
import zlib

import numpy as np
import pytest
from encoded_images import dataset, encoded, noise
from PIL import Image

from hfgen.data.damaged import whole_jpeg
from hfgen.data.readable import readable
from hfgen.errors import HFGenError, UsageError

KINDS = {"plain": {}, "restarts": {"restart_marker_blocks": 4}, "rows": {"restart_marker_rows": 1}}
KINDS |= {"small": {"quality": 30, "subsampling": 2}, "progressive": {"progressive": True}}


def chunk(kind, data, checksum=None):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum or zlib.crc32(kind + data))


def pixels(content, side=16):
    return dataset(content).decode(0, side)


@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_without_its_end_is_read_only_if_all_pixels_are_there(kind):
    content = encoded(noise(1, 64), "JPEG", **KINDS[kind])
    true = np.asarray(Image.open(io.BytesIO(content)))
    for cut in (*range(1, 40), 100, 200, 300, 400):
        try:
            found = whole_jpeg(content[:-cut])
        except OSError:
            found = None
        assert found is None or np.abs(np.asarray(found).astype(int) - true).max() <= 4, cut
        assert (found is not None) or kind == "progressive" or cut > 2, "of the end mark alone"


def test_files_without_an_end_are_read_and_cut_files_are_named():
    content = encoded(noise(1, 64), "JPEG")
    assert np.array_equal(pixels(content[:-2], 64), pixels(content, 64))
    assert np.array_equal(pixels(content + b"litter" * 100, 64), pixels(content, 64))
    for broken in (content[:-300], encoded(noise(1, 64))[:1000]):
        with pytest.raises(HFGenError, match=r"photos: row 0 \(0.img\) cannot be read: .*truncated"):
            pixels(broken, 64)


def test_texts_of_a_png_may_be_of_any_length_and_anywhere():
    png = encoded(noise())
    comment = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * (2 << 20)))
    ends = png.index(b"IEND") - 4
    for content in (png[:33] + comment + png[33:], png[:ends] + comment + png[ends:], png[:ends]):
        assert np.array_equal(pixels(content), pixels(png))
    with pytest.raises(HFGenError, match="a damaged PNG file"):
        pixels(png[:33] + chunk(b"tEXt", b"a\0b", checksum=7) + png[33:])


def test_a_broken_orientation_is_no_orientation():
    image = noise()
    content = encoded(image, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f broken")
    assert np.array_equal(pixels(content), pixels(encoded(image, "JPEG")))


def test_what_cannot_be_read_is_left_out_counted_and_named():
    good = [encoded(noise(seed)) for seed in range(5)]
    cut = encoded(noise(7, 64))[:1000]
    images = readable(dataset(good[0], b"", *good[1:4], cut, good[4], on_error="skip"))
    assert len(images) == 5
    assert images.notes[-1] == "2 of 7 images cannot be read and are left out: row 1 (1.img), row 5 (5.img)"
    assert all(np.array_equal(images.decode(i, 16), pixels(good[i])) for i in range(5))
    assert readable(dataset(*good)).rows is None
    with pytest.raises(HFGenError, match=r"row 1 \(1.img\) cannot be read: it is empty\n.*--on_error skip"):
        dataset(good[0], b"")


def test_too_many_broken_images_are_another_problem():
    files = [encoded(noise(seed)) for seed in range(5)] + [b"no image"] * 11
    with pytest.raises(UsageError, match=r"11 of 16 images cannot be read: row 5 \(5.img\), .* and 7 more"):
        readable(dataset(*files, on_error="skip"))
    with pytest.raises(UsageError, match="none of the images can be read"):
        dataset(b"", b"", on_error="skip")
