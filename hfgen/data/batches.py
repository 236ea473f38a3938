"""Batches of images, in an order that is a function of (seed, epoch, position) alone.

So a run can be resumed at any step without replaying the data, and the global batch of a step holds the same images
however many processes and micro-batches it is split into.
"""

import functools
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hfgen.data.decoding import Decoding
from hfgen.data.images import Images, decode_images
from hfgen.data.layout import Layout, finished, in_steps, no_labels, too_large
from hfgen.data.looks import evenly_spaced
from hfgen.data.workers import decoded
from hfgen.errors import UsageError
from hfgen.noise import key

GIB = 1 << 30


class Batches:
    """The micro-batches of each optimizer step, on the device.

    Small datasets are decoded once and stay in memory as uint8; larger ones are decoded by worker processes when they
    are needed.

    Args:
        memory_limit: bytes of decoded pixels up to which the data stay in memory.
        progress: wraps the indices of the images while they are decoded into memory.

    Raises:
        UsageError: the global batch is larger than the data, or labels are wanted and there are none.
    """

    def __init__(
        self,
        images: Images,
        decoding: Decoding,
        layout: Layout,
        seed: int = 0,
        device: torch.device | str = "cpu",
        memory_limit: float = 2 * GIB,
        progress: Any = iter,
    ) -> None:
        self.images, self.decoding, self.layout, self.seed = images, decoding, layout, seed
        self.device = torch.device(device)
        self._flips_of = (-1, torch.empty(0))
        self._examples: dict[str, Tensor] | None = None
        self.labels = _wanted_labels(images) if decoding.class_conditional else None
        if layout.global_batch_size > len(images):
            raise UsageError(too_large(layout, images.name, len(images)))
        self.steps_per_epoch = len(images) // layout.global_batch_size
        size, self.pixels = len(images) * images.channels * decoding.resolution**2, None
        if size <= memory_limit:  # everything that an index selects from is on one device: no step waits for a copy
            self.pixels = decode_images(images, decoding.resolution, decoding.center_crop, progress).to(self.device)
            self.labels = None if self.labels is None else self.labels.to(self.device)

    def steps(
        self, first: int, last: int, stopped: Callable[[], bool] | None = None
    ) -> Iterator[list[dict[str, Tensor]]]:
        """Yield this process's micro-batches of each optimizer step in [first, last).

        Args:
            stopped: as for `StreamBatches`; not used, since these data never block.
        """
        source = self._resident(first, last) if self.pixels is not None else self._decoded(first, last)
        return in_steps(source, self.layout.accumulation)

    def epochs(self, step: int) -> float:
        """Return the passes over the data in `step` steps."""
        return step / self.steps_per_epoch

    def examples(self, count: int) -> dict[str, Tensor]:
        """Return at most `count` images, evenly spaced over the data and not flipped: always the same."""
        if self._examples is None:
            indices = torch.tensor(list(evenly_spaced(len(self.images), count)))
            if self.pixels is not None:
                indices = indices.to(self.device)
                pixels = self.pixels[indices]
            else:
                pixels = torch.from_numpy(np.stack([self._decoder(i) for i in indices.tolist()])).to(self.device)
            self._examples = finished(pixels, None, self._labels_of(indices))
        return self._examples

    def state_dict(self) -> None:
        """Return nothing to keep in a checkpoint: the step alone says where in the data a run goes on."""

    def load_state_dict(self, state: Any) -> None:
        """
        Raises:
            UsageError: the checkpoint is of a streamed dataset, which has another order.
        """
        if state is not None:
            raise UsageError(
                "The checkpoint was written with --streaming, this run is without; resume with --streaming."
            )

    def _resident(self, first: int, last: int) -> Iterator[dict[str, Tensor]]:
        assert self.pixels is not None
        for epoch, indices in self._indices(first, last):
            pixels = self.pixels.index_select(0, indices)  # whole rows; [] goes by element
            yield finished(pixels, self._flips(epoch, indices), self._labels_of(indices))

    def _decoded(self, first: int, last: int) -> Generator[dict[str, Tensor], None, None]:
        asked = ((indices.tolist(), (epoch, indices)) for epoch, indices in self._indices(first, last))
        for pixels, (epoch, indices) in decoded(asked, self._decoder, self.decoding.num_workers, self.device):
            yield finished(pixels, self._flips(epoch, indices), self._labels_of(indices))

    @property
    def _decoder(self) -> Any:
        how = self.decoding
        return functools.partial(self.images.decode, resolution=how.resolution, center_crop=how.center_crop)

    def _indices(self, first: int, last: int) -> Iterator[tuple[int, Tensor]]:
        """Yield (epoch, indices of the images) of each micro-batch of this process."""
        known = -1
        for step in range(first, last):
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != known:
                order, known = self._permutation(epoch), epoch
            start = position * self.layout.global_batch_size
            batch = order[start : start + self.layout.global_batch_size]
            for micro in range(self.layout.accumulation):
                yield epoch, batch[self.layout.rows(micro)]

    def _permutation(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(key(self.seed, "order", epoch))
        order = torch.randperm(len(self.images), generator=generator)
        return order if self.pixels is None else order.to(self.device)

    def _flips(self, epoch: int, indices: Tensor) -> Tensor | None:
        if not self.decoding.random_flip:
            return None
        if self._flips_of[0] != epoch:
            generator = torch.Generator().manual_seed(key(self.seed, "flip", epoch))
            flips = torch.rand(len(self.images), generator=generator) < 0.5
            self._flips_of = (epoch, flips.to(indices.device))
        return self._flips_of[1][indices]

    def _labels_of(self, indices: Tensor) -> Tensor | None:
        return None if self.labels is None else self.labels[indices]


def _wanted_labels(images: Images) -> Tensor:
    if images.labels is None or not images.all_labeled:
        raise UsageError(no_labels(images))
    return images.labels
