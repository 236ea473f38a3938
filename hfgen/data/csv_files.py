"""Text tables as pandas, polars and spreadsheet programs of all countries write them."""

import codecs
import csv
import io
from collections import Counter
from pathlib import Path

from hfgen.data.encodings import likely_encoding, title
from hfgen.errors import UsageError

DELIMITERS = (",", ";", "\t", "|")
BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32"}
BOMS |= {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
LOOKED_AT = 100  # rows by which the delimiter is chosen
MOST_BYTES = 1 << 30  # of a file
MOST_CELL = 1 << 26  # characters of a value: an image may be written as text


def read_csv(path: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Read a table of texts: column -> values, and notes for the user.

    The encoding is that of the byte order mark, else UTF-8, else the likeliest code page; the delimiter is the one of
    comma, semicolon, tab and bar that gives all rows the same number of values.

    Raises:
        UsageError: it is empty, too long, or some rows are longer than the first one, which names the columns.
    """
    text, notes = _text(path)
    first, _, rest = text.partition("\n")
    delimiter = None
    if first.strip().lower().startswith("sep=") and len(first.strip()) == 5:  # as Excel marks it
        delimiter, text = first.strip()[4], rest
    rows = [row for row in _rows(text, delimiter or _delimiter(text)) if any(value.strip() for value in row)]
    if len(rows) < 2:
        raise UsageError(f"{path.name} holds no rows below the names of its columns.")
    width = max(len(row) for row in rows[:1])
    while width > 1 and not rows[0][width - 1].strip() and not any(_at(row, width - 1) for row in rows):
        width -= 1  # a delimiter at the end of each line
    for number, row in enumerate(rows[1:], 2):
        if any(value.strip() for value in row[width:]):
            raise UsageError(
                f"{path.name}: row {number} has {len(row)} values where the first row names {width} columns.\n"
                "Quote values that hold the delimiter."
            )
    names = _names([_at(rows[0], column) for column in range(width)])
    return {name: [_at(row, column) for row in rows[1:]] for column, name in enumerate(names)}, notes


def _text(path: Path) -> tuple[str, list[str]]:
    if path.stat().st_size > MOST_BYTES:
        raise UsageError(f"{path.name} is longer than {MOST_BYTES >> 30} GiB; save it as parquet.")
    content = path.read_bytes()
    encoding = next((name for mark, name in BOMS.items() if content.startswith(mark)), "utf-8")
    if encoding == "utf-8" and content[1:2] == b"\0":
        encoding = "utf-16-le"
    elif encoding == "utf-8" and content[:1] == b"\0":
        encoding = "utf-16-be"
    try:
        return content.decode(encoding), []
    except UnicodeDecodeError:
        likely = likely_encoding(content)
        note = f"{path.name} is not UTF-8; it is read as {title(likely)}: save it as UTF-8 if names look wrong"
        return content.decode(likely, "replace"), [note]


def _rows(text: str, delimiter: str) -> list[list[str]]:
    before = csv.field_size_limit(MOST_CELL)
    try:
        return list(csv.reader(io.StringIO(text.replace("\0", ""), newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise UsageError(f"The table cannot be read: {error}.") from error
    finally:
        csv.field_size_limit(before)


def _delimiter(text: str) -> str:
    """Return the delimiter by which the first rows have the same number of values, the largest."""
    head = "\n".join(text.splitlines()[:LOOKED_AT])
    widths = {}
    for delimiter in DELIMITERS:
        counts = Counter(len(row) for row in _rows(head, delimiter) if row)
        width, rows = counts.most_common(1)[0] if counts else (0, 0)
        widths[delimiter] = (width > 1, rows / max(1, counts.total()), width)
    return max(DELIMITERS, key=lambda delimiter: widths[delimiter])


def _at(row: list[str], column: int) -> str:
    return row[column].strip() if column < len(row) else ""


def _names(header: list[str]) -> list[str]:
    """Return names of columns, each once; one without a name, such as an index of pandas, by its number."""
    names: list[str] = []
    for number, name in enumerate(header):
        name = name or f"column_{number}"
        names.append(f"{name}_{number}" if name in names else name)
    return names
