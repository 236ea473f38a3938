"""What it costs to look at a folder of 100,000 small images before a training: which are there, of which classes.

    python benchmarks/look_at_folder.py

The baseline is the least that any reader does: it walks the folder with `os.walk` and opens the headers of as many
images as hfgen looks at (`hfgen.data.headers.SCANNED`, evenly spaced). The files are in the system's cache.
"""

import io
import os
import tempfile
from pathlib import Path

from interleave import Goal, Variant, measure, options, record
from PIL import Image

from hfgen.data.headers import SCANNED
from hfgen.data.load import load_images
from hfgen.data.looks import evenly_spaced

CLASSES, EACH = 100, 1000
PLAIN = "os.walk and Image.open"


def write(folder: Path) -> None:
    """Write small images, with a sidecar beside each tenth."""
    content = io.BytesIO()
    Image.new("RGB", (16, 16), "white").save(content, "PNG")
    for kind in range(CLASSES):
        (folder / f"class{kind}").mkdir()
        for number in range(EACH):
            (folder / f"class{kind}" / f"{number:06}.png").write_bytes(content.getvalue())
            if number % 10 == 0:
                (folder / f"class{kind}" / f"{number:06}.json").write_text("{}")


def plain(folder: Path) -> None:
    paths = [os.path.join(root, file) for root, _, files in os.walk(folder) for file in files if file.endswith(".png")]
    for index in evenly_spaced(len(paths), SCANNED):
        with Image.open(paths[index]) as image:
            assert (image.size, image.mode) == ((16, 16), "RGB")


def hfgen(folder: Path) -> None:
    images = load_images(str(folder))
    assert (len(images), images.num_classes) == (CLASSES * EACH, CLASSES)


def main() -> None:
    arguments = options(__doc__, blocks=7, block_seconds=2.0).parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        variants = [
            Variant(PLAIN, lambda count: [plain(folder) for _ in range(count)]),
            Variant("hfgen's load_images", lambda count: [hfgen(folder) for _ in range(count)]),
        ]
        blocks = measure(variants, arguments)
    settings = {"images": CLASSES * EACH, "headers": SCANNED, "ms": "to look at the folder once"}
    goals = [Goal(variants[1].name, "ratio", 0.5, PLAIN)]
    record("look_at_folder", variants, blocks, arguments, [PLAIN], goals, settings)


if __name__ == "__main__":
    main()
