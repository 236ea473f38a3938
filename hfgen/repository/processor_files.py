"""Bounds on the files of tokenizers and feature extractors, which come from strangers too.

A fast tokenizer of transformers is one file of settings, `tokenizer.json`, that makes every text that it is given
longer or shorter. So its file is bounded, and so is how much longer a text can become. Vocabularies of other formats
(sentencepiece, tiktoken, pickles) are not read.
"""

import base64
import binascii
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hfgen.errors import LoadError, first_line
from hfgen.files import MOST_TABLE, parse_json, read_json, read_text
from hfgen.repository.fit import LARGEST, MOST_ELEMENTS, WHAT_NOW, check_config
from hfgen.repository.weights import AGAIN

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
FEATURE_EXTRACTOR_CONFIG = "preprocessor_config.json"
VOCABULARIES = ("vocab.json", "vocab.txt")  # of tokenizers that are older than tokenizer.json
SAFE = (".json", ".txt", ".md", ".jinja")
NAMES_FILES = ("fast_tokenizer_files", "gguf_file", "vocab", "merges", "init_inputs")  # a config may not name files
MOST_COLLECTIONS = 1 << 22  # lists and dictionaries of a tokenizer; the largest published have half a million
MOST_GROWTH = 1024  # characters of a text, for each that it had


def check_tokenizer(place: Path) -> None:
    """Raise a LoadError if a folder holds no fast tokenizer, or a config that names files; its file is the next's."""
    config = _read(place / TOKENIZER_CONFIG)
    named = [name for name in NAMES_FILES if isinstance(config, dict) and config.get(name)]
    if not isinstance(config, dict) or named:
        what = f"names files: {named[0]}" if named else "does not hold a dictionary"
        raise LoadError(f"{_where(place / TOKENIZER_CONFIG)} {what}.\n{WHAT_NOW}")
    if (place / TOKENIZER).is_file():
        return
    others = sorted(p.name for p in place.iterdir() if p.suffix not in SAFE or p.name == "tekken.json")
    if others or not any((place / name).is_file() for name in VOCABULARIES):
        what = f" holds {others[0]}, which hfgen does not read, and" if others else ""
        raise LoadError(
            f"The folder {place.name!r}{what} has no {TOKENIZER}.\n"
            "transformers makes one, from a tokenizer that you trust:\n"
            "  AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )


def check_tokenizer_file(path: Path) -> None:
    """Raise a LoadError if a `tokenizer.json` is damaged, or can make a short text very long."""
    where = _where(path)
    try:
        text = read_text(path, MOST_TABLE)
        if text.count("[") + text.count("{") > MOST_COLLECTIONS:
            raise ValueError(f"it has more than {MOST_COLLECTIONS:,} lists, which is the most that hfgen reads")
        settings = parse_json(text)
        if not isinstance(settings, dict):
            raise ValueError("it does not hold a dictionary")
        for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
            _check_growth(settings.get(part), f"{where}: the {part}")
        _check_growth([settings.get("normalizer"), settings.get("pre_tokenizer")], where)
        _check_padding(settings.get("padding"), where)
        _try(text)
    except (ValueError, OSError) as error:
        raise LoadError(f"{where} is damaged: {first_line(error)}\n{AGAIN}") from error


def check_feature_extractor(path: Path) -> None:
    """Raise a LoadError if the config of a feature extractor is damaged, or asks for tables that none has."""
    config, where = _read(path), _where(path)
    if not isinstance(config, dict):
        raise LoadError(f"{where} is damaged: it does not hold a dictionary.")
    check_config(config, where)
    sizes = {key: abs(value) for key, value in config.items() if isinstance(value, int | float)}
    bins = max([sizes[k] for k in sizes if "fft" in k or "win_length" in k or "filter_length" in k], default=0)
    bands = max([sizes[k] for k in sizes if "mel" in k or k == "feature_size"], default=0)
    if bins * bands > MOST_ELEMENTS:  # of a bank of filters, which is computed when it is built
        raise LoadError(
            f"{where}: its filters have {bins * bands:,} values, hfgen accepts at most {MOST_ELEMENTS:,}.\n{WHAT_NOW}"
        )


def _read(path: Path) -> Any:
    try:
        return read_json(path)
    except (ValueError, OSError) as error:
        raise LoadError(f"{_where(path)} is damaged: {first_line(error)}\n{AGAIN}") from error


def _where(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


# --- how much longer a text can become ------------------------------------------------------------------------------
def _check_growth(steps: Any, where: str) -> None:
    growth = math.prod(map(_growth, _steps(steps)))
    if growth > MOST_GROWTH:
        raise LoadError(f"{where} can make a text {growth:,} times as long.\n{WHAT_NOW}")


def _steps(part: Any) -> Iterator[Mapping[str, Any]]:
    """Every step of a normalizer or another part, also of sequences inside sequences."""
    if isinstance(part, dict):
        if isinstance(part.get("type"), str):
            yield part
        for value in part.values():
            yield from _steps(value) if isinstance(value, list | dict) else ()
    for value in part if isinstance(part, list) else ():
        yield from _steps(value)


def _growth(step: Mapping[str, Any]) -> int:
    """Return how many characters one character becomes at most."""
    kind = step["type"]
    if kind == "Replace":
        pattern, content = step.get("pattern"), step.get("content")
        shortest = len(str(pattern["String"])) if isinstance(pattern, dict) and "String" in pattern else 1
        return -(-max(1, len(str(content))) // max(1, shortest)) + (shortest == 0)
    if kind in ("Prepend", "Precompiled"):
        return 1 + len(str(step.get("prepend", ""))) if kind == "Prepend" else _longest(step)
    return 2 if kind == "ByteLevel" else 1


def _longest(step: Mapping[str, Any]) -> int:
    """Return the length of the longest replacement in the table of a sentencepiece normalizer.

    The table is the length of a trie, the trie, and replacements that end in zero bytes.
    """
    try:
        data = base64.b64decode(str(step.get("precompiled_charsmap") or ""), validate=True)
    except binascii.Error as error:
        raise ValueError(f"its precompiled_charsmap is not base64: {error}") from error
    trie = int.from_bytes(data[:4], "little")
    if len(data) < 4 or trie % 4 or trie > len(data) - 4:
        raise ValueError("its precompiled_charsmap is not a table of replacements")
    return max(1, *map(len, data[4 + trie :].split(b"\0")), 1)


def _check_padding(padding: Any, where: str) -> None:
    if isinstance(padding, dict):
        strategy = padding.get("strategy")
        fixed = strategy.get("Fixed", 0) if isinstance(strategy, dict) else 0
        for length in (fixed, padding.get("pad_to_multiple_of") or 0):
            if not isinstance(length, int) or length > LARGEST:
                raise LoadError(f"{where} pads texts to a length of {length}, hfgen accepts {LARGEST:,}.\n{WHAT_NOW}")


def _try(text: str) -> None:
    """Build the tokenizer and use it once: damage that tokenizers finds by ending in a panic is an error here."""
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_str(text).encode("a")
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise ValueError(str(error)) from error
        raise
