"""Modes, ranges, frames and sizes of pixels as people have them."""

import struct
import zlib

import numpy as np
import pytest
from encoded_images import dataset, encoded, noise
from PIL import Image

from hfgen.data.frames import every_frame
from hfgen.errors import HFGenError, UsageError
from hfgen.modalities import formats
from hfgen.modalities.image import save_image


def plain(value, mode="RGB", side=4):
    return Image.new(mode, (side, side), value)


def first(images, side=4):
    return images.decode(0, side)[:, 0, 0].tolist()


def test_alpha_that_is_255_everywhere_is_dropped_and_told():
    opaque = [encoded(noise(seed).convert("RGBA")) for seed in range(3)]
    images = dataset(*opaque)
    assert images.mode == "RGB"
    assert images.notes == ["alpha of every image is 255 everywhere, so images are RGB (--image_mode RGBA keeps it)"]
    assert np.array_equal(images.decode(0, 16), np.asarray(noise(0)).transpose(2, 0, 1))
    assert dataset(*opaque, image_mode="RGBA").mode == "RGBA"
    assert dataset(*opaque, encoded(plain((9, 9, 9, 254), "RGBA"))).mode == "RGBA"
    assert dataset(encoded(plain((7, 255), "LA"))).mode == "L"
    assert dataset(encoded(plain((7, 200), "LA"))).mode == "RGBA"


def test_it_is_told_where_not_every_alpha_was_looked_at(monkeypatch):
    monkeypatch.setattr("hfgen.data.looks.LOOKED_AT", 2)
    images = dataset(*[encoded(plain((9, 9, 9, 255), "RGBA"))] * 3, encoded(plain((9, 9, 9, 0), "RGBA")))
    assert images.mode == "RGB"
    assert "alpha of 2 images that were looked at is 255" in images.notes[0]
    assert "others are put on white" in images.notes[0]
    assert images.decode(3, 4)[:, 0, 0].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("content", "mode", "color"),
    [
        (encoded(plain(1, "1")), "L", [255]),
        (encoded(plain((255, 0, 0)).quantize(4)), "RGB", [255, 0, 0]),
        (encoded(plain((0, 255, 255, 0), "CMYK"), "TIFF"), "RGB", [255, 0, 0]),
        (encoded(plain((0, 255, 255, 0), "CMYK"), "JPEG", quality=100, subsampling=0), "RGB", [254, 0, 0]),
        (encoded(plain((136, 208, 195), "LAB"), "TIFF"), "RGB", [250, 3, 11]),
        (encoded(plain((76, 85, 255), "YCbCr"), "JPEG", quality=100), "RGB", [254, 0, 0]),
        (encoded(plain((9, 8, 7)), "PNG", transparency=(9, 8, 7)), "RGBA", [9, 8, 7, 0]),
        (encoded(plain((9, 8, 7)), "PNG", transparency=(1, 2, 3)), "RGB", [9, 8, 7]),
    ],
    ids=["bits", "palette", "CMYK", "CMYK of Adobe", "LAB", "YCbCr", "transparent color", "unused transparent color"],
)
def test_modes(content, mode, color):
    images = dataset(content)
    assert images.mode == mode
    assert np.abs(np.array(first(images)) - color).max() <= 3


@pytest.mark.parametrize(
    ("values", "dtype", "limits", "shades"),
    [
        ([0, 65535], np.uint16, (0, 65535), [0, 255]),
        ([0, 3900], np.uint16, (0, 4095), [0, 243]),
        ([0, 1000], np.uint16, (0, 1023), [0, 249]),
        ([0, 255], np.uint16, (0, 255), [0, 255]),
        ([0, 1], np.uint16, (0, 1), [0, 255]),
        ([0.0, 1.0], np.float32, (0, 1), [0, 255]),
        ([-1.0, 0.5], np.float32, (-1, 1), [0, 191]),
        ([0.5, 200.0], np.float32, (0, 255), [0, 200]),
        ([0.0, 4095.0], np.float32, (0, 4095), [0, 255]),
    ],
)
def test_the_range_of_wide_values_is_looked_at(values, dtype, limits, shades):
    images = dataset(encoded(np.array([values] * 2, dtype), "TIFF"))
    assert (images.mode, images.value_range) == ("L", limits)
    assert np.abs(images.decode(0, 2)[0, 0].astype(int) - shades).max() <= 1
    assert "8 bits" in images.notes[0]


@pytest.mark.parametrize("values", [[-1000.0, 3000.0], [0.0, float("nan")], [0.3, 70000.5], [0.0, float("inf")]])
def test_a_range_that_nobody_knows_is_asked_for(values):
    content = encoded(np.array([values] * 2, np.float32), "TIFF")
    with pytest.raises(UsageError, match=r"values are from .*\n.*--value_range 0,4095"):
        dataset(content)
    if np.isfinite(values).all():
        images = dataset(content, value_range=(-1000.0, 71000.0))
        assert images.decode(0, 2).shape == (1, 2, 2)


