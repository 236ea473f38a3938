"""Images -> batches, in an order that is a function of (seed, epoch, position) alone.

So a run can be resumed at any step without replaying the data, and the global batch of a step holds the same images
however many processes and micro-batches it is split into.
"""

import functools
from collections.abc import Callable, Generator, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hfgen.data.images import Images, decode_images, evenly_spaced
from hfgen.data.layout import Layout, finished, in_steps, no_labels, too_large
from hfgen.data.workers import decoded
from hfgen.errors import UsageError
from hfgen.noise import key

GIB = 1 << 30


class Batches:
    """The micro-batches of each optimizer step, on the device.

    Small data are decoded once and stay in memory as uint8; larger data are decoded by worker processes as they are
    needed.

    Args:
        images: the data.
        class_conditional: add `class_labels`.
        memory_limit: bytes of decoded pixels up to which the data stay in memory.

    Raises:
        UsageError: the global batch is larger than the data, or labels are wanted and there are none.
    """

    def __init__(
        self,
        images: Images,
        resolution: int,
        layout: Layout,
        seed: int = 0,
        device: torch.device | str = "cpu",
        *,
        center_crop: bool = True,
        random_flip: bool = False,
        class_conditional: bool = False,
        memory_limit: float = 2 * GIB,
        num_workers: int | None = None,
        progress: Any = iter,
    ) -> None:
        self.images, self.layout, self.seed, self.device = images, layout, seed, torch.device(device)
        self.resolution, self.center_crop, self.random_flip = resolution, center_crop, random_flip
        self.num_workers = num_workers
        self._flips_of = (-1, torch.empty(0))
        self._examples: dict[str, Tensor] | None = None
        self.labels = _wanted_labels(images) if class_conditional else None
        if layout.global_batch_size > len(images):
            raise UsageError(too_large(layout, images.name, len(images)))
        self.steps_per_epoch = len(images) // layout.global_batch_size
        size = len(images) * images.channels * resolution**2
        self.pixels = decode_images(images, resolution, center_crop, progress) if size <= memory_limit else None
        if self.pixels is not None:  # then all that an index selects from lies beside them: no step waits for a copy
            self.pixels = self.pixels.to(self.device)
            self.labels = None if self.labels is None else self.labels.to(self.device)

    def steps(
        self, first: int, last: int, stopped: Callable[[], bool] | None = None
    ) -> Iterator[list[dict[str, Tensor]]]:
        """For each optimizer step in [first, last): its micro-batches, of this process.

        Args:
            stopped: as of `StreamBatches`; these data keep no one waiting.
        """
        source = self._resident(first, last) if self.pixels is not None else self._decoded(first, last)
        return in_steps(source, self.layout.accumulation)

    def epochs(self, step: int) -> float:
        """How many passes over the data `step` steps are."""
        return step / self.steps_per_epoch

    def examples(self, count: int) -> dict[str, Tensor]:
        """At most `count` images, evenly spaced over the data and unflipped: always the same."""
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
        """What a checkpoint must keep to go on in the data: nothing, the step says it all."""

    def load_state_dict(self, state: Any) -> None:
        """
        Raises:
            UsageError: the checkpoint is of a streamed dataset, whose order is another.
        """
        if state is not None:
            raise UsageError("The checkpoint was written with --streaming, this run is without; resume with it too.")

    def _resident(self, first: int, last: int) -> Iterator[dict[str, Tensor]]:
        assert self.pixels is not None
        for epoch, indices in self._indices(first, last):
            pixels = self.pixels.index_select(0, indices)  # whole rows; [] goes by element
            yield finished(pixels, self._flips(epoch, indices), self._labels_of(indices))

    def _decoded(self, first: int, last: int) -> Generator[dict[str, Tensor], None, None]:
        asked = ((indices.tolist(), (epoch, indices)) for epoch, indices in self._indices(first, last))
        for pixels, (epoch, indices) in decoded(asked, self._decoder, self.num_workers, self.device):
            yield finished(pixels, self._flips(epoch, indices), self._labels_of(indices))

    @property
    def _decoder(self) -> Any:
        return functools.partial(self.images.decode, resolution=self.resolution, center_crop=self.center_crop)

    def _indices(self, first: int, last: int) -> Iterator[tuple[int, Tensor]]:
        """(epoch, indices of the images) of each micro-batch of this process."""
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
        if not self.random_flip:
            return None
        if self._flips_of[0] != epoch:
            generator = torch.Generator().manual_seed(key(self.seed, "flip", epoch))
            flips = torch.rand(len(self.images), generator=generator) < 0.5
            self._flips_of = (epoch, flips.to(indices.device))
        return self._flips_of[1][indices]

    def _labels_of(self, indices: Tensor) -> Tensor | None:
        return None if self.labels is None else self.labels[indices]


def _wanted_labels(images: Images) -> Tensor:
    if images.labels is None:
        raise UsageError(no_labels(images))
    return images.labels
