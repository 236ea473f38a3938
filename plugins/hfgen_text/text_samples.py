"""Files of sampled texts, and how they look on a card. This module imports no torch."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FEWEST_EQUAL = 8  # of so many texts one may differ where another machine rounds otherwise
SHOWN_ON_CARD = 4
MOST_SHOWN = 2000  # characters of a text on a card
REPLACED = "\ufffd"  # for a character that cannot be shown
BACKTICKS, LINE_END = re.compile("`+"), re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")


def write_texts(texts: Sequence[str], seeds: Sequence[int], path: Path, kind: str) -> None:
    """Write texts into one file: each below a line with its seed or, as `lines`, one a line as JSON with its seed."""
    pairs = zip(seeds, texts, strict=True)
    if kind == "lines":
        save_text("".join(json.dumps({"seed": s, "text": t}, ensure_ascii=False) + "\n" for s, t in pairs), path)
    else:
        save_text("\n".join(f"==== seed {seed} ====\n{text}\n" for seed, text in pairs), path)


def save_text(text: str, path: Path) -> None:
    """Write a text as it is, whole or not at all; line ends are not translated, lone surrogates become `?`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    try:
        temporary.write_bytes(text.encode("utf-8", "replace"))
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_texts(path: Path) -> list[tuple[int, str]]:
    """Read the seeds and texts of a `.jsonl` file that `write_texts` wrote.

    Raises:
        ValueError: it holds something else.
    """
    found = []
    for line in path.read_bytes().decode("utf-8").split("\n"):
        if not line:
            continue
        row: Any = json.loads(line)
        if not isinstance(row, dict) or not isinstance(row.get("text"), str) or not isinstance(row.get("seed"), int):
            raise ValueError(f"{path.name} holds a line that is not a seed and its text")
        found.append((row["seed"], row["text"]))
    return found


def fenced(text: str) -> str:
    """Return a text as a block of Markdown that neither Markdown nor HTML in it can end.

    >>> print(fenced("```\\n<b>"))
    ````text
    ```
    <b>
    ````
    """
    plain = "".join(c if c.isprintable() or c in "\n\t" else REPLACED for c in LINE_END.sub("\n", text))
    longest = max(map(len, BACKTICKS.findall(plain)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{plain}\n{fence}"


def card_block(texts: Sequence[tuple[int, str]]) -> str:
    """Return the first texts of a card, each below its seed, as fenced blocks."""
    shown = [f"Seed {seed}:\n\n{fenced(text[:MOST_SHOWN])}" for seed, text in texts[:SHOWN_ON_CARD]]
    return "\n\n".join(shown)


def different(kept: Sequence[tuple[int, str]], again: Sequence[tuple[int, str]]) -> list[int]:
    """Return the seeds whose texts differ from those that were kept, or that are missing."""
    now = dict(again)
    return [seed for seed, text in kept if now.get(seed) != text]


def rounding_explains(num_different: int, count: int) -> bool:
    """Return whether another machine's rounding may explain so many different texts: at most one in eight.

    >>> rounding_explains(1, 8), rounding_explains(2, 8), rounding_explains(1, 4)
    (True, False, False)
    """
    return num_different <= count // FEWEST_EQUAL
