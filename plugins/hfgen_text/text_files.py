"""Text files are read strictly as UTF-8, piece by piece, so that a file of any size needs little memory."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hfgen import UsageError, parse_json

PIECE = 1 << 20  # bytes that are read at a time
LONGEST = 1 << 26  # bytes of a line of a table
BOMS = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32"}
BOMS |= {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}


def check_start(path: Path) -> None:
    """Raise a UsageError if the first bytes of a file are those of another encoding, or of no text at all."""
    try:
        with path.open("rb") as file:
            start = file.read(PIECE >> 4)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    encoding = next((name for mark, name in BOMS.items() if start.startswith(mark)), None)
    if encoding is not None:
        raise UsageError(f"{path} is {encoding}, not UTF-8.\n{_convert(path, encoding)}")
    if b"\0" in start:
        raise UsageError(f"{path} is a binary file, or UTF-16: it holds zero bytes. Give text in UTF-8.")
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        decoder.decode(start, len(start) < PIECE >> 4)
    except UnicodeDecodeError as error:
        raise UsageError(_not_utf8(path, start, error, 0)) from error


def pieces(path: Path) -> Iterator[str]:
    """Yield the text of a file in pieces, which end at the end of a line where there is one; a byte order mark is
    left out, and line ends stay as they are.

    Raises:
        UsageError: it is not UTF-8.
    """
    check_start(path)
    kept, at = b"", 0
    with path.open("rb") as file:
        if file.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            file.seek(0)
        while block := file.read(PIECE):
            data = kept + block
            end = data.rfind(b"\n") + 1 or _whole(data)
            yield _decoded(path, data[:end], at)
            kept, at = data[end:], at + end
    if kept:
        yield _decoded(path, kept, at)


def _whole(data: bytes) -> int:
    """Return the length of data up to a character whose last bytes are missing."""
    for back in range(1, min(4, len(data)) + 1):
        if data[-back] >= 0xC0:  # the first byte of a character of several
            return len(data) - back
        if data[-back] < 0x80:
            break
    return len(data)


def _decoded(path: Path, data: bytes, at: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(_not_utf8(path, data, error, at)) from error


def _not_utf8(path: Path, data: bytes, error: UnicodeDecodeError, at: int) -> str:
    byte, place = data[error.start], f"{at + error.start:,}"
    said = f"byte 0x{byte:02X} at {place} (Latin-1 has {chr(byte)!r} for it)"
    return f"{path} is not UTF-8: {said}.\n{_convert(path, 'LATIN1')}"


def _convert(path: Path, encoding: str) -> str:
    return f"Convert it: iconv -f {encoding} -t UTF-8 {path.name} > converted.txt"


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the dictionaries of a file that has one a line.

    Raises:
        UsageError: a line is longer than 64 MiB, or no dictionary in UTF-8.
    """
    check_start(path)
    with path.open("rb") as file:
        for number in range(1, 1 << 62):
            line = file.readline(LONGEST + 1)
            if not line:
                return
            if len(line) > LONGEST:
                raise UsageError(f"{path.name}: line {number} is longer than {LONGEST >> 20} MiB; save it as parquet.")
            if line.strip():
                yield _row(path, number, line)


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = parse_json(line.decode("utf-8-sig" if number == 1 else "utf-8"))
    except UnicodeDecodeError as error:
        raise UsageError(f"{path.name}: line {number} is not UTF-8: {error.reason}.") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path.name}: line {number} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise UsageError(f"{path.name}: line {number} is not a dictionary of column and value: {json.dumps(row)[:40]}")
    return row
