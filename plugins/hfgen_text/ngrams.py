"""Statistics of n-grams of bytes: entropy, Jensen-Shannon divergence, and the share that occurs in other texts.

Texts are given as their bytes, so that models with different tokenizers compare. All results are in bits or shares.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

NUM_BYTES = 256


@dataclass(frozen=True)
class Joined:
    """Texts, one after the other.

    Attributes:
        symbols: shape (N,), int64: the bytes of all texts.
        places: shape (N,), int64: the place of each byte in its own text, from 0.
    """

    symbols: np.ndarray
    places: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> Self:
        symbols = np.frombuffer(b"".join(texts), np.uint8).astype(np.int64)
        places = [np.arange(len(text), dtype=np.int64) for text in texts]
        return cls(symbols, np.concatenate(places) if places else np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.symbols)


def ngrams(n: int, *sets: Joined) -> list[np.ndarray]:
    """Return a number for each n-gram of each set of texts, (M,), int64; equal n-grams have equal numbers.

    No n-gram goes over the end of its text.
    """
    codes = _codes(np.concatenate([each.symbols for each in sets]), n)
    ends = np.cumsum([len(each) for each in sets])
    found = []
    for each, end in zip(sets, ends, strict=True):
        inside = each.places[n - 1 :] >= n - 1
        start = end - len(each)
        found.append(codes[start : start + len(inside)][inside])
    return found


def _codes(symbols: np.ndarray, n: int) -> np.ndarray:
    """Number the windows of n symbols: (N - n + 1,)."""
    count = max(0, len(symbols) - n + 1)
    if NUM_BYTES**n < 2**63:
        codes = np.zeros(count, np.int64)
        for offset in range(n):
            codes = codes * NUM_BYTES + symbols[offset : offset + count]
        return codes
    second = n // 2
    first = n - second
    left, right = _ranks(_codes(symbols, first))[:count], _ranks(_codes(symbols, second))[first : first + count]
    return left * (len(symbols) + 1) + right


def _ranks(codes: np.ndarray) -> np.ndarray:
    return np.unique(codes, return_inverse=True)[1].astype(np.int64)


def entropy(grams: np.ndarray) -> float:
    """Return the entropy in bits of the distribution of n-grams.

    >>> entropy(np.array([0, 0, 1, 1]))
    1.0
    """
    return _entropy(np.unique(grams, return_counts=True)[1] / max(1, len(grams)))


def distinct(grams: np.ndarray) -> float:
    """Return the number of different n-grams for each n-gram; 1 where none is repeated."""
    return len(np.unique(grams)) / max(1, len(grams))


def jensen_shannon(one: np.ndarray, other: np.ndarray) -> float:
    """Return the Jensen-Shannon divergence in bits of two distributions of n-grams: 0 of equal ones, at most 1.

    >>> jensen_shannon(np.array([0, 1]), np.array([1, 0])), jensen_shannon(np.array([0]), np.array([1]))
    (0.0, 1.0)
    """
    _, indices = np.unique(np.concatenate([one, other]), return_inverse=True)
    count = indices.max() + 1
    p = np.bincount(indices[: len(one)], minlength=count) / len(one)
    q = np.bincount(indices[len(one) :], minlength=count) / len(other)
    return max(0.0, _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2)


def _entropy(p: np.ndarray) -> float:
    positive = p[p > 0]
    return float(-(positive * np.log2(positive)).sum()) + 0.0


def share_found(grams: np.ndarray, among: np.ndarray) -> float:
    """Return the share of n-grams that occur among others, such as those of the training texts.

    >>> share_found(np.array([1, 2, 2, 5]), np.array([2, 5]))
    0.75
    """
    return float(np.isin(grams, among).mean()) if len(grams) else 0.0
