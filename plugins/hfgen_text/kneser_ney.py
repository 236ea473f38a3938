"""Interpolated modified Kneser-Ney: the n-gram model of bytes that a text model is compared with.

Chen & Goodman 1999, "An empirical study of smoothing techniques for language modeling", section 3. It is made from the
training texts in seconds and needs no file: its order and those texts say all of it. Every byte has a probability.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from hfgen_text.ngrams import NUM_BYTES, Joined

DISCOUNTS = 3  # of counts 1, 2, and 3 or more


@dataclass(frozen=True)
class _Level:
    """The k-grams that were seen.

    Attributes:
        keys: number of the first k - 1 symbols among the (k-1)-grams, times 256, plus the last symbol; sorted.
        mass: discounted share of each among those with the same first k - 1 symbols.
        left: what the discounts leave to shorter contexts, for each context; 1 for one without a count.
    """

    keys: np.ndarray
    mass: np.ndarray
    left: np.ndarray

    def find(self, contexts: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        """Return the number of each k-gram, -1 for one that was not seen or whose context was not."""
        wanted = contexts * NUM_BYTES + symbols
        at = np.searchsorted(self.keys, wanted).clip(max=len(self.keys) - 1)
        return np.where((contexts >= 0) & (self.keys[at] == wanted), at, -1)


@dataclass(frozen=True)
class KneserNey:
    """p(byte | at most `order` - 1 bytes before it, of the same text)."""

    levels: tuple[_Level, ...]

    @property
    def order(self) -> int:
        return len(self.levels)

    @classmethod
    def fit(cls, texts: Joined, order: int = 6) -> Self:
        """Count the n-grams of texts, which are taken as one text.

        Raises:
            ValueError: the texts hold fewer bytes than the order.
        """
        symbols = texts.symbols
        if len(symbols) < order:
            raise ValueError(f"{len(symbols)} bytes are too few for n-grams of {order}")
        grams = _grams(symbols, order)
        levels = []
        for k, gram in enumerate(grams):
            is_longest = k + 1 == order  # else count the different symbols before it, not how often it occurs
            counts = gram.counts if is_longest else np.bincount(grams[k + 1].last, minlength=len(gram.keys))
            levels.append(_level(gram.keys, counts, len(grams[k - 1].keys) if k else 1))
        return cls(tuple(levels))

    def nats(self, texts: Joined) -> np.ndarray:
        """Return -ln p of each byte given those before it in its text: (N,), float64."""
        symbols, places = texts.symbols, texts.places
        p = np.full(len(symbols), 1 / NUM_BYTES)
        numbers = np.zeros(len(symbols), np.int64)  # of the gram of k - 1 symbols before each place
        for level in self.levels:
            known = numbers >= 0
            at = level.find(numbers, symbols)
            longer = np.where(at >= 0, level.mass[at], 0.0) + level.left[numbers] * p
            p = np.where(known, longer, p)
            numbers = np.where(places > 0, np.concatenate([[-1], at[:-1]]), -1)
        return -np.log(p)


@dataclass(frozen=True)
class _Grams:
    """The different k-grams of a text, sorted by key (see `_Level`).

    Attributes:
        counts: how often each occurs.
        last: the number of its last k - 1 symbols among the (k-1)-grams.
    """

    keys: np.ndarray
    counts: np.ndarray
    last: np.ndarray


def _grams(symbols: np.ndarray, order: int) -> list[_Grams]:
    found = []
    numbers = np.zeros(len(symbols) + 1, np.int64)  # of the (k-1)-gram that ends at each place from k - 2 on
    for _ in range(order):
        keys = numbers[:-1] * NUM_BYTES + symbols[len(symbols) - len(numbers) + 1 :]
        unique, first, inverse, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        found.append(_Grams(unique, counts, numbers[1:][first]))
        numbers = inverse.astype(np.int64)
    return found


def _level(keys: np.ndarray, counts: np.ndarray, num_contexts: int) -> _Level:
    contexts = keys // NUM_BYTES
    taken = np.concatenate([[0.0], _discounts(counts)])[np.minimum(counts, DISCOUNTS)]
    total = np.bincount(contexts, counts, num_contexts)
    left = np.bincount(contexts, taken, num_contexts)
    seen = np.maximum(total, 1)
    return _Level(keys, (counts - taken) / seen[contexts], np.where(total > 0, left / seen, 1.0))


def _discounts(counts: np.ndarray) -> np.ndarray:
    """Return D_1, D_2, D_3+ by the numbers of n-grams that occur 1, 2, 3 and 4 times (eq. 26); 1/2 without them."""
    n = np.bincount(np.minimum(counts, DISCOUNTS + 2), minlength=DISCOUNTS + 3)[1 : DISCOUNTS + 2].astype(float)
    if not n.all():
        return np.full(DISCOUNTS, 0.5)
    share = n[0] / (n[0] + 2 * n[1])
    found = np.array([j - (j + 1) * share * n[j] / n[j - 1] for j in range(1, DISCOUNTS + 1)])
    return found.clip(0, [1, 2, 3])
