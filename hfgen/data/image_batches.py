"""Batches of images: decoded once into memory if they fit, else by worker processes when they are needed."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hfgen.data.batches import GIB, Batches, require_enough
from hfgen.data.decoding import Decoding
from hfgen.data.images import Images, decode_images
from hfgen.data.layout import Layout
from hfgen.noise import key


class ImageSource:
    """The images of a training (`hfgen.data.batches.Source`); stored, they are uint8, (B, C, H, W).

    Args:
        memory_limit: bytes of decoded pixels up to which the data stay in memory.
        progress: wraps the indices of the images while they are decoded into memory.
    """

    def __init__(
        self,
        images: Images,
        decoding: Decoding,
        seed: int,
        device: torch.device,
        memory_limit: float,
        progress: Callable[[Sequence[int]], Iterable[int]] = iter,
    ) -> None:
        self.facts, self.labels, self.decoding, self.seed = images, images.labels, decoding, seed
        self.pixels: Tensor | None = None
        self._flips_of = (-1, torch.empty(0))
        if len(images) * images.channels * decoding.resolution**2 <= memory_limit:
            self.pixels = decode_images(images, decoding.resolution, decoding.center_crop, progress).to(device)
        self.in_memory = self.pixels is not None

    def __len__(self) -> int:
        return len(self.facts)

    def fetch(self, indices: Tensor, epoch: int | None) -> Any:
        """Return the images of an epoch, some of them flipped; not flipped without an epoch."""
        if self.pixels is not None:
            pixels = self.pixels.index_select(0, indices)  # whole rows; [] goes by element
        else:
            how = self.decoding
            decoded = [self.facts.decode(i, how.resolution, how.center_crop) for i in indices.tolist()]
            pixels = torch.from_numpy(np.stack(decoded))
        return (
            pixels if epoch is None or not self.decoding.random_flip else flipped(pixels, self._flips(epoch, indices))
        )

    def finish(self, stored: Tensor) -> dict[str, Tensor]:
        return as_batch(stored)

    def _flips(self, epoch: int, indices: Tensor) -> Tensor:
        if self._flips_of[0] != epoch:
            generator = torch.Generator().manual_seed(key(self.seed, "flip", epoch))
            flips = torch.rand(len(self.facts), generator=generator) < 0.5
            self._flips_of = (epoch, flips.to(indices.device))
        return self._flips_of[1][indices]


def flipped(pixels: Tensor, flips: Tensor) -> Tensor:
    """Flip images (B, C, H, W) horizontally where `flips`, (B,), is true."""
    flips = flips.to(pixels.device, non_blocking=True)
    return torch.where(flips[:, None, None, None], pixels.flip(-1), pixels)


def as_batch(pixels: Tensor) -> dict[str, Tensor]:
    """Make what objectives take of uint8: float32 in [-1, 1]."""
    return {"pixel_values": pixels.float().div_(127.5).sub_(1)}


def image_batches(
    images: Images,
    decoding: Decoding,
    layout: Layout,
    seed: int = 0,
    device: torch.device | str = "cpu",
    memory_limit: float = 2 * GIB,
    progress: Any = iter,
) -> Batches:
    """Return the batches of images that can be read by number.

    Args:
        memory_limit, progress: as of `ImageSource`.

    Raises:
        UsageError: as of `Batches`.
    """
    require_enough(images, len(images), layout, decoding.class_conditional)  # before they are decoded
    source = ImageSource(images, decoding, seed, torch.device(device), memory_limit, progress)
    return Batches(source, layout, seed, device, decoding.class_conditional, decoding.num_workers)
