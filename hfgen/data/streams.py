"""Datasets that are read as they come, too large for the disk or not worth a copy on it: found and looked at."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfgen.data.builtin import BUILT_IN_FOLDERS as BUILT_IN
from hfgen.data.images import ImageFacts, inspect_headers
from hfgen.data.pixels import open_record
from hfgen.data.sources import image_column_of, load_dataset, source_of
from hfgen.errors import HFGenError, UsageError

LOOKED_AT = 200  # records whose headers are read


@dataclass(frozen=True, kw_only=True)
class StreamedImages(ImageFacts):
    """A dataset that can only be read from one end to the other.

    Attributes:
        dataset: a `datasets.IterableDataset` that gives arrow tables.
        label_column: a ClassLabel; None where there is none.
    """

    dataset: Any
    image_column: str
    label_column: str | None = None

    @property
    def how_to_label(self) -> str:
        return (
            "Streamed, that takes a column of the type ClassLabel, which names all classes before they are read.\n"
            "Without --streaming a column of numbers will do."
        )


def stream_images(
    name: str,
    split: str = "train",
    config_name: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    cache_dir: str | None = None,
) -> StreamedImages:
    """Find a dataset, and look at the headers of its first images.

    Raises:
        UsageError: there is no such dataset, split or column; it holds no images; it cannot be streamed.
        HFGenError: it cannot be read, or one of these images cannot.
    """
    path = BUILT_IN.get(name, Path(name).expanduser())
    if path.is_file() and path.suffix in (".npz", ".npy"):
        raise UsageError(f"{name} is an array, which is read whole; leave out --streaming.")
    dataset = load_dataset(name, split, config_name, cache_dir, streaming=True)
    if dataset.features is None:
        raise UsageError(f"{name} does not say what columns it has, so it cannot be streamed.")
    column = image_column_of(name, dataset, image_column)
    label = _label_column(name, dataset, label_column)
    # Tables keep images as undecoded bytes, and a block of them costs Python nothing per image.
    records = dataset.select_columns([column, label] if label else [column]).with_format("arrow")
    seen = first_records(name, records, LOOKED_AT)
    mode, sizes, notes = inspect_headers(name, len(seen), lambda index: open_record(seen[column][index].as_py()))
    complete = len(seen) < LOOKED_AT
    names = dataset.features[label].names if label else None
    if not complete:
        notes.append(f"streamed: mode and sizes are those of the first {LOOKED_AT} images")
        if names and len(names) > 1 and len(seen[label].unique()) == 1:
            notes.append("these are of one class: sorted data are mixed within --shuffle_buffer_size images only")
    return StreamedImages(
        name=name,
        mode=mode,
        sizes=sizes,
        count=len(seen) if complete else _count(path, dataset, name, split),
        notes=notes,
        label_names=names,
        dataset_id=None if path.exists() else name,
        dataset=records,
        image_column=column,
        label_column=label,
    )


def _label_column(name: str, dataset: Any, wanted: str | None) -> str | None:
    import datasets

    if wanted is not None and wanted not in dataset.features:
        raise UsageError(f"{name} has no column {wanted!r}. Columns: {', '.join(dataset.features)}.")
    found = [c for c, feature in dataset.features.items() if isinstance(feature, datasets.ClassLabel)]
    if wanted is not None and wanted not in found:
        raise UsageError(
            f"{name}: {wanted!r} does not name its classes; how many there are is known only when all is read.\n"
            "Streamed, labels must be of the type ClassLabel; without --streaming numbers will do."
        )
    return wanted or next(iter(found), None)


def first_records(name: str, records: Any, count: int) -> Any:
    """At most `count` of them, an arrow table.

    Raises:
        UsageError: there is none.
    """
    with reading(name):
        first = next(iter(records.iter(batch_size=count)), None)
    if first is None:
        raise UsageError(f"The dataset {name!r} holds no images.")
    return first


def _count(path: Path, dataset: Any, name: str, split: str) -> int | None:
    """How many images there are, where that is written somewhere."""
    if path.exists():
        return _count_in_files(path, name, split)
    told_of = (dataset.info.splits or {}).get(split)
    return (told_of.num_examples or None) if told_of is not None else None


def _count_in_files(path: Path, name: str, split: str) -> int | None:
    """The rows of which parquet files tell, or the number of image files."""
    import datasets
    import pyarrow.parquet

    kind, options = source_of(name, path)
    builder = datasets.load_dataset_builder(*kind, **options)
    files = [str(file) for file in builder.config.data_files[split]]
    if kind == ["parquet"]:
        return sum(pyarrow.parquet.read_metadata(file).num_rows for file in files)
    return len(files) if all(Path(file).suffix.lower() in builder.EXTENSIONS for file in files) else None


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Within, whatever the network or a file raises is one error."""
    try:
        yield
    except HFGenError:
        raise
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise HFGenError(f"The stream of {name} cannot be read: {first_line}") from error
