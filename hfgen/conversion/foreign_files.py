"""Files that another program saved: JSON, safetensors, and pickles of tensors if the user allows them."""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hfgen.conversion.pickles import read_pickle
from hfgen.errors import LoadError, UsageError, first_line
from hfgen.files import read_json, refuse_links_out

SAFE = ".safetensors"
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".tar", ".model", ".pkl", ".pickle")
PREFIXES = ("module.", "_orig_mod.")  # added by DataParallel and torch.compile
MOST = 2  # files of tensors in a folder that is read as one model: two networks

StateDict = dict[str, Tensor]


class ForeignFiles:
    """A file or folder that hfgen did not write.

    Attributes:
        path: the file or folder.
        name: its name on a card: a repository's id, or the last part of a path.
        allow_pickle: True if the user allows pickles to be read.
        sha256: file name -> hash, of each file that was read.
    """

    def __init__(self, path: Path, name: str, allow_pickle: bool = False) -> None:
        self.path, self.name, self.allow_pickle = path, name, allow_pickle
        self.sha256: dict[str, str] = {}
        self._read: dict[Path, Any] = {}

    def has(self, name: str) -> bool:
        """Return True if the folder has a file of this name."""
        return self.path.is_dir() and (self.path / name).is_file()

    def json(self, name: str) -> dict[str, Any]:
        """Read a dictionary from a JSON file of the folder.

        Raises:
            LoadError: the file is missing, a link out of the folder, too long, nested too deeply, or does not hold a
                dictionary.
        """
        path = self._inside(name)
        try:
            found = read_json(path)
        except FileNotFoundError as error:
            raise LoadError(f"{self.name}: {name} is missing.") from error
        except (ValueError, OSError) as error:
            raise LoadError(f"{self.name}: {name} is damaged: {first_line(error)}") from error
        if not isinstance(found, dict):
            raise LoadError(f"{self.name}: {name} is damaged: it does not hold a dictionary.")
        self._remember(path)
        return found

    def content(self, name: str = "") -> Any:
        """Read tensors by name from a file, or the pickled object that holds them.

        Args:
            name: a file of the folder; empty if the source is a file.

        Raises:
            UsageError: the file is a pickle and the user has not allowed that, or holds more than tensors and plain
                values.
            LoadError: the file is missing, damaged or a link out of the folder.
        """
        path = self._inside(name) if name else self.path
        if path not in self._read:
            if path.suffix != SAFE and not self.allow_pickle:
                raise UsageError(
                    f"{path.name} is a pickle, which can run code when it is read; nothing was read.\n"
                    "To read it, add --allow_pickle: torch then reads tensors from it (weights_only) and refuses\n"
                    "everything else."
                )
            if not path.is_file():
                raise LoadError(f"{self.name}: {name or path.name} is missing.")
            self._read[path] = _safetensors(path) if path.suffix == SAFE else read_pickle(path)
            self._remember(path)
        return self._read[path]

    def state_dict(self, name: str) -> StateDict:
        """Read a state dict from a file.

        Raises:
            UsageError, LoadError: as `content`; or the file holds something else.
        """
        found = self.content(name)
        if not is_state_dict(found):
            raise UsageError(f"{self.name}: {name} does not hold tensors by name, but {_kind(found)}.")
        return plain_state_dict(found, name)

    def networks(self) -> dict[str, StateDict]:
        """Read the state dicts of a bare checkpoint, by their keys or the names of their files.

        A folder is a bare checkpoint if it has one or two files of tensors and no JSON.

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
                f"{self.name} holds {len(files)} files of tensors, such as {files[0]}; give the one to convert."
            )
        return files

    def _inside(self, name: str) -> Path:
        """Path of a file of the folder; raises a LoadError for a link out of it, except into the Hub's cache."""
        path = self.path / name
        refuse_links_out(self.path, path)
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


def is_state_dict(found: Any) -> TypeGuard[StateDict]:
    """Return True for a mapping of names to tensors that is not empty.

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
        return {name: plain_state_dict(content, name)}
    if not isinstance(content, Mapping):
        raise UsageError(f"{name or 'The file'} does not hold a state dict, but {_kind(content)}.")
    return {str(key): plain_state_dict(value, str(key)) for key, value in content.items() if is_state_dict(value)}


def plain_state_dict(tensors: Mapping[str, Tensor], what: str) -> StateDict:
    """Remove the prefix that a wrapper added to all names, and check the tensors.

    Raises:
        UsageError: a tensor is not dense (sparse, quantized, complex ...), or contains NaN or inf.
    """
    for name, tensor in tensors.items():
        odd = tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_complex()
        if odd or tensor.untyped_storage().nbytes() < tensor.nbytes:  # expanded from fewer bytes than it claims
            raise UsageError(f"{what}: the tensor {name!r} is not an ordinary array of numbers.")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UsageError(f"{what}: the tensor {name!r} contains NaN or inf.")
    return functools.reduce(_without_prefix, PREFIXES, {name: t.detach() for name, t in tensors.items()})


def _without_prefix(tensors: StateDict, prefix: str) -> StateDict:
    if not all(name.startswith(prefix) for name in tensors):
        return tensors
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _kind(found: Any) -> str:
    if isinstance(found, Mapping):
        return f"a dictionary of {', '.join(str(key) for key in list(found)[:4])}" if found else "an empty dictionary"
    return f"a {type(found).__name__}"
