"""Labels that lie beside images: tables called `metadata`, as `datasets` names them, and `.cls` files of webdataset.

A table lists files by their paths from its own folder. Only images that a walk found are matched, so that no table
makes hfgen open anything else.
"""

import posixpath
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfgen.data.arrangement import display, shown
from hfgen.data.columns import LABEL_COLUMNS
from hfgen.data.local_tables import columns_of
from hfgen.data.sources import DataSource
from hfgen.data.splits import SPLIT_COLUMNS, SPLITS
from hfgen.data.walk import Found
from hfgen.errors import UsageError, counted, did_you_mean, one_line

TABLES = ("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.ndjson", "metadata.parquet")
FILE_COLUMNS = ("file_name", "filename", "file", "image", "path", "image_file_name", "image_path", "file_path")
MOST_CLS = 4096  # bytes of a `.cls` file


@dataclass(frozen=True)
class Beside:
    """Labels that lie beside images.

    Attributes:
        files: those that hold them.
        source: these in words.
        column: that of the labels; None where the tables have none.
        values: image -> its label.
        columns: of all tables.
        notes: lines for the user.
        splits: image -> its split, where a column of the tables names it for each of them.
    """

    files: list[str]
    source: str
    column: str | None
    values: dict[str, Any]
    columns: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    splits: dict[str, str] = field(default_factory=dict)


def labels_beside(source: DataSource, found: Found) -> Beside | None:
    """Read the labels beside a folder's images; None where there are none.

    Raises:
        UsageError: a table is damaged, or two lie in one folder.
    """
    tables = [path for path in found.others if posixpath.basename(path).lower() in TABLES]
    if tables and type(found) is Found:
        return _of_tables(source, found, tables)
    stems = {path[:-4]: path for path in found.others if path.endswith(".cls")}
    images = {path: key for path in found.images if (key := _sample(path, stems)) is not None} if stems else {}
    if not images:
        return None
    used = {key: stems[key] for key in images.values()}
    texts = {key: found.read(path, MOST_CLS).decode("utf-8", "replace").strip() for key, path in used.items()}
    several = len(images) - len(used)
    notes = [f"{len(used)} samples hold {len(images)} images, and all are read"] if several else []
    labels = {path: texts[key] for path, key in images.items()}
    return Beside([*used.values()], "the .cls files", "cls", labels, ["cls"], notes)


def _sample(path: str, stems: Mapping[str, str]) -> str | None:
    """Return the sample of webdataset to which an image belongs: its name before an ending, or before all of them."""
    folder, _, name = path.rpartition("/")
    keys = (posixpath.splitext(path)[0], posixpath.join(folder, name.partition(".")[0]))
    return next((key for key in keys if key in stems), None)


def _of_tables(source: DataSource, found: Found, tables: list[str]) -> Beside:
    there, notes, known = {display(path): path for path in found.images}, list[str](), dict[str, None]()
    rows: dict[str, list[dict[str, Any]]] = {}
    missing: dict[str, list[str]] = {}
    for folder, several in Counter(posixpath.dirname(path) for path in tables).items():
        if several > 1:
            listed = shown(path for path in tables if posixpath.dirname(path) == folder)
            raise UsageError(f"{source.name} holds several tables for one folder: {listed}. Keep one of them.")
    for table in tables:
        columns, more = _read(source, found.root / table)
        notes += more
        files = next((columns[name] for name in _named(FILE_COLUMNS, columns)), None)
        if files is None:
            notes.append(f"{display(table)} is not read: none of its columns ({', '.join(columns)}) is file_name")
            continue
        known |= dict.fromkeys(columns)
        for number, file in enumerate(files):
            path = there.get(display(_below(posixpath.dirname(table), str(file))))
            if path is None:
                missing.setdefault(table, []).append(str(file))
            else:
                rows.setdefault(path, []).append({name: values[number] for name, values in columns.items()})
    for table, names in missing.items():
        notes.append(f"{counted(len(names), 'file')} of {display(table)} not found: {shown(names)}")
    column = source.label_column if source.label_column in known else next(iter(_named(LABEL_COLUMNS, known)), None)
    notes += _about_doubles(rows, column)
    by, splits = _splits(rows, _named(SPLIT_COLUMNS, known))
    unused = [name for name in known if name not in (column, by) and name not in FILE_COLUMNS]
    notes += [f"columns that are not used: {', '.join(unused)}"] if unused else []
    first = {path: several[0].get(column or "") for path, several in rows.items()}
    return Beside(tables, shown(tables), column, first, [*known], notes, splits)


def _splits(rows: Mapping[str, list[dict[str, Any]]], columns: list[str]) -> tuple[str | None, dict[str, str]]:
    """Return the column that names a split for each row, `train` among them, and the split of each image."""
    for column in columns:
        named = {path: SPLITS.get(str(several[0].get(column)).casefold()) for path, several in rows.items()}
        found = {path: split for path, split in named.items() if split is not None}
        if len(found) == len(named) and "train" in found.values():
            return column, found
    return None, {}


def _named(wanted: Iterable[str], columns: Iterable[str]) -> list[str]:
    by_name = {name.casefold(): name for name in columns}
    return [by_name[name] for name in wanted if name in by_name]


def _read(source: DataSource, path: Path) -> tuple[Mapping[str, list[Any]], list[str]]:
    if path.suffix.lower() != ".parquet":
        return columns_of(path)
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pydict(), []
    except (OSError, pyarrow.ArrowException) as error:
        raise UsageError(f"{source.name}: {path.name} cannot be read: {one_line(error, 200)}") from error


def _below(folder: str, file: str) -> str:
    """Return the path of a listed file as a walk writes it; one that leads elsewhere is never found."""
    return posixpath.normpath(posixpath.join(folder, file.strip().replace("\\", "/")))


def _about_doubles(rows: Mapping[str, list[dict[str, Any]]], column: str | None) -> list[str]:
    doubles = {path: several for path, several in rows.items() if len(several) > 1}
    differ = [p for p, several in doubles.items() if column and len({str(row.get(column)) for row in several}) > 1]
    notes = [f"{counted(len(doubles), 'image')} listed more than once: {shown(doubles)}"] if doubles else []
    if differ:
        notes.append(f"of these with different labels, where the first one counts: {shown(differ)}")
    return notes


def refuse_unknown(source: DataSource, columns: list[str]) -> None:
    """Raise a UsageError if a wanted column is not one of a folder's; its first is that of the images."""
    for wanted, known in ((source.image_column, columns[:1]), (source.label_column, columns[1:])):
        if wanted is not None and wanted not in known:
            near = did_you_mean(wanted, known) if known else ""
            raise UsageError(f"{source.name} has no column {wanted!r} for that.{near} Columns: {', '.join(columns)}.")
