"""Images as files hold them, and a dataset of such, without files."""

import io
from dataclasses import replace

import numpy as np
from PIL import Image

from hfgen.data.headers import inspect_headers
from hfgen.data.images import Images
from hfgen.data.records import Home, Records
from hfgen.data.sources import DataSource


def encoded(image, format="PNG", **options):
    """Encode a picture, an array, or (several pictures) an animation or a stack."""
    if isinstance(image, list):
        options |= {"save_all": True, "append_images": image[1:]}
        image = image[0]
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def noise(seed=0, side=16, channels=3):
    shape = (4, 4, channels) if channels > 1 else (4, 4)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)


def dataset(*files, **options):
    """Return the images of these bytes, as they are read from a table; options are those of `DataSource`."""
    rows = [{"image": {"bytes": content, "path": f"{number}.img"}} for number, content in enumerate(files)]
    found, source = Records(rows, "image", Home(("/nowhere",))), replace(DataSource("photos"), **options)
    seen = inspect_headers(source, len(found), found.open, found.name)
    facts = {"mode": seen.mode, "sizes": seen.sizes, "notes": seen.notes, "value_range": seen.value_range}
    return Images(name="photos", open_image=found.open, name_image=found.name, count=len(found), **facts)
