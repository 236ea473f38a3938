"""Archives of images, `.zip` and `.tar`, and shards of webdataset: read in place, as the folders that they are.

Nothing is unpacked to the disk. A member is read in bounds when it is needed; one whose path leads out of the archive
makes hfgen refuse the archive, and links and devices in it are left out.
"""

import functools
import io
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from hfgen.data.arrangement import split_of, split_words
from hfgen.data.records import MOST_MEMBER
from hfgen.data.walk import HIDDEN, Found, is_hidden
from hfgen.errors import UsageError
from hfgen.files import printable
from hfgen.modalities.formats import open_picture

READ = (".zip", ".tar")
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".gz", ".bz2", ".xz", ".zst")
REFUSED = (*COMPRESSED, ".7z", ".rar")
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError, RuntimeError)

Place = tuple[str, str | tuple[int, int]]  # an archive, and in it the name in a zip, or (offset, size) in a tar


@dataclass
class Packed(Found):
    """The files of archives.

    Attributes:
        places: where each of them lies.
    """

    places: dict[str, Place] = field(default_factory=dict)

    def open(self, path: str) -> Image.Image:
        return open_picture(io.BytesIO(self._whole(path)), path)

    def record(self, path: str) -> dict[str, Any]:
        return {"bytes": self._whole(path), "path": path.encode("utf-8", "replace").decode()}

    def _whole(self, path: str) -> bytes:
        content = self.read(path, MOST_MEMBER + 1)
        if len(content) > MOST_MEMBER:
            raise OSError(f"it unpacks to more than {MOST_MEMBER:,} bytes")
        return content

    def read(self, path: str, most: int) -> bytes:
        """Read at most so many bytes of a member.

        Raises:
            OSError: it is damaged or encrypted.
        """
        archive, place = self.places[path]
        if not isinstance(place, str):
            with open(archive, "rb") as file:
                file.seek(place[0])
                return file.read(min(place[1], most))
        try:
            with _opened_zip(archive, os.getpid()).open(place) as member:
                return member.read(most)
        except DAMAGED as error:
            raise OSError(f"it cannot be unpacked: {error}") from error


@functools.lru_cache(maxsize=256)
def _opened_zip(path: str, process: int) -> zipfile.ZipFile:
    """Open a zip file once in each process: those that were forked would share a place in it."""
    return zipfile.ZipFile(path)


def is_archive(path: str | Path) -> bool:
    return str(path).lower().endswith((*READ, *REFUSED))


def unpacked(name: str, archives: Sequence[Path]) -> Packed:
    """List the files of archives; those whose names all say splits are these, other ones are shards of one folder.

    Args:
        name: of the dataset, for messages.

    Raises:
        UsageError: one is damaged, compressed as a whole, or has a member that leads out of it.
    """
    splits = [_split_of(path) for path in archives]
    are_splits = len(archives) > 1 and None not in splits and "train" in splits
    packed = Packed(archives[0].parent)
    for path, split in zip(archives, splits, strict=True):
        members = dict(_members(name, path))
        top = _packed_folder(members)
        for member, place in members.items():
            folder, _, file = member.removeprefix(top).rpartition("/")
            shard = f"{path.name}:" if len(archives) > 1 else ""
            parts = [split if are_splits else "", folder, shard + file]
            _add(packed, "/".join(part for part in parts if part), file, (str(path), place))
    return packed.in_order()


def _add(packed: Packed, path: str, file: str, place: Place) -> None:
    if any(is_hidden(part) for part in path.split("/")[:-1]) or is_hidden(file):
        packed.left_out[HIDDEN] += 1
        return
    packed.places[path] = place
    packed.add(path, lambda: io.BytesIO(packed.read(path, MOST_MEMBER)))


def _split_of(path: Path) -> str | None:
    """Return the split that an archive's name says: of `train.zip`, or `imagenet-val-0001.tar`."""
    found = {split for word in split_words(path.name.partition(".")[0]) if (split := split_of(word))}
    return found.pop() if len(found) == 1 else None


def _packed_folder(members: Sequence[str] | dict[str, Any]) -> str:
    """Return the one folder from which an archive was packed, with its `/`; empty where there are several files."""
    tops = {member.partition("/")[0] if "/" in member else "" for member in members}
    tops = {top for top in tops if not top or not is_hidden(top)}
    return f"{tops.pop()}/" if len(tops) == 1 and "" not in tops else ""


def _members(name: str, path: Path) -> Iterator[tuple[str, str | tuple[int, int]]]:
    """Yield the path and the place of each regular file in an archive."""
    if not path.name.lower().endswith(READ):
        if re.search("idx[0-9]-ubyte", path.name):
            raise UsageError(f"{name}: {path.name} holds an array as MNIST has it (IDX). Save the arrays as .npz.")
        how = "tar -xf" if ".tar" in path.name.lower() or path.suffix in (".tgz", ".txz") else "unpack"
        raise UsageError(
            f"{name}: images in {path.name} cannot be read one by one. Unpack it ({how} {path.name}) and give the "
            "folder, or pack it again as .zip or .tar."
        )
    try:
        yield from _zipped(name, path) if path.suffix.lower() == ".zip" else _tarred(name, path)
    except DAMAGED as error:
        raise UsageError(f"{name}: {path.name} is not an archive that can be read: {error}") from error


def _zipped(name: str, path: Path) -> Iterator[tuple[str, str]]:
    for member in _opened_zip(str(path), os.getpid()).infolist():
        if member.is_dir():
            continue
        if member.flag_bits & 1:
            raise UsageError(f"{name}: {path.name} is encrypted. Unpack it and give the folder.")
        yield _inside(name, path, member.filename), member.filename


def _tarred(name: str, path: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            archive.members = []  # type: ignore[attr-defined]  # which would keep them all
            inside = _inside(name, path, member.name)
            if member.isreg() and not member.issparse():
                yield inside, (member.offset_data, member.size)


def _inside(name: str, path: Path, member: str) -> str:
    """Return a member's path, or refuse the archive for one that leads out of it."""
    plain = member.replace("\\", "/")
    parts = PurePosixPath(plain).parts
    if plain.startswith("/") or ".." in parts or re.match("[A-Za-z]:", plain):
        raise UsageError(
            f"{name}: the member {printable(member[:100])!r} of {path.name} leads out of it. hfgen does not read such "
            "an archive; pack the images again."
        )
    return "/".join(parts)
