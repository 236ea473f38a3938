"""The n-gram model of bytes: a brute-force twin, sums to one, and figures of real text."""

import math
from collections import Counter

import numpy as np
import pytest

from hfgen_text.kneser_ney import KneserNey
from hfgen_text.ngrams import Joined

TEXT = b"the cat sat on the mat and the rat ate the hat that the cat had sat on; the bat ate at that"


def nats(model, *texts):
    return model.nats(Joined.of(texts))


def brute_force(text, order, context, byte):
    """Chen & Goodman's recursion, by dictionaries."""
    grams = [Counter(text[i : i + k] for i in range(len(text) - k + 1)) for k in range(order + 1)]

    def counts(k):
        if k == order:
            return grams[k]
        return {gram: sum(longer[1:] == gram for longer in grams[k + 1]) for gram in grams[k]}

    def discounts(k):
        n = [sum(count == j for count in counts(k).values()) for j in range(5)]
        if not all(n[1:]):
            return [0, 0.5, 0.5, 0.5]
        share = n[1] / (n[1] + 2 * n[2])
        return [0, *(min(max(j - (j + 1) * share * n[j + 1] / n[j], 0), j) for j in (1, 2, 3))]

    def p(h, w):
        k = len(h) + 1
        shorter = p(h[1:], w) if h else 1 / 256
        among = {gram[-1]: count for gram, count in counts(k).items() if gram[:-1] == h}
        total, d = sum(among.values()), discounts(k)
        if not total:
            return shorter
        left = sum(d[min(count, 3)] for count in among.values())
        own = among.get(w, 0)
        return (own - d[min(own, 3)]) / total + left / total * shorter

    return p(context, byte)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_it_is_the_recursion_of_the_paper(order):
    model, text = KneserNey.fit(Joined.of([TEXT]), order), b"that zat sat on the m"
    expected = [
        -math.log(brute_force(TEXT, order, text[max(0, i - order + 1) : i], text[i])) for i in range(len(text))
    ]
    assert nats(model, text) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("context", [b"", b"t", b"the ", b"zzz", b"he m", TEXT[-5:]])
def test_probabilities_of_all_bytes_sum_to_one(context):
    model = KneserNey.fit(Joined.of([TEXT]), 5)
    each = [nats(model, context + bytes([byte]))[-1] for byte in range(256)]
    assert np.exp(-np.array(each)).sum() == pytest.approx(1, abs=1e-12)


def test_a_text_starts_anew():
    """Nothing is carried from one text to the next."""
    model = KneserNey.fit(Joined.of([TEXT]), 4)
    both = nats(model, b"the cat", b"sat on")
    assert both.tolist() == [*nats(model, b"the cat"), *nats(model, b"sat on")]
    assert both[7] == pytest.approx(nats(model, b"s")[0])


def test_too_few_bytes():
    with pytest.raises(ValueError, match="3 bytes are too few for n-grams of 6"):
        KneserNey.fit(Joined.of([b"abc"]))
