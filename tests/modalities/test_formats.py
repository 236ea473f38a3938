"""Pictures are opened by an explicit list of formats, and within a bound of memory."""

import io

import pytest
from PIL import Image

from hfgen.modalities import formats
from hfgen.modalities.formats import check_memory, open_picture
from hfgen.modalities.image import read_image


def encoded(format, mode="RGB", size=(8, 8), **options):
    out = io.BytesIO()
    Image.new(mode, size).save(out, format, **options)
    return out.getvalue()


@pytest.mark.parametrize("format", [f for f in formats.FORMATS if f not in ("SUN", "ICNS", "ICO", "AVIF")])
def test_pictures_of_the_list_are_opened_whatever_they_are_called(format):
    assert open_picture(io.BytesIO(encoded(format)), "photo.jpg_large").size == (8, 8)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (encoded("EPS"), "a PostScript program"),
        (encoded("PDF"), "a PDF document"),
        (b"8BPS" + bytes(60), "a Photoshop document"),
        (b"\0\0\0\x18ftypheic" + bytes(50), "HEIC, which pillow does not decode"),
        (b"\0\0\0\x18ftypisom" + bytes(50), "a video"),
        (b"<svg xmlns=''/>", "an SVG drawing"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"\0\0\x01\xba" + bytes(60), "a video"),
        (b"", "empty"),
        (b"some words", "not an image"),
    ],
)
def test_other_files_are_refused_by_what_they_are(content, kind, tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: pytest.fail("a program was started"))
    (tmp_path / "photo.jpg").write_bytes(content)
    for source in (io.BytesIO(content), tmp_path / "photo.jpg"):
        with pytest.raises(OSError, match=f"^it is {kind}"):
            open_picture(source).load()
    with pytest.raises(OSError, match=f"^it is {kind}"):
        read_image(tmp_path / "photo.jpg")


def test_a_targa_is_known_by_its_ending_alone():
    assert open_picture(io.BytesIO(encoded("TGA")), "a.TGA").format == "TGA"
    with pytest.raises(OSError, match="not an image"):
        open_picture(io.BytesIO(encoded("TGA")), "a.png")


def test_the_preview_of_a_cameras_raw_file_is_not_taken_for_the_photo():
    with pytest.raises(OSError, match="a small preview, as raw files of cameras"):
        open_picture(io.BytesIO(encoded("TIFF", tiffinfo={254: 1})))


def test_memory_is_bounded_before_pixels_are_decoded(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    picture = open_picture(io.BytesIO(encoded("PNG", size=(20, 10))))
    assert Image.MAX_IMAGE_PIXELS == 10
    check_memory(picture)
    assert not recwarn.list
    monkeypatch.setattr(formats, "MOST_MEMORY", 20 * 10 * 3)
    check_memory(open_picture(io.BytesIO(encoded("PNG", "L", (20, 10)))))
    (tmp_path / "a.png").write_bytes(encoded("PNG", size=(20, 10)))
    with pytest.raises(OSError, match="20x10 pixels"):
        read_image(tmp_path / "a.png")
