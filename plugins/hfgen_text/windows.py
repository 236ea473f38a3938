"""Windows of a stream of ids: documents one after the other, cut into blocks.

In training the cuts are shifted: window i of epoch e is a function of (seed, e, i) alone. In evaluation they are the
disjoint blocks from the beginning. Windows hold documents of one class; where there are classes, each has its stream.
"""

import hashlib
import io
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from torch import Tensor, from_numpy

from hfgen import UsageError

IN_MEMORY = 1 << 29  # bytes of ids; more are written to a temporary file, and mapped


def dtype_for(num_ids: int) -> type[np.unsignedinteger] | type[np.int32]:
    """Return the smallest integers that hold ids below `num_ids`."""
    return np.uint8 if num_ids <= 1 << 8 else np.uint16 if num_ids <= 1 << 16 else np.int32


class IdFile:
    """Ids that are written one after the other: in memory or, if there are many, in a temporary file.

    Args:
        most: bytes that are kept in memory.
        folder: of the temporary file; None takes the system's.
    """

    def __init__(self, num_ids: int, most: int = IN_MEMORY, folder: Path | None = None) -> None:
        self.dtype, self.most, self.folder = np.dtype(dtype_for(num_ids)), most, folder
        self._file: IO[bytes] = io.BytesIO()

    def write(self, ids: np.ndarray) -> None:
        """Append ids."""
        self._file.write(ids.astype(self.dtype).tobytes())
        if isinstance(self._file, io.BytesIO) and self._file.tell() > self.most:
            held, self._file = self._file, tempfile.TemporaryFile(dir=self.folder)
            self._file.write(held.getbuffer())

    def read(self) -> np.ndarray:
        """Return all ids, (N,), and end the writing; a mapped file goes when they go."""
        with self._file as file:
            if isinstance(file, io.BytesIO):
                return np.frombuffer(file.getvalue(), self.dtype)
            file.flush()
            return np.memmap(file, self.dtype, "r")


@dataclass(frozen=True)
class Windows:
    """Blocks of streams of ids.

    Attributes:
        streams: class -> the ids of its documents; 0 alone where there are no classes.
        block_size: ids of a window.
        seed: of the shifts; None leaves all windows where they are.
    """

    streams: dict[int, np.ndarray]
    block_size: int
    seed: int | None = None

    def __post_init__(self) -> None:
        short = {number: len(ids) for number, ids in self.streams.items() if len(ids) < self.block_size}
        if short:
            number, length = next(iter(short.items()))
            where = f"class {number}" if len(self.streams) > 1 else "the text"
            raise UsageError(
                f"--block_size {self.block_size:,} is longer than all of {where}, which has {length:,} symbols.\n"
                "Give a smaller --block_size, or more text."
            )

    @property
    def counts(self) -> dict[int, int]:
        """Return the windows of each stream: all disjoint blocks or, where they are shifted, one less."""
        blocks = {number: len(ids) // self.block_size for number, ids in self.streams.items()}
        return blocks if self.seed is None else {number: max(1, count - 1) for number, count in blocks.items()}

    def __len__(self) -> int:
        return sum(self.counts.values())

    @property
    def labels(self) -> np.ndarray:
        """Return the class of each window: (N,), int64."""
        counts = self.counts
        return np.repeat(np.fromiter(counts, np.int64), np.fromiter(counts.values(), np.int64))

    def shift(self, number: int, epoch: int) -> int:
        """Return where the first window of a stream begins: 0 to block_size - 1, by (seed, epoch, stream)."""
        if self.seed is None:
            return 0
        free = len(self.streams[number]) - self.counts[number] * self.block_size
        choices = min(self.block_size, free + 1)
        drawn = hashlib.sha256(f"{self.seed} edges {epoch} {number}".encode()).digest()
        return int.from_bytes(drawn[:8], "big") % choices

    def fetch(self, indices: Iterable[int], epoch: int | None = None) -> Tensor:
        """Return windows of an epoch: (B, block_size), int32; None leaves them where they are."""
        places = np.asarray([*indices], np.int64)
        found = np.empty((len(places), self.block_size), np.int32)
        first = 0
        for number, count in self.counts.items():
            rows = np.flatnonzero((places >= first) & (places < first + count))
            start = 0 if epoch is None else self.shift(number, epoch)
            for row in rows:
                begin = start + (places[row] - first) * self.block_size
                found[row] = self.streams[number][begin : begin + self.block_size]
            first += count
        return from_numpy(found)
