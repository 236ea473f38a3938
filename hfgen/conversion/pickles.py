"""Reading tensors from a pickle: the only place where hfgen opens one, and only if the user allows it.

It is read by torch's unpickler for weights (`weights_only`), which builds tensors and plain containers and refuses
everything else.
"""

import io
import mmap
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from hfgen.errors import UsageError, first_line

ARCHIVE = b"PK\x03\x04"  # the start of a file that torch reads as a zip archive
BYTEARRAY = b"\nbytearray\n"  # the end of its opcode; the argument is a length, for which zeros are allocated
OF_TENSORS = re.compile(r"torch\._utils\.\w+|torch\.\w+Storage|torch\.\w+\d+|collections\.OrderedDict")
MOST_SCANNED = 1 << 20  # bytes of a refused pickle that are searched for the name of its code


def read_pickle(path: Path) -> Any:
    """Read a pickle of tensors.

    Raises:
        UsageError: it holds code, or may be meant to harm, or is damaged.
    """
    _refuse_compressed(path)
    if _has(path, BYTEARRAY):
        raise UsageError(f"{path.name} was refused: it holds a bytearray, which a few bytes can make of any length.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about storages that old versions of torch saved
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a crafted file can raise any error
        # torch's own text is never passed on: it says how to run the file's code
        named = re.search(r"GLOBAL:? ([\w.]{1,200})", str(error))
        code = named[1] if named else _code_named_in(path)
        if code:
            raise UsageError(
                f"{path.name} was refused: it does not only hold tensors, but also {code}, which is code.\n"
                "If you trust it, save the networks' state_dict() alone with the library that wrote it."
            ) from error
        raise UsageError(f"{path.name} was refused: it is not a torch file of tensors, or it is damaged.") from error


def _code_named_in(path: Path) -> str | None:
    """Find the first name of code in a pickle, at which torch's unpickler stops; nothing of it is run.

    Only the first MiB is read; in an archive, that of the entry `data.pkl`.
    """
    try:
        for name in _globals(_start(path)):
            if re.fullmatch(r"[\w.]{1,200}", name) and not OF_TENSORS.fullmatch(name):
                return name
    except Exception:  # it may be damaged in any way, or not be a pickle at all
        return None
    return None


def _start(path: Path) -> bytes:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            return file.read(MOST_SCANNED)
    with zipfile.ZipFile(path) as archive:
        entry = next(name for name in [*archive.namelist(), ""] if name.endswith("data.pkl") or not name)
        with archive.open(entry) as file:
            return file.read(MOST_SCANNED)


def _globals(content: bytes) -> Iterator[str]:
    """Yield the globals that the opcodes of a file's pickles name, as `module.name`.

    Raises:
        ValueError: a pickle is cut off.

    >>> list(_globals(b"cposix\\nsystem\\n."))
    ['posix.system']
    """
    file = io.BytesIO(content)
    while file.tell() < len(content):
        words: list[str] = []
        memo: dict[Any, Any] = {}
        last: Any = None  # what the last opcode pushed, where that can be a name
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "MEMOIZE" or opcode.name.endswith("PUT"):
                memo[len(memo) if argument is None else argument] = last
                continue
            if opcode.name in ("GLOBAL", "INST"):
                yield str(argument).replace(" ", ".")
            if opcode.name == "STACK_GLOBAL":
                yield ".".join(words[-2:])
            last = memo.get(argument) if opcode.name.endswith("GET") else argument
            words += [last] if isinstance(last, str) else []


def _has(path: Path, words: bytes) -> bool:
    """Return True if a file contains these bytes, also in an entry of an uncompressed archive."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(words) >= 0


def _refuse_compressed(path: Path) -> None:
    """Raise a UsageError for an archive with compressed or overlapping entries, which torch never saves."""
    with path.open("rb") as file:
        if file.read(len(ARCHIVE)) != ARCHIVE:
            return  # as torch saved before 1.6
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise UsageError(f"{path.name} was refused: it is damaged: {first_line(error)}") from error
    if not _directory_is_at_the_end(path):
        raise UsageError(f"{path.name} was refused: its table of contents is not where torch puts it.")
    compressed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if compressed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise UsageError(
            f"{path.name} was refused: it is an archive whose entries are compressed or overlap, and may expand to a\n"
            "thousand times its size; torch.save never writes one. If you trust it, save it again with torch.save."
        )


def _directory_is_at_the_end(path: Path) -> bool:
    """Return True if the list of an archive's entries ends where its end record starts.

    Otherwise torch's reader, which uses the offset in that record, and Python's, which uses the record's place, may
    find different lists. The records are those of APPNOTE.TXT (PKWARE), 4.3.14 to 4.3.16.
    """
    with path.open("rb") as file:
        place = file.seek(0, 2) - 22
        file.seek(max(0, place - 76))
        tail = file.read()
    if len(tail) != 98 or tail[-22:-18] != b"PK\x05\x06":
        return False
    size, offset, comment = struct.unpack("<2LH", tail[-10:])
    if tail[-42:-38] == b"PK\x06\x07":  # the locator of the end record of zip64, for more than 4 GiB
        place -= 76
        size, offset = struct.unpack("<2Q", tail[-58:-42])
        if tail[:4] != b"PK\x06\x06" or struct.unpack("<Q", tail[-34:-26]) != (place,):
            return False
    return bool(comment == 0 and offset + size == place)
