"""Images -> batches, in an order that is a function of (seed, epoch, position) alone.

So a run can be resumed at any step without replaying the data, and the global batch of a step holds the same images
however many processes and micro-batches it is split into.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hfgen.arguments import TrainingArguments
from hfgen.data import Images, decode_all, evenly_spaced
from hfgen.errors import UsageError
from hfgen.noise import key

GIB = 1 << 30


@dataclass(frozen=True)
class Layout:
    """How the global batch of a step is split: into micro-batches, and each of these over the processes."""

    batch_size: int
    num_processes: int = 1
    process_index: int = 0
    accumulation: int = 1

    @classmethod
    def of(cls, accelerator: Any, arguments: TrainingArguments) -> "Layout":
        a = arguments
        return cls(
            a.train_batch_size, accelerator.num_processes, accelerator.process_index, a.gradient_accumulation_steps
        )

    @property
    def global_batch_size(self) -> int:
        return self.batch_size * self.num_processes * self.accumulation

    def rows(self, micro: int) -> slice:
        """This process's place in the global batch, for one micro-batch."""
        start = (micro * self.num_processes + self.process_index) * self.batch_size
        return slice(start, start + self.batch_size)

    def all_rows(self, device: torch.device) -> Tensor:
        """The same of all its micro-batches together, as indices."""
        everything = torch.arange(self.global_batch_size, device=device)
        return torch.cat([everything[self.rows(micro)] for micro in range(self.accumulation)])


class Batches:
    """The micro-batches of each optimizer step, on the device.

    Small data are decoded once and stay in memory as uint8; larger data stream through worker processes.

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
            raise UsageError(_too_large(layout, images))
        self.steps_per_epoch = len(images) // layout.global_batch_size
        size = len(images) * images.channels * resolution**2
        self.pixels = decode_all(images, resolution, center_crop, progress) if size <= memory_limit else None
        if self.pixels is not None and self.device.type != "cpu":
            self.pixels = self.pixels.to(self.device)

    @classmethod
    def of(cls, arguments: TrainingArguments, images: Images, layout: Layout, device: Any, progress: Any) -> "Batches":
        a = arguments
        return cls(
            images,
            a.resolution or images.resolution(),
            layout,
            a.seed,
            device,
            center_crop=a.center_crop,
            random_flip=a.random_flip,
            class_conditional=a.class_conditional,
            memory_limit=a.data_memory_limit * GIB,
            num_workers=a.dataloader_num_workers,
            progress=progress,
        )

    def steps(self, first: int, last: int) -> Iterator[list[dict[str, Tensor]]]:
        """For each optimizer step in [first, last): its micro-batches, of this process."""
        source = self._resident(first, last) if self.pixels is not None else self._streamed(first, last)
        micros: list[dict[str, Tensor]] = []
        for batch in source:
            micros.append(batch)
            if len(micros) == self.layout.accumulation:
                yield micros
                micros = []

    def examples(self, count: int) -> dict[str, Tensor]:
        """At most `count` images, evenly spaced over the data and unflipped: always the same."""
        if self._examples is None:
            indices = torch.tensor(list(evenly_spaced(len(self.images), count)))
            if self.pixels is not None:
                pixels = self.pixels[indices.to(self.pixels.device)]
            else:
                decoder = _Decoder(self.images, self.resolution, self.center_crop)
                pixels = torch.from_numpy(np.stack([decoder[i] for i in indices.tolist()])).to(self.device)
            self._examples = self._normalise(pixels, indices)
        return self._examples

    def _resident(self, first: int, last: int) -> Iterator[dict[str, Tensor]]:
        assert self.pixels is not None
        for epoch, indices in self._indices(first, last):
            pixels = self.pixels.index_select(0, indices.to(self.pixels.device))  # whole rows; [] goes by element
            yield self._finish(pixels, epoch, indices)

    def _streamed(self, first: int, last: int) -> Iterator[dict[str, Tensor]]:
        order = self._indices(first, last)
        loader = DataLoader(
            _Decoder(self.images, self.resolution, self.center_crop),
            batch_sampler=_Order(self, first, last),
            num_workers=self._workers(),
            pin_memory=self.device.type == "cuda",
        )
        for (epoch, indices), pixels in zip(order, loader, strict=True):  # both in the same order
            yield self._finish(pixels.to(self.device, non_blocking=True), epoch, indices)

    def _workers(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        return max(1, min(8, (os.cpu_count() or 2) - 1))

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
        return torch.randperm(len(self.images), generator=generator)

    def _finish(self, pixels: Tensor, epoch: int, indices: Tensor) -> dict[str, Tensor]:
        if self.random_flip:
            flips = self._flips(epoch)[indices].to(pixels.device)
            pixels = torch.where(flips[:, None, None, None], pixels.flip(-1), pixels)
        return self._normalise(pixels, indices)

    def _normalise(self, pixels: Tensor, indices: Tensor) -> dict[str, Tensor]:
        batch = {"pixel_values": pixels.float().div_(127.5).sub_(1)}
        if self.labels is not None:
            batch["class_labels"] = self.labels[indices].to(self.device)
        return batch

    def _flips(self, epoch: int) -> Tensor:
        if self._flips_of[0] != epoch:
            generator = torch.Generator().manual_seed(key(self.seed, "flip", epoch))
            self._flips_of = (epoch, torch.rand(len(self.images), generator=generator) < 0.5)
        return self._flips_of[1]


class _Order:
    """The indices of each micro-batch, made as the workers ask for them."""

    def __init__(self, batches: Batches, first: int, last: int) -> None:
        self.batches, self.first, self.last = batches, first, last

    def __iter__(self) -> Iterator[list[int]]:
        for _, indices in self.batches._indices(self.first, self.last):
            yield indices.tolist()


class _Decoder(Dataset[np.ndarray]):
    """What the worker processes run."""

    def __init__(self, images: Images, resolution: int, center_crop: bool) -> None:
        self.images, self.resolution, self.center_crop = images, resolution, center_crop

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images.decode(index, self.resolution, self.center_crop)


def _wanted_labels(images: Images) -> Tensor:
    if images.labels is None:
        raise UsageError(no_labels(images))
    return images.labels


def no_labels(images: Images) -> str:
    """What to do where labels are wanted and there are none."""
    return (
        f"{images.name} has no class labels, which class_conditional needs.\n"
        "Images in one sub-folder per class have them; or name a column: --label_column."
    )


def _too_large(layout: Layout, images: Images) -> str:
    parts: Sequence[str] = [f"train_batch_size {layout.batch_size}"]
    if layout.num_processes > 1:
        parts = [*parts, f"{layout.num_processes} processes"]
    if layout.accumulation > 1:
        parts = [*parts, f"gradient_accumulation_steps {layout.accumulation}"]
    noun = "image" if len(images) == 1 else "images"
    return (
        f"A batch of {layout.global_batch_size} ({' x '.join(parts)}) is larger than {images.name}: "
        f"{len(images)} {noun}.\nGive a smaller --train_batch_size, or more data."
    )
