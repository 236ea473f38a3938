"""Documents of a dataset: text files, a folder of them, `.jsonl`, tables with a column of texts, an id on the Hub.

They are read one after the other, each in pieces, anew at each pass; never all at once.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hfgen import DataSource, NoSplitError, UsageError, arranged, chosen_split, did_you_mean, load_table, splits_in
from hfgen_text.built_in import FOLDERS as BUILT_IN
from hfgen_text.text_files import check_start, json_lines, pieces

FILES = (".txt", ".text", ".md", ".rst", ".tex")  # of a folder; a file that is named may have any other ending
LINES = (".jsonl", ".ndjson")
TABLES = (".parquet", ".pq", ".csv", ".tsv", ".npz", ".npy", ".zip", ".tar", ".tgz", ".gz")
TEXT_COLUMNS = ("text", "content", "document", "sentence")  # by which texts are known among several columns
LABEL_COLUMNS = ("label", "labels", "class")

Document = Iterator[str]  # its pieces


@dataclass(frozen=True)
class Documents:
    """The documents of a split.

    Attributes:
        read: starts a pass over them.
        count: how many there are; None where that is not known before they are read.
        labels: a label of each, as the data have it; None where they have none.
        declared: names of all classes, where the data give them.
        label_column: the column of a streamed table that holds the labels.
        splits: names of all splits that the dataset has.
        notes: lines for the user.
        name_of: the number of a document -> how the user finds it.
        dataset_id: id on the Hub; None for local data.
    """

    read: Callable[[], Iterator[Document]]
    count: int | None
    labels: Sequence[Any] | None = None
    declared: Sequence[str] | None = None
    label_column: str | None = None
    splits: list[str] = field(default_factory=lambda: ["train"])
    notes: list[str] = field(default_factory=list)
    name_of: Callable[[int], str] = "row {}".format
    dataset_id: str | None = None


@dataclass(frozen=True)
class Where:
    """A split of a dataset, and the columns that are read.

    Attributes:
        name: of a built-in dataset, a file, a folder, or an id on the Hub.
        text_column, label_column: None takes the only one of its kind, or the one with a usual name.
    """

    name: str
    split: str = "train"
    text_column: str | None = None
    label_column: str | None = None
    config_name: str | None = None
    cache_dir: str | None = None
    streaming: bool = False

    @property
    def path(self) -> Path:
        return BUILT_IN.get(self.name, Path(self.name).expanduser())


def find_documents(where: Where, sample_by: Literal["document", "line"] = "document") -> Documents:
    """Find the documents of a dataset, and look at the beginning of each file.

    Args:
        sample_by: what is a document: the text of a file or a row, or each line of it that is not empty.

    Raises:
        UsageError: there is no such dataset, split or column, or it holds no text in UTF-8.
    """
    found = _found(where)
    return by_line(found) if sample_by == "line" else found


def _found(where: Where) -> Documents:
    path = where.path
    if path.is_file():
        if path.suffix.lower() in LINES:
            return _of_lines(where, {"train": [path]})
        return _of_table(where) if path.suffix.lower() in TABLES else _of_files(where, path.parent, [path.name], None)
    if path.is_dir() and not any(path.rglob("*.parquet")):
        below = sorted(p for p in path.rglob("*") if p.is_file() and not _is_hidden(p.relative_to(path)))
        texts = [p.relative_to(path).as_posix() for p in below if p.suffix.lower() in FILES]
        lines = [p for p in below if p.suffix.lower() in LINES]
        if lines and not texts:
            divided = splits_in([p.relative_to(path).as_posix() for p in lines])
            return _of_lines(where, {split: [path / file for file in files] for split, files in divided.items()})
        if texts:
            return _of_folder(where, path, texts)
    return _of_table(where)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith((".", "__")) for part in path.parts)


# --- files ----------------------------------------------------------------------------------------------------------
def _of_folder(where: Where, folder: Path, files: list[str]) -> Documents:
    """Choose the files of a split: by names such as train.txt or, in folders, by the rules of images' folders."""
    divided = splits_in(files) if not any("/" in file for file in files) else {}
    if len(divided) > 1:
        chosen = divided[_split(where, divided)]
        return _of_files(where, folder, chosen, None, list(divided))
    folders = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_dir()]
    found = arranged(where.name, files, folders, where.split)
    return _of_files(where, folder, found.files, found, found.splits, found.notes)


def _of_files(
    where: Where,
    folder: Path,
    files: Sequence[str],
    arrangement: Any,
    splits: Sequence[str] = ("train",),
    notes: Sequence[str] = (),
) -> Documents:
    if not notes:
        _split(where, splits)
    paths = [folder / file for file in files]
    for path in paths:
        check_start(path)
    _require_text(where, (path.stat().st_size for path in paths))
    labels = arrangement.classes if arrangement is not None else None
    names = arrangement.names if arrangement is not None else None
    return Documents(
        lambda: map(pieces, paths), len(paths), labels, names, None, [*splits], [*notes], lambda row: str(files[row])
    )


def _require_text(where: Where, lengths: Iterable[int]) -> None:
    if not any(lengths):
        what = "is an empty file" if where.path.is_file() else "holds no text"
        raise UsageError(f"The dataset {where.name!r} {what}.")


