"""Parquet files as people keep them: which of them hold the images, and their rows without a copy in a cache."""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hfgen.errors import UsageError, first_line

PARQUET = (".parquet", ".pq")
MOST_IN_MEMORY = 2**28  # bytes of parquet files that are read without a copy in the cache of `datasets`


def by_split(files: str | dict[str, Any]) -> dict[str, list[Path]]:
    """Return split -> files, from what `datasets` takes as `data_files`."""
    named = {"train": files} if isinstance(files, str) else files
    lists = {split: [found] if isinstance(found, str) else found for split, found in named.items()}
    return {split: [Path(path) for one in found for path in sorted(glob.glob(one))] for split, found in lists.items()}


def bytes_of(files: str | dict[str, Any]) -> int:
    """Return the bytes of parquet files in memory, as far as their headers tell; of many files those on the disk."""
    import pyarrow
    import pyarrow.parquet

    paths = [path for found in by_split(files).values() for path in found]
    on_disk = sum(path.stat().st_size for path in paths)
    if on_disk > MOST_IN_MEMORY:
        return on_disk
    try:
        headers = [pyarrow.parquet.read_metadata(path) for path in paths]
    except (pyarrow.ArrowException, OSError):
        return on_disk  # it fails when it is read
    groups = [header.row_group(number) for header in headers for number in range(header.num_row_groups)]
    return max(on_disk, sum(group.total_byte_size for group in groups))


def with_pictures(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Divide the files of one table: those that have its columns of images, and others, such as statistics of it."""
    columns = {file: picture_columns(file) for file in files}
    images = {name for found in columns.values() for name, is_image in found.items() if is_image}
    if not images:
        return [*files], []
    kept = [file for file in files if images & columns[file].keys() or not columns[file]]
    return kept, [file for file in files if file not in kept]


def picture_columns(file: Path) -> dict[str, bool]:
    """Return the columns of a file, and whether each may hold images; none of a file that cannot be read."""
    import pyarrow.parquet

    try:
        return {field.name: may_hold_images(field.type) for field in pyarrow.parquet.read_schema(file)}
    except (OSError, pyarrow.ArrowException):
        return {}


def may_hold_images(kind: Any) -> bool:
    """Return whether a type of arrow is that of bytes, alone or beside a path, as `datasets` writes images."""
    from pyarrow import types

    if types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def read_in_memory(name: str, root: Path, files: Sequence[Path]) -> Any:
    """Read parquet files as `datasets` would, without a copy in its cache; folders as `label=cat` are a column.

    Args:
        name: of the dataset, for messages.
        root: below which names of folders are columns.

    Raises:
        UsageError: they are damaged, or do not fit together.
    """
    import datasets
    import pyarrow
    import pyarrow.parquet

    try:
        tables = [_with_folders(pyarrow.parquet.read_table(f, partitioning=None), root, f) for f in files]
        table = pyarrow.concat_tables(tables, promote_options="default")
        features = datasets.Features.from_arrow_schema(table.schema)
        return datasets.Dataset(datasets.table.InMemoryTable(table).cast(features.arrow_schema))
    except (pyarrow.ArrowException, OSError, ValueError, TypeError) as error:
        raise UsageError(f"The dataset {name!r} cannot be read: {first_line(error)}") from error


def _with_folders(table: Any, root: Path, file: Path) -> Any:
    """Add the columns that the names of folders give, as Spark and pandas divide tables."""
    import pyarrow

    for name, value in columns_of_folders(root, file).items():
        if name not in table.column_names:
            table = table.append_column(name, pyarrow.array([value] * table.num_rows, pyarrow.string()))
    return table


def columns_of_folders(root: Path, file: Path) -> dict[str, str]:
    """Return column -> value, of each folder between the root and a file that is called `column=value`."""
    parts = file.relative_to(root).parts[:-1] if file.is_relative_to(root) else ()
    pairs = [part.partition("=") for part in parts if part.partition("=")[1]]
    return {name: value for name, _, value in pairs if name}
