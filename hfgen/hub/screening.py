"""Screening of files before they are published: pickles, code, tokens, local paths and user names are refused."""

import codecs
import contextlib
import getpass
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import get_token
from safetensors import SafetensorError, safe_open

from hfgen.cards.card import TEMPLATE
from hfgen.errors import UsageError
from hfgen.hub.upload import Files
from hfgen.repository.weights import is_pickled
from hfgen.tokens import SHORTEST, TOKEN

PICKLES = (".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth")
CODE = (".py", ".pyc", ".pyo", ".pyw", ".so")
IMAGES = (".gif", ".jpeg", ".jpg", ".png", ".webp")
SETTINGS = (".json", ".yaml", ".yml")
TOKENS = re.compile(TOKEN.pattern.encode())
CONTROLS = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]")  # which texts of one byte per character do not hold
LOCAL_PATH = re.compile(
    r"(?<![\w.:/~-])(?:~|/(?:home|Users|root|tmp|var|mnt|media|data|scratch|private|workspace|opt|srv|Volumes))/[\w.-]+"
    r"|\b[A-Za-z]:\\{1,2}[\w .-]+\\|\bfile:/"
)
COMMON_USERS = {"root", "user", "admin", "runner", "ubuntu", "debian", "docker", "jovyan", "test", "nobody"}
REVOKE = "remove it, and revoke it if anybody has seen it"
SHOWN = 4  # so that the message stays short


def refuse(
    files: Files, repo_id: str, again: str, token: str | None = None, generated: Mapping[str, bytes] | None = None
) -> None:
    """Refuse to publish files with unsafe or private content.

    Args:
        repo_id: its namespace may appear in files, even if it is the user's name.
        again: the command that tries again, for the message.
        token: must not appear in any file; nor may anything that looks like a token.
        generated: code that hfgen has just generated: a file with such a name and content may be published.

    Raises:
        UsageError: it names the files, and what to do with each.
    """
    own = {name for name, content in (generated or {}).items() if name in files and _holds(files[name], content)}
    others = [(name, content) for name, content in sorted(files.items()) if name not in own]
    found = [f"{name}: {what}" for name, content in others for what in findings(name, content)]
    secrets = [text for text in (token, get_token()) if text and len(text) >= SHORTEST]
    found += [f"{name}: {what}" for name, file in files.items() for what in private_in(name, file, repo_id, secrets)]
    if found:
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise UsageError("\n".join(["Nothing was sent:", *found[:SHOWN], f"Then try again{more}: {again}"]))


def _holds(file: Path | bytes, content: bytes) -> bool:
    return file == content or (
        isinstance(file, Path) and file.is_file() and not file.is_symlink() and file.read_bytes() == content
    )


def findings(name: str, content: Path | bytes) -> Iterator[str]:
    """Yield the reasons why a file of this kind must not be published."""
    suffix = Path(name).suffix.lower()
    if isinstance(content, Path) and content.is_symlink():
        yield "a link, which may lead anywhere; replace it by the file itself"
    elif isinstance(content, Path) and not content.is_file():
        yield "not a regular file; move it away"
    elif suffix in PICKLES or _is_pickled(content):
        yield "a pickle, which runs code when it is read; save it as safetensors, or move it away"
    elif suffix in CODE:
        yield "code, which a model does not need; move it away"
    elif suffix == ".safetensors" and isinstance(content, Path):
        try:
            with safe_open(content, "pt"):
                pass
        except (SafetensorError, OSError):
            yield "truncated or damaged; save it again"


def _is_pickled(content: Path | bytes) -> bool:
    if isinstance(content, bytes):
        return False
    with content.open("rb") as file:
        return is_pickled(file.read(256))


