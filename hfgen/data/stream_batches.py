"""Streamed images -> batches: what `hfgen.data.batches` is for data whose images have numbers.

The last, incomplete global batch of an epoch is left out here too.
"""

import functools
import itertools
import os
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hfgen.data.layout import Layout, finished, in_steps, no_labels, too_large
from hfgen.data.pixels import open_record, to_pixels, told
from hfgen.data.stream_order import Block, EpochEnd, Place, Start, Stream, read_ahead
from hfgen.data.streams import StreamedImages, first_records
from hfgen.data.workers import decoded
from hfgen.errors import UsageError

Steps = Generator[tuple[list[tuple[Block, int]], Place], None, None]


@dataclass(frozen=True)
class _Rest:
    """What belongs to a micro-batch beside its pixels."""

    flips: Tensor
    labels: Tensor | None
    after: Place  # once its step is done


class StreamBatches:
    """The micro-batches of each optimizer step, on the device.

    Every process reads the whole stream, and decodes only its own rows of a global batch: to read bytes and not look
    at them is cheap beside decoding, and so the order does not depend on how many processes there are.

    Args:
        images: the data, as `stream_images` found them.
        shuffle_buffer_size: images that are mixed with each other.
        note: told what the user should know.

    Raises:
        UsageError: the global batch is larger than the data, or labels are wanted and there are none.
    """

    def __init__(
        self,
        images: StreamedImages,
        resolution: int,
        layout: Layout,
        seed: int = 0,
        device: torch.device | str = "cpu",
        *,
        center_crop: bool = True,
        random_flip: bool = False,
        class_conditional: bool = False,
        shuffle_buffer_size: int = 1000,
        num_workers: int | None = None,
        note: Callable[[str], Any] = warnings.warn,
    ) -> None:
        if class_conditional and images.label_column is None:
            raise UsageError(no_labels(images))
        if images.count is not None and layout.global_batch_size > images.count:
            raise UsageError(too_large(layout, images.name, images.count))
        self.images, self.resolution, self.layout, self.device = images, resolution, layout, torch.device(device)
        self.random_flip, self.num_workers, self.note = random_flip, num_workers, note
        self.stream = Stream(images, seed, shuffle_buffer_size, class_conditional)
        self.decoder = functools.partial(
            _decode, name=images.name, mode=images.mode, resolution=resolution, center_crop=center_crop
        )
        self.place = Place()
        self._examples: dict[str, Tensor] | None = None

    @property
    def steps_per_epoch(self) -> int:
        """
        Raises:
            UsageError: the dataset does not say how many images it holds.
        """
        if self.images.count is None:
            raise UsageError(
                f"How many images {self.images.name} holds is not known before they are all read.\n"
                "Count in steps instead: --max_train_steps, --validation_steps."
            )
        return self.images.count // self.layout.global_batch_size

    def epochs(self, step: int) -> float:
        """How many passes over the data `step` steps are; where their length is unknown, the passes completed."""
        return float(self.place.epoch) if self.images.count is None else step / self.steps_per_epoch

    def steps(
        self, first: int, last: int, stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[list[dict[str, Tensor]]]:
        """For each optimizer step in [first, last): its micro-batches, of this process.

        Goes on from the last step, or from where `load_state_dict` says; what lies between that and `first` is read
        and dropped.

        Args:
            stopped: whether the run is to stop; asked while the network keeps one waiting, and ends the steps.
        """
        place = self.place if self.place.step <= first else Place()
        asked = self._asked(self._global_batches(place, stopped), first - place.step, last - place.step)
        return in_steps(self._finished(asked), self.layout.accumulation)

    def _finished(
        self, asked: Generator[tuple[list[Any], _Rest], None, None]
    ) -> Generator[dict[str, Tensor], None, None]:
        for pixels, rest in decoded(asked, self.decoder, self.num_workers, self.device):
            self.place = rest.after
            yield finished(pixels, rest.flips if self.random_flip else None, rest.labels)

    def _asked(self, steps: Steps, first: int, last: int) -> Generator[tuple[list[Any], _Rest], None, None]:
        """(records to decode, what belongs to them) of each micro-batch of this process."""
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
        """Of each step, for each row (block, number in its order); and the place after it."""
        began, step = place, place.step  # began: where this epoch does, as far as it is read here
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
        """An epoch without a step would be followed by others like it, for ever."""
        if began.position == 0 and began.step == step:
            raise UsageError(too_large(self.layout, self.images.name, end.count))
        if end.epoch == 0 and self.images.count not in (None, end.count):
            self.note(
                f"{self.images.name} is said to hold {self.images.count:,} images; its stream ended after "
                f"{end.count:,}. An epoch is what comes."
            )

    def examples(self, count: int) -> dict[str, Tensor]:
        """The first `count` images of the stream, unflipped: always the same."""
        if self._examples is None:
            table = first_records(self.images.name, self.images.dataset, count)
            records = enumerate(table[self.images.image_column].to_pylist())
            pixels = torch.from_numpy(np.stack([self.decoder(record) for record in records]))
            labels = self.stream.labels_of(table)
            known = None if labels is None else torch.tensor(labels.tolist())
            self._examples = finished(pixels.to(self.device), None, known)
        return self._examples

    def state_dict(self) -> dict[str, Any]:
        """The place after the last step, and what it depends on; JSON."""
        return {**self._settings(), **asdict(self.place)}

    def _settings(self) -> dict[str, int]:
        return {"shuffle_buffer_size": self.stream.block_size, "num_shards": self.images.dataset.num_shards}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on from there.

        Raises:
            UsageError: the order would be another than that of the run that wrote it.
        """
        if state is None:
            raise UsageError("The checkpoint was written without --streaming; resume without it.")
        for name, now in self._settings().items():
            if state[name] != now:
                raise UsageError(
                    f"The checkpoint was written with {name} {state[name]}, this run has {now}.\n"
                    "Resume with the same settings and data, or start a new run."
                )
        place = {name: value for name, value in state.items() if name not in self._settings()}
        self.place = Place(**{**place, "start": Start(**place["start"])})


def _decode(
    record: tuple[int, Mapping[str, Any] | None], name: str, mode: str, resolution: int, center_crop: bool
) -> np.ndarray:
    """(number in the epoch's stream, image) -> pixels; runs in the workers."""
    number, image = record
    file = os.path.basename((image or {}).get("path") or "")
    with told(name, f"{number} of the stream{f' ({file})' if file else ''}"), open_record(image) as opened:
        return to_pixels(opened, mode, resolution, center_crop)
