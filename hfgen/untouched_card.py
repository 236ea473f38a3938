"""Cards that cannot be rendered again, as of converted models: a digest tells whether they are as hfgen wrote them.

A run's card is compared with what its files make of it (`hfgen.card`); what a conversion knew is in its card alone.
"""

import hashlib
import re
from pathlib import Path

from hfgen.bundling import how_to_load
from hfgen.run_folder import write_text

MARK = "\n<!-- Written by hfgen; SHA-256 of the text above: {} -->\n"
MARKED = re.compile(r"(.*)\n<!-- Written by hfgen; SHA-256 of the text above: [0-9a-f]{64} -->\n", re.DOTALL)
PLACE = "\n\n## What it is\n"  # what tells of the code stands before it, as on the card of a run


def marked(text: str) -> str:
    """A card with the digest of its text at the end, where a reader does not see it."""
    return text + MARK.format(hashlib.sha256(text.encode()).hexdigest())


def with_code(card: str, bundled: bool) -> str | None:
    """The card with how to load the code that is beside the weights, or without that; None if it was edited.

    >>> with_code("# gan, by me", True) is None
    True
    """
    found = MARKED.fullmatch(card)
    title = re.search(r"^# (.+)$", card, re.MULTILINE)
    if found is None or title is None or marked(found[1]) != card:
        return None
    text, section = found[1], how_to_load(title[1])
    before, place, after = text.replace(section + PLACE, PLACE, 1).partition(PLACE)
    return marked(before + (section if bundled else "") + place + after) if place else None


def told_of_code(path: Path, bundled: bool) -> str | None:
    """`with_code` of a file; None too where it is none, a link, or no text."""
    if path.is_symlink() or not path.is_file():
        return None
    try:
        return with_code(path.read_text(encoding="utf-8"), bundled)
    except ValueError:
        return None


def tell_of_code(path: Path, bundled: bool) -> None:
    """Bring a card up to date with the code beside it; one that somebody has edited stays as it is."""
    told = told_of_code(path, bundled)
    if told is not None:
        write_text(path, told)
