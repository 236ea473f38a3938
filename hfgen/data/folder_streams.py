"""`FolderStream`: the images of a folder, read one after the other from any place on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hfgen.data.records import Home
from hfgen.data.walk import Found


@dataclass(frozen=True)
class WalkedHome(Home):
    """The home of files that a walk found, whose links were followed and counted there."""

    def _inside(self, path: str) -> str:
        return path


@dataclass
class FolderStream:
    """The records of a folder in their order, with those methods of a `datasets.IterableDataset` that streams need.

    Attributes:
        labels: class of each file; None without classes.
        start: number of the record with which `iter` begins.
        position: number of the record that it yields next.
    """

    found: Found
    files: list[str]
    labels: list[int] | None
    start: int = 0
    position: int = 0
    num_shards: int = 1

    def shard(self, num_shards: int, index: int) -> "FolderStream":
        return FolderStream(self.found, self.files, self.labels)

    def iter(self, batch_size: int) -> Iterator[Any]:
        """Yield arrow tables with the columns `image` and, where there are classes, `label`."""
        for first in range(self.start, len(self.files), batch_size):
            part = range(len(self.files))[first : first + batch_size]
            self.position = part.stop
            yield self.table(part)

    def table(self, rows: range) -> Any:
        import pyarrow

        kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        columns = {"image": pyarrow.array([self.found.record(self.files[row]) for row in rows], kind)}
        if self.labels is not None:
            columns["label"] = pyarrow.array([self.labels[row] for row in rows], pyarrow.int64())
        return pyarrow.table(columns)

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a place, in this form or in that of the `datasets` by which folders were read before."""
        if "position" not in state:
            blocks = state["examples_iterable"]
            place = blocks["previous_state"]["shard_example_idx"] + blocks["num_chunks_since_previous_state"]
        else:
            place = state["position"]
        self.start = self.position = place
