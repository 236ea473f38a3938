"""What somebody else's program saved: JSON, safetensors, and pickles of tensors where the user says so.

The one place of hfgen that opens a pickle. It is read by torch's unpickler for weights (`weights_only`), which builds
tensors and plain containers and refuses everything else.
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

ARCHIVE = b"PK\x03\x04"  # how a file starts that torch takes for a zip archive
BYTEARRAY = b"\nbytearray\n"  # the end of the opcode that names it; its argument is a length, filled with zeros
OF_TENSORS = re.compile(r"torch\._utils\.\w+|torch\.\w+Storage|torch\.\w+\d+|collections\.OrderedDict")
MOST_SCANNED = 1 << 20  # bytes of a refused pickle in which the name of its code is looked for


def read_pickle(path: Path) -> Any:
    _refuse_compressed(path)
    if _has(path, BYTEARRAY):
        raise UsageError(f"{path.name} was refused: it holds a bytearray, which a few bytes can make of any length.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of storages as old versions of torch saved them
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that was made up can raise whatever it likes
        # torch's own text is never told: it says how to have the file run
        named = re.search(r"GLOBAL:? ([\w.]{1,200})", str(error))
        code = named[1] if named else _code_named_in(path)
        if code:
            raise UsageError(
                f"{path.name} was refused: it is no torch file of tensors: it holds {code}, which is code.\n"
                "Where you trust it, save the networks' state_dict() alone with the library that wrote it."
            ) from error
        raise UsageError(f"{path.name} was refused: it is no torch file of tensors, or a damaged one.") from error


def _code_named_in(path: Path) -> str | None:
    """The first name of code in a pickle, of what torch's unpickler stops before; nothing of it is run.

    Read is its first MiB; of an archive, that of the entry `data.pkl`.
    """
    try:
        for name in _globals(_start(path)):
            if re.fullmatch(r"[\w.]{1,200}", name) and not OF_TENSORS.fullmatch(name):
                return name
    except Exception:  # as it may be damaged in any way, or no pickle at all
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
    """What the opcodes of the pickles in a file name, as `module.name`; one that is cut off is a ValueError.

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
    """Whether a file holds these bytes; of an archive that is not compressed, whether an entry does."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(words) >= 0


def _refuse_compressed(path: Path) -> None:
    """Raise a UsageError where an archive holds more bytes than it has: torch compresses none that it saves."""
    with path.open("rb") as file:
        if file.read(len(ARCHIVE)) != ARCHIVE:
            return  # as torch saved before 1.6
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise UsageError(f"{path.name} is refused or damaged: {first_line(error)}") from error
    if not _directory_is_at_the_end(path):
        raise UsageError(f"{path.name} is refused or damaged: its table of contents is not where torch puts it.")
    compressed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    if compressed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise UsageError(
            f"{path.name} was refused: it is an archive whose entries are compressed or overlap, and may stand for a\n"
            "thousand times its size; torch.save writes none such. Where you trust it, save it anew with torch.save."
        )


def _directory_is_at_the_end(path: Path) -> bool:
    """Whether the list of an archive's entries ends where its end record starts: else torch's reader, which goes by
    the offset in that record, and Python's, which goes by its place, may find different lists.

    The records are those of APPNOTE.TXT (PKWARE), 4.3.14 to 4.3.16.
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
