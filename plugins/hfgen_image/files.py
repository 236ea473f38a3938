"""Files of sampled images: a grid, an array, an animation."""

import contextlib
import os
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from hfgen.modalities.image import image_grid, save_image

Batches = Iterator[tuple[Sequence[int], Sequence[Image.Image]]]


SEEN, WIDEST = 128, 2048  # pixels: of a small image on a sheet, at most; of a sheet that is enlarged


def write_grid(batches: Batches, output: Path) -> int:
    """Write all images as one picture; several small ones are enlarged by whole factors so that they can be seen."""
    images = [image for _, batch in batches for image in batch]
    sheet = image_grid(images)
    factor = max(1, min(SEEN // images[0].width, WIDEST // sheet.width)) if len(images) > 1 else 1
    save_image(sheet.resize((sheet.width * factor, sheet.height * factor), Image.Resampling.NEAREST), output)
    return len(images)


def write_array(batches: Batches, output: Path, seeds: Sequence[int], labels: Sequence[int] | None) -> int:
    """Write `images`, uint8, (N, H, W) or (N, H, W, C), `seeds` (N,), and `labels` (N,) if they were given.

    Only one batch is in memory at a time.
    """
    others = {"seeds": seeds} if labels is None else {"labels": labels, "seeds": seeds}
    with _under_another_name(output) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("images.npy", "w", force_zip64=True) as file:
            for number, (_, images) in enumerate(batches):
                pixels = np.stack([np.asarray(image) for image in images])
                if number == 0:
                    shape = (len(seeds), *pixels.shape[1:])
                    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(pixels.tobytes())
        for name, values in others.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(values))
    return len(seeds)


@contextlib.contextmanager
def _under_another_name(output: Path) -> Iterator[Path]:
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}")
    try:
        yield temporary
        os.replace(temporary, output)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_walk(frames: Sequence[Image.Image], output: Path) -> None:
    """Write an endless animation at 20 frames per second; small images are enlarged so that they can be seen."""
    factor = max(1, 224 // frames[0].width)
    frames = [f.resize((f.width * factor, f.height * factor), Image.Resampling.NEAREST) for f in frames]
    save_image(frames[0], output, save_all=True, append_images=frames[1:], duration=50, loop=0, quality=80)