def test_an_image_beyond_the_range_of_the_others_is_named(monkeypatch):
    monkeypatch.setattr("hfgen.data.looks.LOOKED_AT", 1)
    images = dataset(*[encoded(np.full((2, 2), value, np.uint16)) for value in (4000, 5000)])
    assert "from 4000 to 4000 in 1 images that were looked at" in images.notes[0]
    with pytest.raises(HFGenError, match=r"row 1 .*values from 5000 to 5000 are outside 0..4095, --value_range"):
        images.decode(1, 2)


@pytest.mark.parametrize("format", ["TIFF", "GIF", "PNG", "WEBP"])
def test_of_several_pictures_the_first_is_told_and_all_can_be_taken(format):
    shades = [plain((shade, 0, 0), side=8) for shade in (10, 100, 200)]
    files = encoded(shades, format), encoded(shades[1], format)
    images = dataset(*files)
    assert (len(images), images.notes[0][:37]) == (2, "1 file holds several pictures; the fi")
    images = every_frame(dataset(*files, all_frames=True))
    assert [images.name_of(i) for i in (0, 2, 3)] == [
        "row 0 (0.img), picture 1",
        "row 0 (0.img), picture 3",
        "row 1 (1.img)",
    ]
    red = [int(images.decode(i, 8)[0].mean()) for i in range(4)]
    assert np.abs(np.array(red) - [10, 100, 200, 100]).max() <= 3


def test_validation_images_are_read_as_the_training_images():
    dark = dataset(encoded(np.full((2, 2), 900, np.uint16)))
    assert dark.decode(0, 2).mean() > 200
    assert dark.read_as({"channels": 1, "value_range": [0, 4095]}).decode(0, 2).mean() == 56
    clear = dataset(encoded(plain((9, 9, 9, 0), "RGBA")))
    assert (
        clear.read_as({"channels": 3, "value_range": None}).decode(0, 4).tolist() == np.full((3, 4, 4), 255).tolist()
    )
    assert clear.read_as({"channels": 1, "value_range": None}).mode == "RGBA", "a gray model is another matter"


def test_gray_among_colors_is_the_same_gray_at_every_size():
    gray = noise(5, 32, channels=1)
    mixed = dataset(encoded(gray), encoded(noise(6, 32)))
    wanted = dataset(encoded(gray)).decode(0, 12)
    assert np.array_equal(mixed.decode(0, 12), wanted.repeat(3, 0))


def test_previews_beside_a_picture_are_not_pictures():
    stack = [plain(50, "L", 8), plain(60, "L", 4)]
    stack[1].encoderinfo = {"tiffinfo": {254: 1}}
    images = dataset(encoded(stack, "TIFF"))
    assert images.notes == []
    photo = dataset(encoded([plain((9, 9, 9)), plain((8, 8, 8))], "MPO"))
    assert (len(every_frame(photo)), photo.notes) == (1, [])


def test_a_huge_picture_is_told_and_one_beyond_the_bound_is_named(monkeypatch):
    monkeypatch.setattr("hfgen.data.headers.HUGE", 1000)
    images = dataset(encoded(plain(9, "L", 40)), encoded(plain(9, "L", 8)))
    assert images.notes == ["row 0 (0.img) has 40x40 pixels: slow to read, each time"]
    for module in ("looks", "pixels", "headers", "damaged"):
        monkeypatch.setattr(f"hfgen.data.{module}.MOST_MEMORY", 1500)
    monkeypatch.setattr(formats, "MOST_MEMORY", 1500)
    with pytest.raises(HFGenError, match=r"row 0 \(0.img\) cannot be read: it has 40x40 pixels.*make it smaller\n"):
        dataset(encoded(plain(9, "L", 40)))
    shrunk = dataset(encoded(noise(3, 64), "JPEG", quality=95))
    assert (
        np.abs(shrunk.decode(0, 8).astype(int) - np.asarray(noise(3, 64).resize((8, 8), 4)).transpose(2, 0, 1)).max()
        < 9
    )


def test_a_grid_with_alpha_as_jpeg_is_put_on_white(tmp_path):
    save_image(plain((0, 0, 0, 0), "RGBA", 8), tmp_path / "grid.jpg")
    with Image.open(tmp_path / "grid.jpg") as grid:
        assert (grid.format, grid.mode, grid.getpixel((3, 3))) == ("JPEG", "RGB", (255, 255, 255))


def sixteen_bit_png(pixels):
    """A color PNG of 16 bits a channel, which pillow does not write."""
    height, width, channels = pixels.shape
    kind = {2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_color_of_sixteen_bits_is_told_or_refused(channels):
    whole = sixteen_bit_png(np.full((4, 4, channels), 40000, np.uint16))
    images = dataset(whole, encoded(plain((9, 9, 9))))
    assert "of 1 color image of 16 bits a channel the upper 8 are read" in images.notes
    assert first(dataset(whole))[0] == 40000 >> 8
    dark = sixteen_bit_png(np.full((4, 4, channels), 4095, np.uint16))
    with pytest.raises(UsageError, match="16 bits a channel; the upper 8 are read, which reach 15 of 255"):
        dataset(dark)
    with pytest.raises(UsageError, match="--value_range scales gray images alone"):
        dataset(whole, value_range=(0, 40000))
    assert first(dataset(dark, value_range=(0, 65535)))[0] == 15
