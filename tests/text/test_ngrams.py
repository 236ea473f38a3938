"""Statistics of n-grams, by closed forms and by brute force."""

import math
import random

import numpy as np
import pytest

from hfgen_text.ngrams import Joined, distinct, entropy, jensen_shannon, ngrams, share_found

RANDOM = random.Random(0)
TEXTS = [bytes(RANDOM.choices(b"ab", k=length)) for length in (30, 0, 1, 17, 40)]
OTHERS = [bytes(RANDOM.choices(b"abc", k=25)) for _ in range(3)]


def slow(texts, n):
    return [text[i : i + n] for text in texts for i in range(len(text) - n + 1)]


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 12, 17, 25])
def test_equal_ngrams_have_equal_numbers(n):
    """Within a set and over sets, and none goes over the end of its text."""
    one, other = ngrams(n, Joined.of(TEXTS), Joined.of(OTHERS))
    words = slow(TEXTS, n), slow(OTHERS, n)
    assert (len(one), len(other)) == tuple(map(len, words))
    numbers = [*one, *other]
    pairs = {*zip([*words[0], *words[1]], numbers, strict=True)}
    assert len(pairs) == len({word for word, _ in pairs}) == len({number for _, number in pairs})
    assert share_found(one, other) == pytest.approx(
        np.mean([word in {*words[1]} for word in words[0]]) if words[0] else 0
    )


def test_entropy_of_a_uniform_distribution():
    assert entropy(ngrams(1, Joined.of([bytes(range(256))]))[0]) == 8
    assert entropy(ngrams(2, Joined.of([b"aaaa"]))[0]) == 0
    assert entropy(np.array([0, 1, 1, 1])) == pytest.approx(2 - 0.75 * math.log2(3))


def test_distinct():
    assert distinct(ngrams(2, Joined.of([b"abab"]))[0]) == pytest.approx(2 / 3)


def bits(*p):
    return -sum(each * math.log2(each) for each in p)


def test_jensen_shannon():
    """The entropy of the mean less the mean entropy, of two distributions whose entropies differ."""
    p, q = np.array([0, 0, 0, 1]), np.array([1, 2])
    expected = bits(3 / 8, 3 / 8, 1 / 4) - (bits(3 / 4, 1 / 4) + 1) / 2
    assert jensen_shannon(p, q) == pytest.approx(expected)
    assert jensen_shannon(q, p) == pytest.approx(expected)
    assert jensen_shannon(p, p) == 0


def test_texts_of_no_bytes():
    (none,) = ngrams(3, Joined.of([]))
    assert len(none) == 0
    assert share_found(none, none) == entropy(none) == distinct(none) == 0
