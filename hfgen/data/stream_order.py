"""Order of a streamed dataset: a function of (seed, epoch, position) alone.

    the shards, in an order keyed by (seed, epoch)
    -> one stream of records, cut in blocks of `shuffle_buffer_size`
    -> each block permuted, keyed by (seed, epoch, number of the block)

A shuffle buffer that yields one record and takes in the next would lose its records whenever a training stops. A
block loses none: a checkpoint says where in the stream it starts, and it is read again.
"""

import contextlib
import hashlib
import itertools
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from hfgen.data.streams import StreamedImages, reading
from hfgen.errors import HFGenError
from hfgen.noise import key


@dataclass(frozen=True)
class Start:
    """The start of a block in its epoch.

    Attributes:
        shard: number in the epoch's order of shards.
        stream: `IterableDataset.state_dict` within that shard; None at its start.
        skip: records to skip from there.
    """

    shard: int = 0
    stream: dict[str, Any] | None = None
    skip: int = 0


@dataclass(frozen=True)
class Place:
    """The place of a training in its data after `step` steps, which a checkpoint keeps.

    Attributes:
        position: records of the epoch that were read.
        block: number of the block with the last of them.
        start: where that block starts.
        first: digest of that block's first record, by which it is recognized; None at the start of an epoch.
    """

    step: int = 0
    epoch: int = 0
    position: int = 0
    block: int = 0
    start: Start = field(default_factory=Start)
    first: str | None = None


@dataclass(frozen=True)
class Block:
    """Records that are mixed with each other.

    Attributes:
        images: the undecoded records, an arrow column in the stream's order.
        labels: their classes in the same order, if they are wanted.
        order: indices into both, in the shuffled order.
        flips: whether to flip, in the shuffled order.
        first: digest of the first record.
    """

    epoch: int
    number: int
    start: Start
    images: Any
    labels: np.ndarray | None
    order: list[int]
    flips: list[bool]
    first: str

    def __len__(self) -> int:
        return len(self.order)


@dataclass(frozen=True)
class EpochEnd:
    """The end of an epoch, after its `count` records."""

    epoch: int
    count: int


