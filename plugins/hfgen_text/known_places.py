"""Known places of texts that are drawn: a prompt, a suffix, or a text with gaps."""

import re
from typing import Any

import torch
from torch import Tensor

from hfgen import UsageError
from hfgen_text.vocabularies import Encoding


def known_places(
    tokenizer: Any, length: int, prompt: str | None = None, suffix: str | None = None, infill: str | None = None
) -> tuple[Tensor, Tensor]:
    """Return the ids (L,) of known places, and which they are, (L,), bool.

    Args:
        prompt: what a text begins with.
        suffix: what it ends with.
        infill: a text with gaps, from the first place on: each of the tokenizer's mask symbols is one unknown place,
            and `<mask*20>` (of a mask symbol `<mask>`) twenty.

    Raises:
        UsageError: they contradict each other, are longer than a text, or do not come back from the tokenizer.
    """
    if infill is not None and (prompt is not None or suffix is not None):
        raise UsageError("infill is a whole text with its gaps: leave out prompt and suffix.")
    ids = torch.zeros(length, dtype=torch.int64)
    known = torch.zeros(length, dtype=torch.bool)
    if infill is not None:
        places = _with_gaps(tokenizer, infill)
        _require_room(len(places), length, "infill")
        for place, id_ in enumerate(places):
            if id_ is not None:
                ids[place], known[place] = id_, True
        return ids, known
    first, last = encode(tokenizer, prompt or "", "prompt"), encode(tokenizer, suffix or "", "suffix")
    _require_room(len(first) + len(last), length, "prompt" if not last else "prompt and suffix" if first else "suffix")
    for found, start in ((first, 0), (last, length - len(last))):
        ids[start : start + len(found)] = torch.tensor(found, dtype=torch.int64)
        known[start : start + len(found)] = True
    return ids, known


def encode(tokenizer: Any, text: str, name: str) -> list[int]:
    """Ids of a text, in which what looks like a special symbol is text.

    Raises:
        UsageError: the tokenizer does not give the text back.
    """
    try:
        found: list[int] = Encoding(tokenizer).encode(text).tolist() if text else []
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
    return found


def _with_gaps(tokenizer: Any, text: str) -> list[int | None]:
    mask = str(tokenizer.mask_token)
    pattern = f"({re.escape(mask)}|{re.escape(mask[:-1])}\\*[0-9]{{1,6}}{re.escape(mask[-1])})"
    places: list[int | None] = []
    for part in re.split(pattern, text):
        if re.fullmatch(pattern, part):
            count = part[len(mask) :].rstrip(mask[-1])
            places += [None] * (int(count) if count else 1)
        else:
            places += encode(tokenizer, part, "infill")
    if None not in places:
        raise UsageError(f"infill has no gap: write {mask} for an unknown place, {mask[:-1]}*20{mask[-1]} for 20.")
    return places


def _require_room(count: int, length: int, name: str) -> None:
    if count > length:
        raise UsageError(f"The {name} has {count} symbols, and a text of this model {length}: shorten it.")
