"""Files that a local table lists, as they are written elsewhere: found below the table's own folder, or not at all."""

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from hfgen.data.walk import IMAGES

MOST_FOLDERS = 200  # in which files are looked for


def listed_files(values: Sequence[str | None], root: Path, table: str = "") -> tuple[list[str | None], str]:
    """Return paths below a folder for the files that a table lists, and where they are, in words.

    They may have backslashes, begin with the folder's own name or with a folder of another machine, leave out the
    folder in which all lie, or their ending. A path that is not found stays as it is.

    Args:
        table: the table's name without its ending: a folder of this name comes first.
    """
    first = next((value for value in values if value), None)
    if first is None:
        return [None] * len(values), ""
    head, below, endings = _place(_relative(first, root), root, table)
    inside = [None if not value else _without(head, _relative(value, root)) for value in values]
    paths = [path if path is None else os.path.join(below, path) for path in inside]
    if endings:
        paths = [path if path is None else _completed(root, path, endings) for path in paths]
    told = [f"in {below}/"] if below else []
    told += [f"without {head} before them"] if head else []
    told += ["by their names without an ending"] if endings else []
    return paths, ", ".join(told)


def _place(first: str, root: Path, table: str) -> tuple[str, str, list[str]]:
    """Return what is left out before the first path, the folder to look in, and the endings that are added."""
    folders = ["", *_folders(root, table)]
    for head, path in [("", first), *_beheaded(first)]:
        if below := [folder for folder in folders if is_file(root / folder, path)]:
            return head, below[0], []
    if not is_outside(first):
        for folder in folders:
            if endings := _endings_in(root / folder):
                if any(is_file(root / folder, f"{first}.{ending}") for ending in endings):
                    return "", folder, endings
    return "", "", []


def _beheaded(path: str) -> list[tuple[str, str]]:
    """Return ways to divide a path of another machine: what to leave out, and the rest, the longest first."""
    absolute = re.sub("^[A-Za-z]:", "", path)
    if not absolute.startswith("/") or ".." in PurePosixPath(absolute).parts:
        return []
    cuts = [match.end() for match in re.finditer("/", path)]
    return [(path[:cut], path[cut:]) for cut in cuts]


def _without(head: str, path: str) -> str:
    return path.removeprefix(head) if head else path


def _endings_in(folder: Path) -> list[str]:
    """Return the endings of images in a folder, by its first files."""
    names = [entry.name for entry in itertools.islice(os.scandir(folder), 1000)] if folder.is_dir() else []
    found = {name.rpartition(".")[2] for name in names if "." in name}
    return sorted(ending for ending in found if ending.lower() in IMAGES)


def _completed(root: Path, path: str, endings: Sequence[str]) -> str:
    return next((f"{path}.{ending}" for ending in endings if is_file(root, f"{path}.{ending}")), path)


def _folders(root: Path, table: str) -> list[str]:
    found = sorted(entry.name for entry in itertools.islice(os.scandir(root), MOST_FOLDERS) if entry.is_dir())
    return sorted(found, key=lambda name: name.casefold() != table.casefold())


def _relative(path: str, root: Path) -> str:
    """Return a path from the table's folder: of one with backslashes, an absolute one, one with the folder's name."""
    path = path.strip()
    if "\\" in path and not is_file(root, path):
        path = path.replace("\\", "/")
    if os.path.isabs(path):
        return os.path.relpath(path, root.absolute()) if Path(path).is_relative_to(root.absolute()) else path
    path = path.removeprefix("./")
    below = path.removeprefix(f"{root.absolute().name}/")
    return below if below != path and not is_file(root, path) else path


def is_file(root: Path, path: str) -> bool:
    """Return whether a path below a folder is that of a file; one that may lead out of it never is."""
    return not is_outside(path) and (root / path).is_file()


def is_outside(path: str) -> bool:
    """Return whether a path may lead out of the folder, so that nothing is asked about it."""
    return os.path.isabs(path) or ".." in Path(path).parts or "://" in path
