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
    """

    files: list[str]
    source: str
    column: str | None
    values: dict[str, Any]
    columns: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def labels_beside(source: DataSource, found: Found) -> Beside | None:
    """Read the labels beside a folder's images; None where there are none.

    Raises:
        UsageError: a table is damaged, or two lie in one folder.
    """
    tables = [path for path in found.others if posixpath.basename(path).lower() in TABLES]
    if tables and type(found) is Found:
        return _of_tables(source, found, tables)
    stems = {path[:-4]: path for path in found.others if path.endswith(".cls")}
    images = {posixpath.splitext(path)[0]: path for path in found.images} if stems else {}
    sidecars = {stem: path for stem, path in stems.items() if stem in images}
    if not sidecars:
        return None
    texts = {images[stem]: found.read(path, MOST_CLS).decode("utf-8", "replace") for stem, path in sidecars.items()}
    return Beside(
        [*sidecars.values()], "the .cls files", "cls", {path: text.strip() for path, text in texts.items()}, ["cls"]
    )


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
    unused = [name for name in known if name != column and name not in FILE_COLUMNS]
    notes += [f"columns that are not used: {', '.join(unused)}"] if unused else []
    first = {path: several[0].get(column or "") for path, several in rows.items()}
    return Beside(tables, shown(tables), column, first, [*known], notes)


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
