"""Read JSON and YAML files of unknown origin: their size and depth are bounded before they are parsed.

A file that is refused raises a `ValueError` of one line, to be written after the file's name; a missing file raises a
`FileNotFoundError`.
"""

import errno
import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import yaml

from hfgen.errors import LoadError, UsageError, one_line

UNSYNCED = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.ENOTTY}
UNSYNCED_FOLDER = {errno.EACCES, errno.EPERM, errno.EISDIR, errno.EROFS}
MOST_BYTES = 1 << 20  # of a config; hfgen's own have some kilobytes
MOST_TABLE = 1 << 26  # of a table of tensors' names, or of a run's metrics
MOST_YAML = 1 << 17  # its parser is slow: some seconds for so much
DEEPEST = 50  # lists in lists
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, where PyYAML has it: ten times as fast
MOST_NODES = 100_000  # of a YAML file, where an alias counts as all that it stands for


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """Read a regular file's text; refuse anything else, such as a pipe, which might never end."""
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it is longer than {most:,} bytes, which is the most that hfgen reads of such a file")
    return data.decode("utf-8")


def read_json(path: Path, most: int = MOST_BYTES, finite: bool = False) -> Any:
    """Read a JSON file, in bounds."""
    return parse_json(read_text(path, most), finite)


def parse_json(text: str, finite: bool = False) -> Any:
    """Parse a JSON text, unless it is nested too deeply.

    Args:
        finite: refuse the words NaN and Infinity, which Python's JSON has; some of diffusers' configs hold them.

    >>> parse_json('{"a": ["[[[["]}')
    {'a': ['[[[[']}
    """
    depth, quoted = 0, False
    for mark in re.finditer(r'\\.|["\[\]{}]', text, re.DOTALL):
        if mark[0] == '"':
            quoted = not quoted
        elif not quoted:
            depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(mark[0], 0)
            _check_depth(depth)
    return json.loads(text, parse_constant=_refuse if finite else None)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")


def read_yaml(path: Path) -> Any:
    """Read a YAML file, in bounds; only tags of plain values are allowed."""
    return parse_yaml(read_text(path, MOST_YAML))


def parse_yaml(text: str) -> Any:
    """Parse a YAML text, unless it is nested too deeply or its aliases stand for a huge one.

    >>> parse_yaml("a: &x [1, 2]\\nb: *x")
    {'a': [1, 2], 'b': [1, 2]}
    """
    try:
        _check_nodes(text)
        return yaml.load(text, LOADER)
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, ArithmeticError) as error:
        raise ValueError(one_line(error, 300)) from error


def _check_nodes(text: str) -> None:
    open_nodes: list[tuple[str | None, int]] = [(None, 0)]  # of each collection around: its anchor, nodes so far
    anchors: dict[str, int] = {}
    for event in yaml.parse(text, LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, 1))
            _check_depth(len(open_nodes) - 1)
            continue
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                raise ValueError(f"the alias *{event.anchor} stands for nothing, or for what it is itself in")
            anchor, nodes = None, anchors[event.anchor]
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, nodes = open_nodes.pop()
        elif isinstance(event, yaml.ScalarEvent):
            anchor, nodes = event.anchor, 1
        else:
            continue
        if anchor is not None:
            anchors[anchor] = nodes
        around, before = open_nodes[-1]
        open_nodes[-1] = around, before + nodes
        if before + nodes > MOST_NODES:
            raise ValueError(f"it stands for more than {MOST_NODES:,} values, which is the most that hfgen reads")


def _check_depth(depth: int) -> None:
    if depth > DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} levels deep, which is the most that hfgen reads")


def printable(value: Any) -> Any:
    """The same with `?` for line breaks and control characters: a terminal obeys some of them.

    >>> printable({"a": ["\\x1b[2J"]})
    {'a': ['?[2J']}
    """
    if isinstance(value, str):
        return "".join(c if c.isprintable() else "?" for c in value)
    if isinstance(value, dict):
        return {printable(key): printable(item) for key, item in value.items()}
    return [printable(item) for item in value] if isinstance(value, list) else value


def write_text(path: Path, text: str) -> None:
    """Replace a file: on a full disk, or killed, the old one stays. Names that are not UTF-8 are escaped."""
    temporary = path.with_name(f".{path.name}")
    try:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk, where the file system knows how to.

    Mounts of buckets, network shares and overlays may not, nor Windows of a folder.
    """
    try:
        number = os.open(path, os.O_RDONLY)
    except PermissionError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in UNSYNCED and not (path.is_dir() and error.errno in UNSYNCED_FOLDER):
            raise
    finally:
        os.close(number)


def digest(name: str, content: Path | bytes, header: bytes = b"") -> str:
    """Return the hash of a header and a file's or bytes' content, in hexadecimal digits."""
    found = hashlib.new(name, header, usedforsecurity=False)
    if isinstance(content, bytes):
        found.update(content)
        return found.hexdigest()
    with content.open("rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def size_of(content: Path | bytes) -> int:
    """Return the size in bytes."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def refuse_links_out(folder: str | os.PathLike[str], *paths: Path) -> None:
    """Raise a LoadError if a file lies outside of the folder; files of a Hub's cache may lie in its blobs."""
    root = Path(folder).resolve()
    caches = [p.parent for p in root.parents if p.name == "snapshots" and p.parent.name.startswith("models--")]
    roots = [root, *((cache / "blobs").resolve() for cache in caches)]
    for path in paths:
        try:
            real = path.resolve()
        except (RuntimeError, OSError):  # links in a circle
            real = Path("/")
        if not any(real.is_relative_to(allowed) for allowed in roots):
            raise LoadError(
                f"{path.relative_to(folder)} is a link out of the folder, which hfgen does not follow.\n"
                "If you trust it, put what it leads to in its place."
            )


def looks_local(name: str) -> bool:
    """Return True where a dataset's name cannot be an id on the Hub, whether or not there is such a file."""
    of_windows = "\\" in name or name[1:2] == ":"
    endings = ("/", ".npz", ".npy", ".parquet", ".csv", ".jsonl", ".zip", ".tar", ".tar.gz", ".tgz")
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    return of_windows or is_path or name.lower().endswith(endings)


def read_config_file(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings.

    Raises:
        UsageError: the file is missing, or does not hold a YAML dictionary.
    """
    try:
        loaded = read_yaml(path)
    except FileNotFoundError as error:
        raise UsageError(f"There is no config file {path}.") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not readable YAML: {one_line(error, 300)}") from error
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise UsageError(f"{path} is not a config file: it must hold `key: value` lines.")
    return loaded
