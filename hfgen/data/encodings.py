"""The encoding of a text that does not say it, by which of them its letters are likely in.

Spreadsheet programs write the code page of their country. Each candidate is weighed by the words with letters beyond
ASCII: a letter costs what it takes to choose it among those that are usual, and far more where it is none of these.
"""

import math
import re
from collections.abc import Callable

DOUBLE = {  # code pages of two bytes a letter: the lead bytes of the usual ones, their number, and a handicap
    "gb18030": ("gbk", ((0xB0, 0xD7),), 3755, 0.0),
    "big5": ("big5", ((0xA4, 0xC6),), 5401, 1.0),
    "cp949": ("cp949", ((0xB0, 0xC8),), 2350, 2.0),
    "cp932": ("cp932", ((0x82, 0x83), (0x88, 0x97)), 3134, 1.0),
}
SINGLE = {"cp1252": (30, 0.0), "cp1251": (40, 0.0), "cp1250": (30, 3.0), "cp1253": (40, 3.0)}
WORDS = {"gb18030": "GB 18030", "cp932": "Shift-JIS", "cp949": "EUC-KR", "big5": "Big5"}
RARE = 9.0  # nats more for what hardly occurs
LOOKED_AT = 400  # words


def likely_encoding(content: bytes) -> str:
    """Return the name of the encoding of a text that is not UTF-8, as `bytes.decode` takes it.

    >>> likely_encoding("Größe, café".encode("cp1252")), likely_encoding("кошка".encode("cp1251"))
    ('cp1252', 'cp1251')
    """
    words = {*re.findall(rb"[A-Za-z]*[\x80-\xff][^\s,;|\"']*", content)}
    sample = sorted(words)[:LOOKED_AT]
    handicaps = {name: facts[1] for name, facts in SINGLE.items()} | {name: facts[3] for name, facts in DOUBLE.items()}
    costs = {name: sum(map(_costs(name), sample)) + handicap for name, handicap in handicaps.items()}
    return min(costs, key=costs.__getitem__)


def title(encoding: str) -> str:
    """Return an encoding as people call it."""
    return WORDS.get(encoding, encoding.replace("cp", "Windows-"))


def _costs(encoding: str) -> Callable[[bytes], float]:
    return lambda word: _double(encoding, word) if encoding in DOUBLE else _single(encoding, word)


def _double(encoding: str, word: bytes) -> float:
    codec, usual, size, _ = DOUBLE[encoding]
    try:
        letters = [letter for letter in word.decode(codec) if not letter.isascii()]
    except UnicodeDecodeError:
        return 4 * RARE * len(word)
    leads = [letter.encode(codec)[0] for letter in letters]
    return sum(math.log(size) + (not any(low <= lead <= high for low, high in usual)) * RARE for lead in leads)


def _single(encoding: str, word: bytes) -> float:
    """Return the cost of a word in a code page of one byte a letter, whose case and script have an order."""
    try:
        text = word.decode(encoding)
    except UnicodeDecodeError:
        return 4 * RARE * len(word)
    cost = sum(math.log(SINGLE[encoding][0]) for letter in text if not letter.isascii())
    for before, letter in zip(" " + text, text, strict=False):
        pair, foreign = before + letter, [not before.isascii(), not letter.isascii()]
        if not any(foreign):
            continue
        is_latin = encoding in ("cp1252", "cp1250")
        cost += RARE * (foreign[1] and not letter.isalpha())
        cost += RARE / 2 * (encoding == "cp1251" and foreign[1] and not "\u0410" <= letter <= "\u044f")
        cost += RARE / 2 * (pair.isalpha() and (all(foreign) if is_latin else not all(foreign)))
        cost += RARE / 2 * (before.islower() and letter.isupper())
    return cost