class Stream:
    """The blocks of a dataset, epoch after epoch.

    Args:
        block_size: records in a block; fewer in the last one of an epoch.
        labeled: whether labels are wanted.
    """

    def __init__(self, images: StreamedImages, seed: int, block_size: int, labeled: bool) -> None:
        self.images, self.seed, self.block_size, self.labeled = images, seed, block_size, labeled

    def blocks(self, place: Place) -> Iterator[Block | EpochEnd]:
        """Yield blocks without end, from that of `place` on.

        Raises:
            HFGenError: the stream cannot be read, or has changed since `place` was saved.
        """
        count, blocks = place.block * self.block_size, self._resumed(place)
        for epoch in itertools.count(place.epoch):
            for block in blocks:
                count += len(block)
                yield block
            yield EpochEnd(epoch, count)
            count, blocks = 0, self._epoch(epoch + 1)

    def _resumed(self, place: Place) -> Iterator[Block]:
        """Yield the rest of an epoch.

        A shard is read on where `datasets` left off. (Within a file, `datasets` reads and drops the earlier records
        too.) Where that fails or leads elsewhere, as with a state of another version of `datasets`, the epoch is read
        again from its first shard, and the earlier blocks are dropped here.
        """
        rest = self._epoch(place.epoch, place.block, place.start)
        block: Block | None = None
        with contextlib.suppress(HFGenError):
            block = next(rest, None)
        if block is None or place.first not in (None, block.first):
            rest = itertools.islice(self._epoch(place.epoch), place.block, None)
            block = next(rest, None)
        if place.first is not None and (block is None or block.first != place.first):
            raise HFGenError(
                f"{self.images.name} has changed since the checkpoint was written: it holds other images there.\n"
                "Restore the data, or start a new run."
            )
        if block is not None:
            yield block
            yield from rest

    def _epoch(self, epoch: int, number: int = 0, start: Start = Start()) -> Iterator[Block]:
        """Yield the blocks of an epoch from block `number` on, which starts at `start`."""
        parts: list[Any] = []
        held, skip = 0, start.skip
        for shard, state, table in self._tables(epoch, start):
            taken = min(skip, len(table))
            skip -= taken
            while taken < len(table):
                if not parts:
                    begins = Start(shard, state, taken)
                parts.append(table.slice(taken, self.block_size - held))
                taken += len(parts[-1])
                held += len(parts[-1])
                if held == self.block_size:
                    yield self._block(epoch, number, begins, parts)
                    parts, held, number = [], 0, number + 1
        if parts:
            yield self._block(epoch, number, begins, parts)

    def _tables(self, epoch: int, start: Start) -> Iterator[tuple[int, dict[str, Any] | None, Any]]:
        """Yield (number of the shard in this epoch, the state before a table, that table)."""
        dataset = self.images.dataset
        generator = torch.Generator().manual_seed(key(self.seed, "shards", epoch))
        order = torch.randperm(dataset.num_shards, generator=generator).tolist()
        for number in range(start.shard, len(order)):
            shard = dataset.shard(num_shards=len(order), index=order[number])
            state = start.stream if number == start.shard else None
            with reading(self.images.name):
                if state is not None:
                    shard.load_state_dict(state)
                for table in shard.iter(batch_size=self.block_size):
                    yield number, state, table
                    state = shard.state_dict()

    def _block(self, epoch: int, number: int, start: Start, parts: list[Any]) -> Block:
        import pyarrow

        table = pyarrow.concat_tables(parts)  # copies nothing
        images, labels = table[self.images.image_column], self.labels_of(table)
        generator = torch.Generator().manual_seed(key(self.seed, "block", epoch, number))
        order = torch.randperm(len(table), generator=generator).tolist()
        flips = (torch.rand(len(table), generator=generator) < 0.5).tolist()
        return Block(epoch, number, start, images, labels, order, flips, _digest(images[0].as_py()))

    def labels_of(self, table: Any) -> np.ndarray | None:
        """Return the classes in a table; None where they are not wanted.

        Raises:
            HFGenError: some images have no class.
        """
        if not self.labeled:
            return None
        column = table[self.images.label_column]
        if column.null_count or (labels := column.to_numpy()).min() < 0:
            raise HFGenError(
                f"{self.images.name}: some images have no class in the column {self.images.label_column!r}, "
                "which --class_conditional needs."
            )
        return labels


def _digest(record: Mapping[str, Any] | None) -> str:
    """Hash a record, so that it is recognized wherever its file is."""
    record = record or {}
    known = record.get("bytes") or os.path.basename(record.get("path") or "").encode()
    return hashlib.blake2b(known, digest_size=8).hexdigest()


def read_ahead(
    blocks: Iterator[Block | EpochEnd], stopped: Callable[[], bool] = lambda: False
) -> Generator[Block | EpochEnd, None, None]:
    """Read blocks one ahead in a thread, so that training goes on during a download.

    `datasets` tries for minutes to reach a Hub that does not answer, which must not keep a run from stopping: then the
    iterator ends, and the thread is a daemon that is joined for a few seconds only.

    Args:
        stopped: returns whether the run shall stop.
    """
    ready: queue.Queue[Block | EpochEnd | BaseException] = queue.Queue()
    turn, closed = threading.Semaphore(1), threading.Event()

    def read() -> None:
        try:
            while turn.acquire() and not closed.is_set():
                ready.put(next(blocks))
        except BaseException as error:
            ready.put(error)

    thread = threading.Thread(target=read, name="hfgen-stream", daemon=True)
    thread.start()
    try:
        while True:
            try:
                block = ready.get(timeout=1)
            except queue.Empty:
                if stopped():
                    return
                continue
            if isinstance(block, BaseException):
                raise block
            turn.release()
            yield block
    finally:
        closed.set()
        turn.release()
        thread.join(timeout=5)
