"""Files that hold several pictures: stacks of TIFF, animations."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from hfgen.data.images import Images
from hfgen.data.pixels import frames_of, naming


@dataclass(frozen=True)
class Frames:
    """The pictures of all files, each an image of its own.

    Attributes:
        files: number of an image -> the number of its file.
        frames: number of an image -> which picture of the file it is, from 0.
    """

    open_image: Callable[[int], Image.Image]
    name_image: Callable[[int], str]
    files: np.ndarray
    frames: np.ndarray

    def open(self, index: int) -> Image.Image:
        """Open a file at one of its pictures; the errors are those of opening the file."""
        image = self.open_image(int(self.files[index]))
        try:
            image.seek(int(self.frames[index]))
        except BaseException:
            image.close()
            raise
        return image

    def name(self, index: int) -> str:
        """Return the name of the file, and which of its pictures this is, counted from 1."""
        name, several = self.name_image(int(self.files[index])), np.sum(self.files == self.files[index]) > 1
        return f"{name}, picture {self.frames[index] + 1}" if several else name


def every_frame(images: Images) -> Images:
    """Return a dataset in which each picture of each file is an image, with the label of its file.

    Raises:
        HFGenError: a file cannot be read.
    """
    files, frames = [], []
    for index in range(len(images)):
        row = images.row(index)
        with naming(images.name, functools.partial(images.name_image, row)), images.open_image(row) as image:
            found = frames_of(image)
        files += [index] * len(found)
        frames += found
    if len(files) == len(images):
        return images
    whole = images.part(torch.tensor(files))
    assert whole.rows is not None
    each = Frames(images.open_image, images.name_image, whole.rows, np.array(frames))
    note = f"{len(images)} files hold {len(files)} pictures; each is an image"
    return replace(whole, open_image=each.open, name_image=each.name, rows=None, notes=[*images.notes, note])