def private_in(name: str, content: Path | bytes, repo_id: str, secrets: list[str]) -> Iterator[str]:
    """Yield the private information in a file: tokens, local paths, the user's name.

    Bytes that are not text may look like any short path by chance; in them the folders of this machine are searched.
    """
    suffix = Path(name).suffix.lower()
    if isinstance(content, Path) and (content.is_symlink() or not content.is_file()):
        return
    if suffix in (*IMAGES, ".safetensors", *PICKLES):
        return
    data = content if isinstance(content, bytes) else content.read_bytes()
    text = text_of(data)
    if text is None:
        yield from _private_bytes(data, secrets)
        return
    lines = text.splitlines()
    user = _user_name(repo_id) if suffix in (*SETTINGS, ".md") else None
    if number := _first(lines, lambda line: TOKEN.search(line) or any(secret in line for secret in secrets)):
        yield f"line {number} holds a token; {REVOKE}"
    home = folder_of(Path.home)
    if number := _first(lines, lambda line: _path_in(line, home)):
        yield f"line {number} contains a path of this machine, {_path_in(lines[number - 1], home)}; remove it"
    if user and (number := _first(lines, _naming(user).search)):
        yield f"line {number} contains your user name, {user}; remove it"
    for key, value in _local_values(data, suffix) if suffix in SETTINGS else []:
        yield f"{key!r} is {value!r}, a path of this machine; remove it"


def text_of(data: bytes) -> str | None:
    """Return the text that a file holds, in UTF-8, UTF-16 or an encoding of one byte per character; None for others.

    >>> text_of("ä".encode()), text_of("ä".encode("utf-16")), text_of("ä".encode("latin-1")), text_of(b"\\0x")
    ('ä', 'ä', 'ä', None)
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    else:
        encoding = "latin-1" if CONTROLS.search(data) is None else "utf-8"
    for name in dict.fromkeys(("utf-8", encoding)):
        with contextlib.suppress(UnicodeDecodeError):
            text = data.decode(name)
            return None if "\0" in text else text
    return None


def _private_bytes(data: bytes, secrets: list[str]) -> Iterator[str]:
    """Yield the private information in a file that is not text: tokens, and the folders where this process is."""
    if TOKENS.search(data) or any(_is_in(secret, data) for secret in secrets):
        yield f"holds a token; {REVOKE}"
    for folder in sorted({folder_of(Path.home), folder_of(Path.cwd)}):
        if len(folder) >= SHORTEST and _is_in(f"{folder}{os.sep}", data):
            yield f"contains a path of this machine, {folder}; remove it"


def _is_in(text: str, data: bytes) -> bool:
    return any(text.encode(name, "surrogateescape") in data for name in ("utf-8", "utf-16-le", "utf-32-le"))


def folder_of(find: Callable[[], Path]) -> str:
    """Return a folder, or an empty text for a user id without a home and a current folder that was removed."""
    try:
        return str(find())
    except (RuntimeError, OSError):
        return ""


def _first(lines: list[str], matches: Callable[[str], Any]) -> int:
    """Number of the first line that matches, counted from 1; 0 if none does."""
    return next((number for number, line in enumerate(lines, 1) if matches(line)), 0)


def _path_in(line: str, home: str) -> str | None:
    if found := LOCAL_PATH.search(line):
        return found[0]
    is_there = home.strip("/") and re.search(rf"(?<![\w.:/~-]){re.escape(home)}(?![\w-])", line)
    return home if is_there else None


def _naming(user: str) -> re.Pattern[str]:
    """Pattern of a user's name, except as the owner of a repository or in an address, where it is public."""
    return re.compile(rf"(?<![\w/.-]){re.escape(user)}(?![\w/-])")


def _user_name(repo_id: str) -> str | None:
    """Name of this user; None if it is a common one, or public anyway."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        return None
    known = name in COMMON_USERS or len(name) < 3 or name == repo_id.partition("/")[0]
    return None if known or re.search(rf"\b{re.escape(name)}\b", TEMPLATE) else name


def _local_values(data: bytes, suffix: str) -> list[tuple[str, str]]:
    """Entries of a config that are absolute paths; under `_name_or_path`, any local path."""
    try:
        config = json.loads(data) if suffix == ".json" else yaml.safe_load(data)
    except (ValueError, yaml.YAMLError, RecursionError):
        return []
    return [(key, value) for key, value in _strings("", config) if _is_local(key, value)]


def _strings(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _strings(str(name), part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(key, part)


def _is_local(key: str, value: str) -> bool:
    if LOCAL_PATH.search(value):
        return False  # reported with its line
    absolute = re.fullmatch(r"/[\w. /+@-]*[\w]/?", value) is not None
    return absolute or (key == "_name_or_path" and bool(value) and (value[0] in ".~" or Path(value).exists()))
