"""Files below a folder: images by their endings or, where these say nothing, by their content; and what is left out.

A walk opens only files whose endings are unknown.
"""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from PIL import Image

from hfgen.data.pixels import UNREADABLE
from hfgen.modalities.formats import open_picture

IMAGES = frozenset(
    "apng avif avifs bmp dds gif icns ico j2c j2k jfif jif jp2 jpe jpeg jpf jpg jpx pbm pcx pfm pgm png pnm ppm"
    " qoi ras sgi tga tif tiff webp".split()
)
OTHERS = frozenset(  # never opened: sidecars, documents, programs, tables, films, sounds, archives, models ...
    """
    aae bib cfg cls conf css csv db doc docx geojson htm html ini ipynb js json jsonl lnk lock log md mdb ndjson odp
    ods odt pdf pp3 ppt pptx properties py pyc rst rtf sh sha1 sha256 md5 bat sqlite sqlite3 srt tex toml torrent tsv
    txt url vtt xls xlsx xml xmp yaml yml
    arrow bin ckpt feather h5 hdf5 mat msgpack npy npz onnx orc parquet pickle pq pkl pt pth
    safetensors tfrecord
    3gp aac avi flac flv m4a m4v mkv mov mp3 mp4 mpeg mpg mts ogg ogv opus wav webm wma wmv
    7z bz2 gz lz4 rar tar tgz txz xz zip zst
    ai arw cr2 cr3 dng emf eps nef orf pef ps raf rw2 srw svg svgz wmf
    aria2 crdownload download filepart opdownload part partial tmp bak old orig swp
    """.split()
)
LITTER = frozenset(  # folders and files that systems and programs leave behind
    "__macosx|@eadir|#recycle|$recycle.bin|system volume information|lost+found|__pycache__"
    "|thumbs.db|ehthumbs.db|desktop.ini|icon\r".split("|")
)
HIDDEN = "hidden or of the system"
SHOWN = 12  # kinds in a note


@dataclass
class Found:
    """The files of a folder, and which of them were left out.

    Attributes:
        images: paths below the folder, with `/`, sorted.
        others: paths of all other files, without those that are hidden.
        folders: paths of all sub-folders, without those that are hidden.
        left_out: number of the files left out, by ending or by the reason.
        links: number of images that are links, or below a link.
    """

    root: Path
    images: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    links: int = 0

    def open(self, path: str) -> Image.Image:
        """Open an image by its path below the folder; its header alone is read until the pixels are needed."""
        return open_picture(os.path.join(self.root, path))

    def record(self, path: str) -> dict[str, Any]:
        """Return an image as `datasets` gives it undecoded: its path, or its bytes where that is not UTF-8."""
        full = os.path.join(self.root, path)
        try:
            full.encode()
        except UnicodeEncodeError:
            return {"bytes": Path(full).read_bytes(), "path": os.fsencode(path).decode("utf-8", "replace")}
        return {"bytes": None, "path": full}

    def read(self, path: str, most: int) -> bytes:
        """Read at most so many bytes of a file."""
        with open(os.path.join(self.root, path), "rb") as file:
            return file.read(most)

    def add(self, path: str, content: str | Callable[[], IO[bytes]], is_linked: bool = False) -> None:
        """Sort a file in.

        Args:
            content: what is opened where the ending does not tell: a path, or what returns the content.
        """
        name = path.rpartition("/")[2]
        if is_image(name, content):
            self.images.append(path)
            self.links += is_linked
        else:
            self.others.append(path)
            self.left_out[kind(name)] += 1

    def in_order(self) -> Self:
        """Sort all paths."""
        for paths in (self.images, self.others, self.folders):
            paths.sort()
        return self


def walk(root: Path) -> Found:
    """List the images below a folder, links followed."""
    found, seen = Found(root), {os.path.realpath(root)}
    waiting = [(str(root), "", False)]
    while waiting:
        folder, prefix, linked = waiting.pop()
        try:
            entries = list(os.scandir(folder))
        except PermissionError:
            found.left_out["folders that may not be read"] += 1
            continue
        for entry in entries:
            path, is_linked = prefix + entry.name, linked or entry.is_symlink()
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:  # links in a circle
                is_folder = is_file = False
            if is_hidden(entry.name):
                found.left_out[HIDDEN] += 1
            elif is_file:
                found.add(path, entry.path, is_linked)
            elif not is_folder:
                found.left_out["broken links or no regular files"] += 1
            elif entry.is_symlink() and not _is_new(entry.path, seen):
                found.left_out["links to a folder read already"] += 1
            else:
                found.folders.append(path)
                waiting.append((entry.path, path + "/", is_linked))
    return found.in_order()


def is_hidden(name: str) -> bool:
    return name[0] == "." or name.lower() in LITTER


def _is_new(path: str, seen: set[str]) -> bool:
    """Return True unless a linked folder was met before, or holds one that was."""
    real = os.path.realpath(path)
    if any(known == real or known.startswith(real.rstrip(os.sep) + os.sep) for known in seen):
        return False
    seen.add(real)
    return True


def _ending(name: str) -> str:
    dot = name.rfind(".")
    return name[dot + 1 :].lower() if dot >= 0 else ""


def kind(path: str) -> str:
    """Return a file's ending as a note shows it."""
    ending = _ending(path.rpartition("/")[2])
    return f".{ending}" if ending.isalnum() and len(ending) < 20 else "of no known ending"


def is_image(name: str, content: str | Callable[[], IO[bytes]]) -> bool:
    """Return True for an image, known by its last ending or else by its first bytes."""
    ending = _ending(name)
    if ending in IMAGES:
        return True
    if ending in OTHERS or name.endswith("~"):
        return False
    try:
        with open_picture(content if isinstance(content, str) else content()):
            return True
    except UNREADABLE:
        return False


def left_out_note(left_out: Counter[str]) -> list[str]:
    """Return a line that counts what was left out; none where that is nothing.

    >>> left_out_note(Counter({".json": 3, ".heic": 1}))
    ['left out: 3 .json, 1 .heic']
    """
    ordered = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    shown, more = [f"{count:,} {what}" for what, count in ordered[:SHOWN]], len(ordered) - SHOWN
    return [f"left out: {', '.join(shown)}{f' and {more} other kinds' if more > 0 else ''}"] if shown else []
