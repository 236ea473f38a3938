"""Records of a dataset, each with an image: its bytes, or a regular file below the dataset's own folder.

A row of somebody else's table may name any path. Nothing but files of that dataset is opened: no path that leaves its
folder or its repository on the Hub, also by a link; no pipe, no device, no address.
"""

import functools
import io
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from hfgen.data.sources import DataSource
from hfgen.files import printable
from hfgen.modalities.formats import open_picture

HUB = "hf://datasets/"
MOST_MEMBER = 1 << 30  # bytes of a file in an archive, which may unpack to any length


class OutsideError(OSError):
    """A record names something other than a regular file of its dataset; the message is the path and why."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{printable(path)!r}, {why}")


@dataclass(frozen=True)
class Home:
    """The places in which the images of a dataset may lie.

    Attributes:
        folders: absolute paths; those that a record gives without a root start from the first.
        dataset_id: of the repository on the Hub whose files may be read; None for local data.
        absolute: whether records may give absolute paths below these folders: where they name what was found there,
            and are not somebody's table.
    """

    folders: tuple[str, ...]
    dataset_id: str | None = None
    absolute: bool = False

    @classmethod
    def of(cls, source: DataSource, dataset: Any = None) -> "Home":
        """Return the home of a dataset that `datasets` has found, or of a local folder or file."""
        import datasets
        from huggingface_hub import constants, file_download

        path, archives = source.path.absolute(), []
        walked = getattr(getattr(dataset, "info", None), "builder_name", None) == "imagefolder"
        if walked:  # its rows name what was found in the folder, and what was unpacked from archives there
            kept = Path(source.cache_dir or datasets.config.HF_DATASETS_CACHE) / "downloads" / "extracted"
            archives = [str(kept.absolute()), str(datasets.config.EXTRACTED_DATASETS_PATH)]
        if source.dataset_id is None:
            folder = path if path.is_dir() else path.parent
            return cls((str(folder), *_blobs_beside(folder), *archives), absolute=walked)
        kept_as = file_download.repo_folder_name(repo_id=source.dataset_id, repo_type="dataset")
        return cls((os.path.join(constants.HF_HUB_CACHE, kept_as), *archives), source.dataset_id, walked)

    def open(self, record: Mapping[str, Any] | None) -> Image.Image:
        """Open the image of `{"bytes": ..., "path": ...}`, as `datasets` gives it undecoded.

        Raises:
            OutsideError: its path leads out of the dataset, or to something other than a regular file.
            OSError: there is no such file, or it is not an image.
        """
        content, path = (record or {}).get("bytes"), (record or {}).get("path")
        if content is not None:
            return open_picture(io.BytesIO(content), path or "")
        if not path:
            raise OSError("the column is empty there")
        if "://" in path or "::" in path:
            return open_picture(io.BytesIO(self._fetched(path)), path)
        return open_picture(self._inside(path))

    def relative(self, path: str) -> str:
        """Return a path as it is in the dataset; only its last part where it lies elsewhere."""
        if "://" in path:
            *members, file = path.split("::")
            if file.startswith(HUB):
                file = file.removeprefix(f"{HUB}{self.dataset_id}").partition("/")[2]
            inner = [member.partition("://")[2] for member in reversed(members)]
            return "/".join([file if "://" in file else self.relative(file), *inner])
        for folder in self.folders if os.path.isabs(path) else ():
            if path.startswith(os.path.join(folder, "")):
                return os.path.relpath(path, folder)
        return os.path.basename(path) if os.path.isabs(path) else path

    def _inside(self, path: str) -> str:
        """Return the real path of a regular file of the dataset."""
        if os.path.isabs(path) and not self.absolute:
            raise OutsideError(path, "where a path must be relative to the dataset")
        given = os.path.normpath(os.path.join(self.folders[0], path))
        if not any(_is_below(given, folder) for folder in self.folders):  # before the system is asked about it
            raise OutsideError(path, "a path outside of the dataset")
        real = os.path.realpath(given)
        if not any(_is_below(real, _real(folder)) for folder in self.folders):
            raise OutsideError(path, "a link that leads out of the dataset")
        if not stat.S_ISREG(os.stat(real).st_mode):
            raise OutsideError(path, "not a regular file")
        return real

    def _fetched(self, path: str) -> bytes:
        """Read a file of the repository on the Hub, or a member of an archive of the dataset."""
        *members, file = path.split("::")
        for member in members:
            if not member.startswith("zip://") or ".." in member.split("/"):
                raise OutsideError(path, "of a kind that hfgen does not open")
        if file.startswith(HUB):
            rest = file.removeprefix(f"{HUB}{self.dataset_id}") if self.dataset_id else file
            if rest[:1] not in ("@", "/") or ".." in rest.split("/"):
                raise OutsideError(path, "a file of another repository on the Hub")
        elif "://" in file:
            raise OutsideError(path, "an address, which hfgen does not fetch")
        else:
            path = "::".join([*members, self._inside(file)])
        return _read(path)


def _read(path: str) -> bytes:
    from datasets.utils.file_utils import xopen

    with xopen(path, "rb") as file:
        content = file.read(MOST_MEMBER + 1)
    if len(content) > MOST_MEMBER:
        raise OSError(f"it is larger than {MOST_MEMBER:,} bytes, the most that hfgen reads of a file in an archive")
    return content


_real = functools.cache(os.path.realpath)


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(os.path.join(os.path.normpath(folder), ""))


def _blobs_beside(folder: Path) -> list[str]:
    """Return the folder to which the links in a snapshot of the Hub's cache lead."""
    caches = [p.parent for p in folder.parents if p.name == "snapshots" and "--" in p.parent.name]
    return [str(cache / "blobs") for cache in caches]


@dataclass(frozen=True)
class Records:
    """The images of a table's rows, opened and named by their numbers.

    Attributes:
        rows: anything that gives a row by its number, as {column: undecoded image}: its bytes, its path, or both as
            `datasets` gives them.
    """

    rows: Any
    column: str
    home: Home

    def __len__(self) -> int:
        return len(self.rows)

    def open(self, index: int) -> Image.Image:
        """Open the image of a row; the errors are those of `Home.open`."""
        return self.home.open(self._record(index))

    def name(self, index: int) -> str:
        """Return how the user finds an image again: its path in the dataset, or its row and the path in that."""
        return named(self._record(index), index, self.home)

    def _record(self, index: int) -> Mapping[str, Any] | None:
        value = self.rows[index][self.column]
        if isinstance(value, bytes | str):
            return {"bytes": value, "path": None} if isinstance(value, bytes) else {"bytes": None, "path": value}
        return value


def named(record: Mapping[str, Any] | None, index: int, home: Home, row: str = "row {}") -> str:
    """Return the path of a file of the dataset, or `row 5 (cut.jpg)` of an image that lies in a table.

    >>> home = Home(("/photos",), absolute=True)
    >>> named({"bytes": None, "path": "/photos/b/cut.jpg"}, 7, home), named({"bytes": b"", "path": "x/a.png"}, 7, home)
    ('b/cut.jpg', 'row 7 (x/a.png)')
    """
    path = (record or {}).get("path")
    if path and (record or {}).get("bytes") is None and _is_file_of(path, home):
        return str(printable(home.relative(path)))
    number = row.format(index)
    return f"{number} ({printable(home.relative(path))})" if path else number


def _is_file_of(path: str, home: Home) -> bool:
    return path.startswith(HUB) or (home.absolute and any(_is_below(path, folder) for folder in home.folders))
