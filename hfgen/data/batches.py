"""Batches of items, in an order that is a function of (seed, epoch, position) alone.

So a run can be resumed at any step without replaying the data, and the global batch of a step holds the same items
however many processes and micro-batches it is split into.
"""

import functools
from collections.abc import Callable, Generator, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from hfgen.data.facts import Items, evenly_spaced
from hfgen.data.layout import Layout, in_steps, no_labels, too_large
from hfgen.data.workers import decoded
from hfgen.errors import UsageError
from hfgen.noise import key

GIB = 1 << 30


class Source(Protocol):
    """The items that batches are made of: images as they are trained on, or windows of texts.

    Attributes:
        facts: of the dataset.
        labels: class of each item, (N,), -1 for one without; None where there are none.
        in_memory: all items lie in memory, on the device; else `fetch` runs in worker processes.
    """

    labels: Tensor | None
    in_memory: bool

    @property
    def facts(self) -> Items: ...

    def __len__(self) -> int: ...

    def fetch(self, indices: Tensor, epoch: int | None) -> Any:
        """Return items in their stored form, (B, ...): a tensor on the device if `in_memory`, else an array.

        Args:
            epoch: it may decide on flips, or where windows begin; None leaves the items as they are.
        """

    def finish(self, stored: Tensor) -> dict[str, Tensor]:
        """Turn stored items on the device into what objectives take, by the names of a batch."""


def require_enough(facts: Items, count: int, layout: Layout, class_conditional: bool) -> None:
    """Raise a UsageError if labels are wanted and some are missing, or if `count` items are less than a batch."""
    if class_conditional and (facts.labels is None or not facts.all_labeled):
        raise UsageError(no_labels(facts))
    if layout.global_batch_size > count:
        raise UsageError(too_large(layout, facts, count))


def _fetch(source: Source, asked: tuple[int, Tensor]) -> "np.ndarray[Any, Any]":
    """Fetch items in a worker, to which no more than the source is sent."""
    epoch, indices = asked
    return np.asarray(source.fetch(indices, epoch))


class Batches:
    """The micro-batches of each optimizer step, on the device.

    Args:
        class_conditional: whether labels are wanted.
        num_workers: processes that fetch what is not in memory; None takes the cores of this process but one.

    Raises:
        UsageError: the global batch is larger than the data, or labels are wanted and there are none.
    """

    def __init__(
        self,
        source: Source,
        layout: Layout,
        seed: int = 0,
        device: torch.device | str = "cpu",
        class_conditional: bool = False,
        num_workers: int | None = None,
    ) -> None:
        self.source, self.layout, self.seed, self.num_workers = source, layout, seed, num_workers
        self.facts, self.device = source.facts, torch.device(device)
        self._examples: dict[str, Tensor] | None = None
        require_enough(self.facts, len(source), layout, class_conditional)
        self.labels = source.labels if class_conditional else None
        self.steps_per_epoch = len(source) // layout.global_batch_size
        if source.in_memory:  # everything that an index selects from is on one device: no step waits for a copy
            self.labels = None if self.labels is None else self.labels.to(self.device)

    def steps(
        self, first: int, last: int, stopped: Callable[[], bool] | None = None
    ) -> Iterator[list[dict[str, Tensor]]]:
        """Yield this process's micro-batches of each optimizer step in [first, last).

        Args:
            stopped: as for `StreamBatches`; not used, since these data never block.
        """
        batches = self._resident(first, last) if self.source.in_memory else self._fetched(first, last)
        return in_steps(batches, self.layout.accumulation)

    def epochs(self, step: int) -> float:
        """Return the passes over the data in `step` steps."""
        return step / self.steps_per_epoch

    def examples(self, count: int) -> dict[str, Tensor]:
        """Return at most `count` items, evenly spaced over the data and as they are: always the same."""
        if self._examples is None:
            indices = torch.tensor(list(evenly_spaced(len(self.source), count)))
            indices = indices.to(self.device) if self.source.in_memory else indices
            stored = torch.as_tensor(self.source.fetch(indices, None)).to(self.device)
            self._examples = self._finished(stored, indices)
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
        for epoch, indices in self._indices(first, last):
            yield self._finished(self.source.fetch(indices, epoch), indices)

    def _fetched(self, first: int, last: int) -> Generator[dict[str, Tensor], None, None]:
        asked = (((epoch, indices), indices) for epoch, indices in self._indices(first, last))
        fetch = functools.partial(_fetch, self.source)
        for stored, indices in decoded(asked, fetch, self.num_workers, self.device):
            yield self._finished(stored, indices)

    def _finished(self, stored: Tensor, indices: Tensor) -> dict[str, Tensor]:
        batch = self.source.finish(stored)
        if self.labels is not None:
            batch["class_labels"] = self.labels[indices].to(stored.device, non_blocking=True)
        return batch

    def _indices(self, first: int, last: int) -> Iterator[tuple[int, Tensor]]:
        """Yield (epoch, indices of the items) of each micro-batch of this process."""
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
        order = torch.randperm(len(self.source), generator=generator)
        return order.to(self.device) if self.source.in_memory else order
