"""Tables on this machine: text tables, and folders as `Dataset.save_to_disk` leaves them."""

import ast
import base64
import binascii
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hfgen.data.csv_files import DELIMITERS, MOST_BYTES, read_csv
from hfgen.data.pixel_columns import LISTED, listed_pixels, pixel_table
from hfgen.data.splits import SPLIT_COLUMNS, SPLITS
from hfgen.errors import UsageError, one_line
from hfgen.files import parse_json, read_json

TEXT = (".csv", ".tsv", ".jsonl", ".ndjson")
AS_BASE64 = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "Qk", "data:image/")  # how pictures begin


Splits = tuple[dict[str, Any], list[str]]  # split -> `datasets.Dataset`; notes for the user


def local_tables(path: Path) -> Splits | None:
    """Return the splits of a text table or a saved dataset, and notes; None where a path is neither.

    Raises:
        UsageError: it is damaged, or names files outside of its folder.
    """
    if path.is_file():
        return _splits_of(path) if path.suffix.lower() in TEXT else None
    if not path.is_dir():
        return None
    if (path / "dataset_dict.json").is_file():
        return {name: _saved(path / name) for name in _split_folders(path / "dataset_dict.json")}, []
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        return {"train": _saved(path)}, []
    tables = sorted(p for p in path.iterdir() if p.suffix.lower() in TEXT and p.is_file())
    if not tables or any(path.rglob("*.parquet")):
        return None
    if len(tables) == 1:
        return _splits_of(tables[0])
    named = {table.stem.casefold(): table for table in tables}
    if not {"train", "training"} & named.keys() or any(name not in SPLITS for name in named):
        listed = ", ".join(table.name for table in tables[:8])
        raise UsageError(f"{path} holds several tables: {listed}.\nGive one of them as --dataset_name.")
    read = {SPLITS[name]: _table_of_images(table) for name, table in named.items()}
    notes = [note for _, notes in read.values() for note in notes]
    return {split: _dataset(columns) for split, (columns, _) in read.items()}, notes


def _split_folders(index: Path) -> list[str]:
    names = _json(index).get("splits")
    if not isinstance(names, list) or not all(isinstance(n, str) and _is_plain(n) for n in names):
        raise UsageError(f"{index} does not list the folders of its splits.")
    return names


def _saved(folder: Path) -> Any:
    """Load a folder of `Dataset.save_to_disk`; its files must lie in it."""
    import datasets

    files = _json(folder / "state.json").get("_data_files")
    names = [file.get("filename") for file in files if isinstance(file, dict)] if isinstance(files, list) else []
    if not names or not all(isinstance(name, str) and _is_plain(name) for name in names):
        raise UsageError(f"{folder / 'state.json'} does not list the dataset's files, or files outside of its folder.")
    try:
        return datasets.load_from_disk(str(folder)).with_format(None)
    except Exception as error:
        raise UsageError(f"{folder} cannot be read as a saved dataset: {one_line(error, 300)}") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    return found if isinstance(found, dict) else {}


def _is_plain(name: str) -> bool:
    return Path(name).name == name and name not in ("", ".", "..") and "\\" not in name


def _splits_of(path: Path) -> Splits:
    """Read a text table; a column of splits' names, `train` among them, divides it."""
    columns, notes = _table_of_images(path)
    named = {name.casefold().replace(" ", "_"): name for name in columns}
    name = next((named[known] for known in SPLIT_COLUMNS if known in named), None)
    values = [] if name is None else [SPLITS.get(str(value).casefold()) for value in columns[name]]
    if name is None or None in values or "train" not in values:
        return {"train": _dataset(columns)}, notes
    notes = [*notes, f"splits are those of the column {name!r}"]
    found = {}
    for split in dict.fromkeys(value for value in values if value is not None):
        rows = [row for row, value in enumerate(values) if value == split]
        found[split] = _dataset({column: [all_[row] for row in rows] for column, all_ in columns.items()})
    return found, notes


def _table_of_images(path: Path) -> tuple[dict[str, list[Any]], list[str]]:
    is_text = path.suffix.lower() in (".csv", ".tsv")
    return (pixel_table(path, DELIMITERS) if is_text else None) or columns_of(path)


def columns_of(path: Path) -> tuple[dict[str, list[Any]], list[str]]:
    """Read a text table: column -> values, and notes for the user."""
    if path.suffix.lower() not in (".csv", ".tsv"):
        return _json_lines(path), []
    texts, notes = read_csv(path)
    return {name: _pictures(values) for name, values in texts.items()}, notes


def _json_lines(path: Path) -> dict[str, list[Any]]:
    if path.stat().st_size > MOST_BYTES:
        raise UsageError(f"{path.name} is longer than {MOST_BYTES >> 30} GiB; save it as parquet.")
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        try:
            row = parse_json(line) if line.strip() else None
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path.name}: line {number} is not JSON: {error}") from error
        if row is not None and not isinstance(row, dict):
            raise UsageError(f"{path.name}: line {number} is not a dictionary of column and value.")
        rows += [row] if row else []
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _pictures([row.get(name) for row in rows]) for name in names}


def _dataset(columns: dict[str, list[Any]]) -> Any:
    """Make a `datasets.Dataset` in memory; values of several types in a column become texts."""
    import datasets
    import pyarrow

    arrays = {}
    for name, values in columns.items():
        try:
            arrays[name] = pyarrow.array(values)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError, OverflowError):
            texts = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
            arrays[name] = pyarrow.array(texts)
    return datasets.Dataset(pyarrow.table(arrays))


def _pictures(values: list[Any]) -> list[Any]:
    """Turn texts that are pictures into bytes: base64, b'...' as pandas writes bytes, or pixels as numbers."""
    first = next((value for value in values if value), None)
    if isinstance(first, dict) and isinstance(first.get("bytes"), str):
        return _pictures([value.get("bytes") if isinstance(value, dict) else None for value in values])
    if not isinstance(first, str):
        return values
    turn: Callable[[str], bytes] | None = None
    if first.startswith(("b'", 'b"', "{'bytes'", '{"bytes"')):
        turn = _literal
    elif len(first) > 60 and first.startswith(AS_BASE64):
        turn = _base64
    elif LISTED.fullmatch(first):
        turn = listed_pixels
    if turn is None:
        return values
    try:
        return [turn(value) if value else None for value in values]
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError, LookupError, binascii.Error):
        return values


def _literal(text: str) -> bytes:
    found: Any = ast.literal_eval(text)
    return bytes(found["bytes"] if isinstance(found, dict) else found)


def _base64(text: str) -> bytes:
    return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
