"""Folders of images become datasets: read by index, or streamed in the same order."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hfgen.data.arrangement import Arrangement, arranged, display
from hfgen.data.headers import inspect_headers
from hfgen.data.images import Images
from hfgen.data.records import Home
from hfgen.data.sources import BUILT_IN, DataSource
from hfgen.data.walk import Found, left_out_note, walk
from hfgen.errors import UsageError, counted
from hfgen.modalities.formats import open_picture

TABLES = (".parquet", ".pq", ".arrow", ".csv", ".tsv", ".jsonl", ".ndjson")  # read where there are no images


def found_in(source: DataSource) -> Found | None:
    """Return the files of a folder of images; None where the source is none.

    Raises:
        UsageError: it is a folder in which there is nothing to read.
    """
    if source.name in BUILT_IN or not source.path.is_dir():
        return None
    found = walk(source.path)
    if found.images:
        return found
    if any(path.lower().endswith(TABLES) for path in found.others):
        return None
    what = "is an empty folder" if not found.left_out else "holds no images that hfgen reads"
    told = "".join(f"; {note}" for note in left_out_note(found.left_out))
    raise UsageError(f"The dataset {source.name!r} {what}{told}.")


def images_from_folder(source: DataSource, found: Found) -> Images:
    """Read the split of a folder; images are opened where they lie."""
    chosen = _chosen(source, found)
    folder = Folder(str(found.root), chosen.files)
    mode, sizes, notes = inspect_headers(source.name, len(chosen.files), folder.open, folder.name)
    return Images(
        name=source.name,
        open_image=folder.open,
        name_image=folder.name,
        count=len(chosen.files),
        mode=mode,
        sizes=sizes,
        notes=[*chosen.notes, *notes],
        labels=_labels(chosen),
        label_names=chosen.names,
        label_problem=chosen.no_classes,
        splits=chosen.splits,
    )


@dataclass(frozen=True)
class Folder:
    """Files of a folder, opened and named by their numbers.

    Attributes:
        files: relative paths, which a walk found.
    """

    root: str
    files: list[str]

    def open(self, index: int) -> Image.Image:
        return open_picture(os.path.join(self.root, self.files[index]))

    def name(self, index: int) -> str:
        return display(self.files[index])


@dataclass(frozen=True)
class WalkedHome(Home):
    """The home of files that a walk found, whose links were followed and counted there."""

    def _inside(self, path: str) -> str:
        return path


def _chosen(source: DataSource, found: Found) -> Arrangement:
    chosen = arranged(source.name, found.images, found.folders, source.split)
    columns = ["image", "label"] if chosen.names else ["image"]
    for wanted, kind in ((source.image_column, "image"), (source.label_column, "label")):
        if wanted not in (None, kind) or (wanted is not None and wanted not in columns):
            raise UsageError(f"{source.name} has no column {wanted!r} for that. Columns: {', '.join(columns)}.")
    if found.links:
        chosen.notes.append(f"{counted(found.links, 'image')} reached by links")
    chosen.notes.extend(left_out_note(found.left_out))
    return chosen


def _labels(chosen: Arrangement) -> torch.Tensor | None:
    if chosen.classes is None or chosen.names is None:
        return None
    numbers = {name: number for number, name in enumerate(chosen.names)}
    return torch.tensor([numbers[name] for name in chosen.classes])


@dataclass
class FolderStream:
    """The records of a folder in their order, with those methods of a `datasets.IterableDataset` that streams need.

    Attributes:
        labels: class of each file; None without classes.
        start: number of the record with which `iter` begins.
        position: number of the record that it yields next.
    """

    root: Path
    files: list[str]
    labels: list[int] | None
    start: int = 0
    position: int = 0
    num_shards: int = 1

    def shard(self, num_shards: int, index: int) -> "FolderStream":
        return FolderStream(self.root, self.files, self.labels)

    def iter(self, batch_size: int) -> Iterator[Any]:
        """Yield arrow tables with the columns `image` and, where there are classes, `label`."""
        for first in range(self.start, len(self.files), batch_size):
            part = range(len(self.files))[first : first + batch_size]
            self.position = part.stop
            yield self.table(part)

    def table(self, rows: range) -> Any:
        import pyarrow

        kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
        columns = {"image": pyarrow.array([_record(self.root, self.files[row]) for row in rows], kind)}
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


def _record(root: Path, path: str) -> dict[str, Any]:
    """Return the path of a file, or its bytes where the path cannot be written as text."""
    full = os.path.join(root, path)
    try:
        full.encode()
    except UnicodeEncodeError:
        return {"bytes": Path(full).read_bytes(), "path": os.fsencode(path).decode("utf-8", "replace")}
    return {"bytes": None, "path": full}


def stream_of_folder(source: DataSource, found: Found) -> tuple[FolderStream, Arrangement]:
    """Return the records of a split, and what was chosen."""
    chosen = _chosen(source, found)
    labels = _labels(chosen)
    return FolderStream(found.root, chosen.files, None if labels is None else labels.tolist()), chosen
