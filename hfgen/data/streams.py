"""Streamed datasets, too large for the disk or not worth a copy on it: find them and inspect their first images."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from hfgen.data.columns import class_columns_of
from hfgen.data.facts import evenly_spaced
from hfgen.data.folder_streams import FolderStream, WalkedHome
from hfgen.data.folders import Folder, choose, found_in
from hfgen.data.headers import inspect_headers
from hfgen.data.image_column import with_images
from hfgen.data.images import ImageFacts
from hfgen.data.parquet_files import PARQUET
from hfgen.data.records import Home, Records
from hfgen.data.sources import DataSource, Table, arguments_of, load_table
from hfgen.data.walk import Found
from hfgen.errors import UsageError, clear

LOOKED_AT = 200  # records whose headers are read
SORTED = "these are of one class: sorted data are mixed within --shuffle_buffer_size images only"


@dataclass(frozen=True, kw_only=True)
class StreamedImages(ImageFacts):
    """A dataset that can only be read from one end to the other.

    Attributes:
        dataset: a `datasets.IterableDataset` that gives arrow tables.
        home: where its images may lie.
        label_column: a ClassLabel; None where there is none.
    """

    dataset: Any
    home: Home
    image_column: str
    label_column: str | None = None

    @property
    def how_to_label(self) -> str:
        return (
            "With --streaming, labels need a column of the type ClassLabel, which names all classes in advance.\n"
            "Without --streaming, a column of numbers is enough."
        )

    def renumbered(self, names: Sequence[str]) -> Self:
        """Give the classes of a local folder the numbers that they have in a run, if they are the same classes."""
        folder, ours = self.dataset, self.label_names or []
        if not isinstance(folder, FolderStream) or folder.labels is None or sorted(names) != sorted(ours):
            return self
        numbers = {place: names.index(name) for place, name in enumerate(ours)} | {-1: -1}
        labels = [numbers[label] for label in folder.labels]
        return replace(self, label_names=[*names], dataset=replace(folder, labels=labels))


def stream_images(source: DataSource) -> StreamedImages:
    """Find a dataset, and inspect the headers of its first images.

    Raises:
        UsageError: there is no such dataset, split or column; it holds no images; it cannot be streamed.
        HFGenError: it cannot be read, or one of these images cannot.
    """
    name = source.name
    if source.is_array:
        raise UsageError(f"{name} is an array, which is read whole; leave out --streaming.")
    _refuse_what_reads_all(source)
    if (folder := found_in(source)) is not None:
        return _stream_folder(source, folder)
    table = load_table(source, streaming=True)
    dataset = table.rows
    if dataset.features is None:
        raise UsageError(f"{name} does not say what columns it has, so it cannot be streamed.")
    dataset, column, column_notes = with_images(source, dataset)
    label = _label_column(source, dataset)
    # Tables keep images as undecoded bytes, and a block of them costs Python nothing per image.
    records = dataset.select_columns([column, label] if label else [column]).with_format("arrow")
    seen = first_records(name, records, LOOKED_AT)
    home = Home.of(source, dataset)
    found = Records(seen.select([column]).to_pylist(), column, home)
    headers = inspect_headers(source, len(found), found.open, found.name)
    complete = len(seen) < LOOKED_AT
    notes = [*table.notes, *column_notes, *headers.notes]
    names = dataset.features[label].names if label else None
    if not complete:
        notes.append(f"streamed: mode and sizes are those of the first {LOOKED_AT} images")
        if names and len(names) > 1 and len(seen[label].unique()) == 1:
            notes.append(SORTED)
    return StreamedImages(
        name=name,
        mode=headers.mode,
        sizes=headers.sizes,
        value_range=headers.value_range,
        count=len(seen) if complete else _count(source, table),
        notes=notes,
        label_names=names,
        splits=table.splits,
        dataset_id=source.dataset_id,
        dataset=records,
        home=home,
        image_column=column,
        label_column=label,
    )


def _refuse_what_reads_all(source: DataSource) -> None:
    for option, asked in (("--on_error skip", source.on_error == "skip"), ("--all_frames", source.all_frames)):
        if asked:
            raise UsageError(
                f"{option} reads every file before the training, and a stream is read once: leave out one."
            )


def _stream_folder(source: DataSource, found: Found) -> StreamedImages:
    """Stream the images that `images_from` would read, in their order; some headers, evenly spaced, are read."""
    chosen = choose(source, found)
    count, labels, names = len(chosen.files), chosen.labels, chosen.label_names
    if labels is not None and names is None:
        names = [*map(str, range(int(labels.max()) + 1))]
    seen = Folder(found, [chosen.files[row] for row in evenly_spaced(count, LOOKED_AT)])
    headers = inspect_headers(source, len(seen.files), seen.open, seen.name)
    if count > LOOKED_AT:
        headers.notes.append(f"streamed: mode and sizes are those of {LOOKED_AT} images, evenly spaced")
    if labels is not None and count > LOOKED_AT and len(labels.unique()) > 1 == len(labels[:LOOKED_AT].unique()):
        headers.notes.append(f"the first {LOOKED_AT}: {SORTED}")
    return StreamedImages(
        name=source.name,
        mode=headers.mode,
        sizes=headers.sizes,
        value_range=headers.value_range,
        count=count,
        notes=[*chosen.notes, *headers.notes],
        label_names=names,
        label_problem=chosen.label_problem,
        splits=chosen.splits,
        dataset=FolderStream(found, chosen.files, None if labels is None else labels.tolist()),
        home=WalkedHome((str(found.root),), absolute=True),
        image_column="image",
        label_column=None if labels is None else "label",
    )


def _label_column(source: DataSource, dataset: Any) -> str | None:
    wanted, found = source.label_column, class_columns_of(source, dataset)
    if wanted is not None and wanted not in found:
        raise UsageError(
            f"{source.name}: {wanted!r} does not name its classes, so their number is known only when all is read.\n"
            "With --streaming, labels must be of the type ClassLabel; without it, numbers are enough."
        )
    return wanted or next(iter(found), None)


def first_records(name: str, records: Any, count: int) -> Any:
    """Return at most the first `count` records, as an arrow table.

    Raises:
        UsageError: there is none.
    """
    with reading(name):
        first = next(iter(records.iter(batch_size=count)), None)
    if first is None:
        raise UsageError(f"The dataset {name!r} holds no images.")
    return first


def _count(source: DataSource, table: Table) -> int | None:
    """Return the number of images, if the files or the dataset's metadata say it."""
    if table.count is not None:
        return table.count
    if source.path.exists():
        return _count_in_files(source, table.split)
    split = (table.rows.info.splits or {}).get(table.split)
    return (split.num_examples or None) if split is not None else None


def _count_in_files(source: DataSource, split: str) -> int | None:
    """Return the number of rows in parquet files, or the number of image files."""
    import datasets
    import pyarrow.parquet

    names, options = arguments_of(source)
    builder = datasets.load_dataset_builder(*names, name=source.config_name, **options)
    files = [str(file) for file in builder.config.data_files[split]]
    if all(Path(file).suffix.lower() in PARQUET for file in files):
        return sum(pyarrow.parquet.read_metadata(file).num_rows for file in files)
    return len(files) if all(Path(file).suffix.lower() in builder.EXTENSIONS for file in files) else None


def reading(name: str) -> contextlib.AbstractContextManager[None]:
    """Turn whatever the network or a file raises in the `with` block into one error."""
    return clear((Exception,), lambda line: f"The stream of {name} cannot be read: {line}")
