"""Splits that the card of a repository of the Hub declares by patterns of files, in a copy of it on this machine."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hfgen.files import parse_yaml, read_text


def configurations(folder: Path) -> list[dict[str, Any]]:
    """Return the configurations that the card of a copied repository names; none where it has no readable header."""
    try:
        card = read_text(folder / "README.md") if (folder / "README.md").is_file() else ""
        header = parse_yaml(card.split("---")[1]) if card.startswith("---") and card.count("---") > 1 else {}
    except ValueError:
        return []
    found = header.get("configs") if isinstance(header, dict) else None
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def names_files_beyond(folder: Path) -> bool:
    """Return whether the header of a card could name files outside of the folder, or on the network."""
    header = read_text(folder / "README.md").split("---")[1]
    return re.search(r"\.\.|: */|://", header) is not None


def declared_splits(folder: Path, files: Sequence[str]) -> dict[str, list[str]] | None:
    """Divide files below a folder by the splits of the only configuration of its card; None without such.

    Args:
        files: paths below the folder, with `/`: nothing else is ever chosen.
    """
    configs = configurations(folder)
    if len(configs) != 1:
        return None
    given = configs[0].get("data_files")
    if isinstance(given, dict):
        given = [{"split": split, "path": path} for split, path in given.items()]
    if not isinstance(given, list) or not all(isinstance(entry, dict) for entry in given):
        return None
    below = str(configs[0].get("data_dir") or "").strip("./")
    found: dict[str, list[str]] = {}
    for entry in given:
        paths = entry.get("path")
        patterns = [_pattern(below, str(path)) for path in (paths if isinstance(paths, list) else [paths])]
        chosen = [file for file in files if any(pattern.fullmatch(file) for pattern in patterns)]
        found.setdefault(str(entry.get("split")), []).extend(chosen)
    return {split: chosen for split, chosen in found.items() if chosen} or None


def _pattern(below: str, glob: str) -> re.Pattern[str]:
    """Return a pattern of the Hub as a regular expression: `*` within a folder, `**` through folders."""
    path = "/".join(part for part in (below, glob.removeprefix("./")) if part)
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]/]+\])", path)
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(words.get(p) or (p if p[:1] == "[" and p[-1:] == "]" else re.escape(p)) for p in parts))
