"""What somebody else's program saved: JSON, safetensors, and pickles of tensors where the user says so.

The one place of hfgen that opens a pickle. It is read by torch's unpickler for weights (`weights_only`), which builds
tensors and plain containers and refuses everything else.
"""

import functools
import hashlib
import io
import mmap
import pickletools
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hfgen import hub
from hfgen.errors import LoadError, UsageError, first_line
from hfgen.reading import read_json

SAFE = ".safetensors"
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".model", ".pkl", ".pickle")
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel, of torch.compile
ARCHIVE = b"PK\x03\x04"  # how a file starts that torch takes for a zip archive
BYTEARRAY = b"\nbytearray\n"  # the end of the opcode that names it; its argument is a length, filled with zeros
OF_TENSORS = re.compile(r"torch\._utils\.\w+|torch\.\w+Storage|torch\.\w+\d+|collections\.OrderedDict")
MOST_SCANNED = 1 << 20  # bytes of a refused pickle in which the name of its code is looked for
MOST = 2  # files of a folder that are read as one model: two networks

StateDict = dict[str, Tensor]


class ForeignFiles:
    """A file, or a folder of files, that hfgen did not write.

    Attributes:
        path: of the file or folder.
        name: what a card may tell of it: a repository's id, or the last name of a path.
        allow_pickle: whether the user wants pickles read.
        sha256: of each file of tensors or settings that was read, by its name.
    """

    def __init__(self, path: Path, name: str, allow_pickle: bool = False) -> None:
        self.path, self.name, self.allow_pickle = path, name, allow_pickle
        self.sha256: dict[str, str] = {}
        self._read: dict[Path, Any] = {}

    def has(self, name: str) -> bool:
        """Whether the folder holds such a file."""
        return self.path.is_dir() and (self.path / name).is_file()

    def json(self, name: str) -> dict[str, Any]:
        """The dictionary in a JSON file of the folder.

        Raises:
            LoadError: it is missing, a link out of the folder, longer or deeper than any config, or holds something
                else.
        """
        path = self._inside(name)
        try:
            found = read_json(path)
        except FileNotFoundError as error:
            raise LoadError(f"{self.name}: {name} is missing.") from error
        except (ValueError, OSError) as error:
            raise LoadError(f"{self.name}: {name} is damaged: {first_line(error)}") from error
        if not isinstance(found, dict):
            raise LoadError(f"{self.name}: {name} is damaged: it holds no dictionary.")
        self._remember(path)
        return found

    def content(self, name: str = "") -> Any:
        """What a file holds: tensors by name, or what was pickled round them; of the source itself without a name.

        Raises:
            UsageError: it is a pickle and the user has not allowed that, or holds more than tensors and plain values.
            LoadError: it is missing, damaged or a link out of the folder.
        """
        path = self._inside(name) if name else self.path
        if path not in self._read:
            if path.suffix != SAFE and not self.allow_pickle:
                raise UsageError(
                    f"{path.name} is a pickle, which can run code when it is read; nothing was read.\n"
                    "If you want it read, add --allow_pickle: torch then takes tensors out of it (weights_only) and\n"
                    "refuses everything else."
                )
            if not path.is_file():
                raise LoadError(f"{self.name}: {name or path.name} is missing.")
            self._read[path] = _safetensors(path) if path.suffix == SAFE else _pickle(path)
            self._remember(path)
        return self._read[path]

    def state_dict(self, name: str) -> StateDict:
        """The tensors by name that a file is made of.

        Raises:
            UsageError, LoadError: as `content`; or it holds something else.
        """
        found = self.content(name)
        if not is_state_dict(found):
            raise UsageError(f"{self.name}: {name} holds no tensors by name but {_kind(found)}.")
        return plain(found, name)

    def networks(self) -> dict[str, StateDict]:
        """The state dicts of a bare checkpoint, by the keys or the names of the files that they stand under.

        A folder is one if it has no JSON beside its one or two files of tensors.

        Raises:
            UsageError, LoadError: as `content`.
        """
        if self.path.is_file():
            return _networks(self.content(), self.path.stem)
        found: dict[str, StateDict] = {}
        for name in self._bare_files():
            found |= {f"{Path(name).stem}:{key}": value for key, value in _networks(self.content(name), "").items()}
        return found

    def _bare_files(self) -> list[str]:
        if not self.path.is_dir() or any(self.path.glob("*.json")):
            return []
        names = sorted(path.name for path in self.path.iterdir() if path.is_file())
        files = [n for n in names if n.endswith(SAFE)] or [n for n in names if n.endswith(PICKLES)]
        if len(files) > MOST:
            raise UsageError(
                f"{self.name} holds {len(files)} files of tensors, such as {files[0]}; name the one to convert."
            )
        return files

    def _inside(self, name: str) -> Path:
        """The path of a file of the folder; a link out of it, but to a Hub's cache, is a LoadError."""
        path = self.path / name
        hub.refuse_links_out(self.path, path)
        return path

    def _remember(self, path: Path) -> None:
        name = path.relative_to(self.path).as_posix() if path != self.path else path.name
        with path.open("rb") as file:
            self.sha256[name] = hashlib.file_digest(file, "sha256").hexdigest()


def _safetensors(path: Path) -> StateDict:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise LoadError(f"{path.name} is truncated or damaged: {first_line(error)}") from error


def _pickle(path: Path) -> Any:
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


def is_state_dict(found: Any) -> bool:
    """
    >>> is_state_dict({"weight": torch.zeros(1)}), is_state_dict({"epoch": 3}), is_state_dict({})
    (True, False, False)
    """
    return (
        isinstance(found, Mapping)
        and bool(found)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items())
    )


def _networks(content: Any, name: str) -> dict[str, StateDict]:
    if is_state_dict(content):
        return {name: plain(content, name)}
    if not isinstance(content, Mapping):
        raise UsageError(f"{name or 'The file'} holds no state dict but {_kind(content)}.")
    return {str(key): plain(value, str(key)) for key, value in content.items() if is_state_dict(value)}


def plain(tensors: Mapping[str, Tensor], what: str) -> StateDict:
    """The tensors themselves, without the prefix that a wrapper gave all their names.

    Raises:
        UsageError: one that is no ordinary array of numbers, or holds what is no number.
    """
    for name, tensor in tensors.items():
        odd = tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_complex()
        if odd or tensor.untyped_storage().nbytes() < tensor.nbytes:  # expanded from fewer bytes than it claims
            raise UsageError(f"{what}: the tensor {name!r} is no ordinary array of numbers.")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UsageError(f"{what}: the tensor {name!r} holds infinities or what is no number.")
    return functools.reduce(_without_prefix, PREFIXES, {name: t.detach() for name, t in tensors.items()})


def _without_prefix(tensors: StateDict, prefix: str) -> StateDict:
    if not all(name.startswith(prefix) for name in tensors):
        return tensors
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _kind(found: Any) -> str:
    if isinstance(found, Mapping):
        return f"a dictionary of {', '.join(str(key) for key in list(found)[:4])}" if found else "an empty dictionary"
    return f"a {type(found).__name__}"