def _split(where: Where, there: Iterable[str]) -> str:
    """Return what the data call the wanted split."""
    names = list(there)
    split = chosen_split(where.split, names)
    if split is None:
        raise NoSplitError(
            f"The dataset {where.name!r} has no split {where.split!r}.{did_you_mean(where.split, names)} "
            "Choose with --dataset_split."
        )
    return split


# --- rows -----------------------------------------------------------------------------------------------------------
def _of_lines(where: Where, divided: dict[str, list[Path]]) -> Documents:
    """Read `.jsonl` files, a document a row."""
    paths = divided[_split(where, divided)]

    def rows() -> Iterator[dict[str, Any]]:
        return itertools.chain.from_iterable(map(json_lines, paths))

    first: dict[str, Any] | None = next(rows(), None)
    if first is None:
        raise UsageError(f"The dataset {where.name!r} holds no rows.")
    text = _text_column(where, {name: isinstance(value, str) for name, value in first.items()})
    label = _label_column(where, first)
    labels = [row.get(label) for row in rows()] if label else None
    count = len(labels) if labels is not None else sum(1 for _ in rows())
    _require_text(where, (len(str(row.get(text) or "")) for row in rows()))
    return Documents(
        lambda: (_one(where, text, number, row) for number, row in enumerate(rows())),
        count,
        labels,
        None,
        label,
        [*divided],
    )


def _of_table(where: Where) -> Documents:
    """Read a column of a table: parquet, CSV, a saved dataset, or what is on the Hub."""
    name = str(where.path) if where.name in BUILT_IN else where.name
    source = DataSource(name, where.split, where.config_name, cache_dir=where.cache_dir)
    table = load_table(source, where.streaming)
    rows, columns = table.rows, _columns(table.rows)
    text = _text_column(where, {name: kind for name, (kind, _) in columns.items()})
    label = _label_column(where, columns)
    if table.count == 0:
        raise UsageError(f"The dataset {where.name!r} holds no rows.")
    return Documents(
        lambda: (_one(where, text, number, row) for number, row in enumerate(rows)),
        table.count,
        None if label is None or table.count is None or where.streaming else rows[label],
        columns[label][1] if label else None,
        label,
        table.splits,
        table.notes,
        dataset_id=None if where.name in BUILT_IN else source.dataset_id,
    )


def _columns(rows: Any) -> dict[str, tuple[bool, Any]]:
    """Return column -> (whether it holds texts, the names of its classes)."""
    features = rows.features
    if features is None:
        first: dict[str, Any] = next(iter(rows), {})
        return {name: (isinstance(value, str), None) for name, value in first.items()}
    return {
        name: (getattr(feature, "dtype", None) in ("string", "large_string"), getattr(feature, "names", None))
        for name, feature in features.items()
    }


def _text_column(where: Where, columns: dict[str, bool]) -> str:
    texts = [name for name, is_text in columns.items() if is_text]
    wanted = where.text_column
    if wanted is not None:
        if wanted not in columns:
            raise UsageError(f"--text_column: {where.name} has no column {wanted!r}.{did_you_mean(wanted, columns)}")
        if wanted not in texts:
            raise UsageError(f"--text_column: the column {wanted!r} of {where.name} holds no texts.")
        return wanted
    usual = [name for name in TEXT_COLUMNS if name in texts]
    others = [name for name in texts if name not in (where.label_column, *LABEL_COLUMNS)]
    if not usual and len(others) != 1:
        held = f"several columns of texts: {', '.join(others)}" if others else f"no column of texts: {list(columns)}"
        raise UsageError(f"{where.name} has {held}.\nName one by --text_column.")
    return usual[0] if usual else others[0]


def _label_column(where: Where, columns: Iterable[str]) -> str | None:
    names = list(columns)
    wanted = where.label_column
    if wanted is not None and wanted not in names:
        raise UsageError(f"--label_column: {where.name} has no column {wanted!r}.{did_you_mean(wanted, names)}")
    return wanted or next((name for name in LABEL_COLUMNS if name in names), None)


def _one(where: Where, column: str, number: int, row: dict[str, Any]) -> Document:
    value = row.get(column)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{where.name}: row {number} holds no text in {column!r}, but {type(value).__name__}.")
    return iter([value] if value else [])


# --- lines ----------------------------------------------------------------------------------------------------------
def by_line(documents: Documents) -> Documents:
    """Make each line of documents, without its end, a document of its own; empty lines are left out."""
    labels, count = documents.labels, None
    if documents.count is not None:
        per = [sum(1 for _ in lines(document)) for document in documents.read()]
        count = sum(per)
        labels = None if labels is None else [v for v, n in zip(labels, per, strict=True) for _ in range(n)]
    return Documents(
        lambda: (iter([line]) for document in documents.read() for line in lines(document)),
        count,
        labels,
        documents.declared,
        documents.label_column,
        documents.splits,
        documents.notes,
        "line {}".format,
        documents.dataset_id,
    )


def lines(document: Document) -> Iterator[str]:
    """Yield the lines of a document, without their ends."""
    kept = ""
    for piece in document:
        *whole, kept = (kept + piece).split("\n")
        yield from (line.removesuffix("\r") for line in whole if line.strip())
    if kept.strip():
        yield kept
