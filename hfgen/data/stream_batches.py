"""Batches of streamed images, as `hfgen.data.batches` makes them of images that are read by index.

The last, incomplete global batch of an epoch is left out here too.
"""

import functools
import itertools
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hfgen.data.decoding import Decoding
from hfgen.data.image_batches import as_batch, flipped
from hfgen.data.layout import Layout, in_steps, no_labels, too_large
from hfgen.data.pixels import naming, to_pixels
from hfgen.data.records import named
from hfgen.data.stream_order import Block, EpochEnd, Place, Start, Stream, read_ahead
from hfgen.data.streams import StreamedImages, first_records
from hfgen.data.workers import decoded
from hfgen.errors import UsageError
from hfgen.settings.arguments import shown

Steps = Generator[tuple[list[tuple[Block, int]], Place], None, None]


@dataclass(frozen=True)
class _Rest:
    """Parts of a micro-batch beside its pixels."""

    flips: Tensor
    labels: Tensor | None
    after: Place  # once its step is done


class StreamBatches:
    """The micro-batches of each optimizer step, on the device.

    Every process reads the whole stream, and decodes only its own rows of a global batch. Reading bytes is cheap
    beside decoding them, and so the order does not depend on the number of processes.

    Args:
        images: the data, as `stream_images` found them.
        shuffle_buffer_size: number of images that are mixed with each other.
        note: called with a line for the user.

    Raises:
        UsageError: the global batch is larger than the data, or labels are wanted and there are none.
    """

    def __init__(
        self,
        images: StreamedImages,
        decoding: Decoding,
        layout: Layout,
        seed: int = 0,
        device: torch.device | str = "cpu",
        shuffle_buffer_size: int = 1000,
        note: Callable[[str], Any] = warnings.warn,
    ) -> None:
        if decoding.class_conditional and images.label_column is None:
            raise UsageError(no_labels(images))
        if images.count is not None and layout.global_batch_size > images.count:
            raise UsageError(too_large(layout, images, images.count))
        self.images, self.decoding, self.layout, self.note = images, decoding, layout, note
        self.facts = images
        self.device = torch.device(device)
        self.stream = Stream(images, seed, shuffle_buffer_size, decoding.class_conditional)
        self.decoder = functools.partial(_decode, images, decoding)
        self.place = Place()
        self._examples: dict[str, Tensor] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of optimizer steps in a pass over the data.

        Raises:
            UsageError: the dataset does not say how many images it holds.
        """
        if self.images.count is None:
            raise UsageError(
                f"The number of images in {self.images.name} is not known before they are all read.\n"
                "Count in steps instead: --max_train_steps, --validation_steps."
            )
        return self.images.count // self.layout.global_batch_size

    def epochs(self, step: int) -> float:
        """Return the passes over the data in `step` steps; for data of unknown length, the completed passes."""
        return float(self.place.epoch) if self.images.count is None else step / self.steps_per_epoch

    def steps(
        self, first: int, last: int, stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[list[dict[str, Tensor]]]:
        """Yield this process's micro-batches of each optimizer step in [first, last).

        The stream is read on from the last step, or from the place given to `load_state_dict`; batches between that
        and `first` are read and dropped.

        Args:
            stopped: returns whether the run shall stop; called while the network blocks, and ends the steps.
        """
        place = self.place if self.place.step <= first else Place()
        asked = self._asked(self._global_batches(place, stopped), first - place.step, last - place.step)
        return in_steps(self._finished(asked), self.layout.accumulation)

    def _finished(
        self, asked: Generator[tuple[list[Any], _Rest], None, None]
    ) -> Generator[dict[str, Tensor], None, None]:
        fetch = functools.partial(_fetch, self.decoder)
        for pixels, rest in decoded(asked, fetch, self.decoding.num_workers, self.device):
            self.place = rest.after
            yield self._batch(flipped(pixels, rest.flips) if self.decoding.random_flip else pixels, rest.labels)

    def _batch(self, pixels: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
        classes = {} if labels is None else {"class_labels": labels.to(pixels.device, non_blocking=True)}
        return {**as_batch(pixels), **classes}

    def _asked(self, steps: Steps, first: int, last: int) -> Generator[tuple[list[Any], _Rest], None, None]:
        """Yield (records to decode, the rest of the batch) for each micro-batch of this process."""
        try:
            for rows, after in itertools.islice(steps, first, last):
                for micro in range(self.layout.accumulation):
                    yield self._micro_batch(rows[self.layout.rows(micro)], after)
        finally:
            steps.close()

    def _micro_batch(self, rows: list[tuple[Block, int]], after: Place) -> tuple[list[Any], _Rest]:
        places = [(block, block.order[offset]) for block, offset in rows]
        size = self.stream.block_size
        records = [(block.number * size + index, block.images[index].as_py()) for block, index in places]
        flips = torch.tensor([block.flips[offset] for block, offset in rows])
        labels = [int(block.labels[index]) for block, index in places if block.labels is not None]
        return records, _Rest(flips, torch.tensor(labels) if labels else None, after)

    def _global_batches(self, place: Place, stopped: Callable[[], bool]) -> Steps:
        """Yield for each step its rows, as (block, number in the block's order), and the place after it."""
        began, step = place, place.step  # began: where the part of this epoch that is read here begins
        rows: list[tuple[Block, int]] = []
        blocks = read_ahead(self.stream.blocks(place), stopped)
        try:
            for block in blocks:
                if isinstance(block, EpochEnd):
                    self._check(block, began, step)
                    began, rows = Place(step, block.epoch + 1), []
                    continue
                before = block.number * self.stream.block_size
                for offset in range(max(0, began.position - before), len(block)):
                    rows.append((block, offset))
                    if len(rows) == self.layout.global_batch_size:
                        step += 1
                        at = before + offset + 1
                        yield rows, Place(step, block.epoch, at, block.number, block.start, block.first)
                        rows = []
        finally:
            blocks.close()

    def _check(self, end: EpochEnd, began: Place, step: int) -> None:
        """Refuse an epoch without a step, which would be followed by others like it for ever."""
        if began.position == 0 and began.step == step:
            raise UsageError(too_large(self.layout, self.images, end.count))
        if end.epoch == 0 and self.images.count not in (None, end.count):
            self.note(
                f"{self.images.name} is said to hold {self.images.count:,} images, but its stream ended after "
                f"{end.count:,}. An epoch is as long as the stream."
            )

    def examples(self, count: int) -> dict[str, Tensor]:
        """Return the first `count` images of the stream, not flipped: always the same."""
        if self._examples is None:
            table = first_records(self.images.name, self.images.dataset, count)
            records = enumerate(table[self.images.image_column].to_pylist())
            pixels = torch.from_numpy(np.stack([self.decoder(record) for record in records]))
            labels = self.stream.labels_of(table)
            known = None if labels is None else torch.tensor(labels.tolist())
            self._examples = self._batch(pixels.to(self.device), known)
        return self._examples

    def state_dict(self) -> dict[str, Any]:
        """Return the place after the last step, and the settings that it depends on; JSON."""
        return {**self._settings(), **asdict(self.place)}

    def _settings(self) -> dict[str, int]:
        return {"shuffle_buffer_size": self.stream.block_size, "num_shards": self.images.dataset.num_shards}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on from a saved place.

        Raises:
            UsageError: the order of this run differs from that of the run that saved it.
        """
        if state is None:
            raise UsageError("The checkpoint was written without --streaming; resume without it.")
        for name, now in self._settings().items():
            if state[name] != now:
                raise UsageError(
                    f"The checkpoint was written with {shown(name)} {state[name]}, this run has {now}.\n"
                    "Resume with the same settings and data, or start a new run."
                )
        place = {name: value for name, value in state.items() if name not in self._settings()}
        self.place = Place(**{**place, "start": Start(**place["start"])})


def _fetch(decode: Callable[[Any], np.ndarray], records: list[Any]) -> np.ndarray:
    return np.stack([decode(record) for record in records])


def _decode(images: StreamedImages, how: Decoding, record: tuple[int, Mapping[str, Any] | None]) -> np.ndarray:
    """Decode (number in the epoch's stream, image) to pixels; runs in the workers."""
    number, image = record
    name = functools.partial(named, image, number, images.home, "image {} of the stream")
    with naming(images.name, name), images.home.open(image) as opened:
        return to_pixels(opened, images.mode, how.resolution, how.center_crop, images.value_range)
