"""Folders of images become datasets: read by index, or streamed in the same order."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from hfgen.data.archives import is_archive, unpacked
from hfgen.data.arrangement import Arrangement, arranged, display
from hfgen.data.headers import inspect_headers
from hfgen.data.images import Images
from hfgen.data.records import Home
from hfgen.data.sources import BUILT_IN, DataSource
from hfgen.data.walk import Found, left_out_note, walk
from hfgen.errors import UsageError, counted

TEXTS = (".csv", ".tsv", ".jsonl", ".ndjson")
TABLES = (".parquet", ".arrow", *TEXTS)  # read where there are no images
FEW = 4  # times the bytes of a folder's images that its archives have, where these are the data


def found_in(source: DataSource) -> Found | None:
    """Return the files of a folder or an archive of images; None where the source is neither.

    Raises:
        UsageError: there is nothing in it to read.
    """
    path, name = source.path, source.name
    if path.is_file() and is_archive(path):
        found: Found = unpacked(name, [path])
    elif name in BUILT_IN or not path.is_dir():
        return None
    else:
        found = walk(path)
        archives = [path / other for other in found.others if is_archive(other)]
        tables = [path / other for other in found.others if other.lower().endswith(TABLES)]
        if found.images and not _are_previews(found, archives + tables):
            return found
        if tables:
            return None
        if archives:
            found = unpacked(name, archives)
    if found.images:
        return found
    what = "holds no images that hfgen reads" if found.left_out else "is an empty folder"
    told = "".join(f"; {note}" for note in left_out_note(found.left_out))
    raise UsageError(f"The dataset {name!r} {what}{told}.")


def _are_previews(found: Found, packed: list[Path]) -> bool:
    """Return True where a folder's images are few beside those in its archives, or in tables with a column of images.

    Such are the pictures beside the files of a dataset that was downloaded from the Hub.
    """
    packed = [path for path in packed if path.suffix.lower() != ".parquet" or _holds_images(path)]
    packed = [path for path in packed if path.suffix.lower() not in TEXTS]
    if not packed:
        return False
    sizes = (os.path.getsize(found.root / path) for path in found.images)
    return sum(path.stat().st_size for path in packed) > FEW * sum(sizes)


def _holds_images(path: Path) -> bool:
    import pyarrow.parquet
    from pyarrow import types

    try:
        kinds = [field.type for field in pyarrow.parquet.read_schema(path)]
    except (OSError, pyarrow.ArrowException):
        return False
    return any(
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or (types.is_struct(kind) and kind.get_field_index("bytes") >= 0)
        for kind in kinds
    )


def images_from_folder(source: DataSource, found: Found) -> Images:
    """Read the split of a folder; images are opened where they lie."""
    chosen = _chosen(source, found)
    folder = Folder(found, chosen.files)
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
    """Images of a folder, opened and named by their numbers.

    Attributes:
        files: relative paths, which a walk found.
    """

    found: Found
    files: list[str]

    def open(self, index: int) -> Image.Image:
        return self.found.open(self.files[index])

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


def stream_of_folder(source: DataSource, found: Found) -> tuple[FolderStream, Arrangement]:
    """Return the records of a split, and what was chosen."""
    chosen = _chosen(source, found)
    labels = _labels(chosen)
    return FolderStream(found, chosen.files, None if labels is None else labels.tolist()), chosen
