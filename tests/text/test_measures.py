"""Measures of texts: each sees what it is for, and what it is blind to is seen by the one beside it."""

import math
import random

import numpy as np
import pytest

from hfgen_text.documents import Where, find_documents
from hfgen_text.measures import TextReference, bits_per, mean_bits, measure, standard_error_of_bits
from hfgen_text.ngrams import Joined


def blocks(split, count, start=0):
    text = "\n".join(
        "".join(document) for document in find_documents(Where("shakespeare-mini", split)).read()
    ).encode()
    return text, [text[start + i * 128 : start + (i + 1) * 128] for i in range(count)]


@pytest.fixture(scope="module")
def texts():
    train, like = blocks("train", 100, 5000)
    _, real = blocks("test", 300)
    return train[:300_000], real, like


@pytest.fixture(scope="module")
def reference(texts):
    train, real, like = texts
    return TextReference.of([train], real, like)


@pytest.mark.whole
def test_real_texts_are_as_real_ones(texts, reference):
    """Other held-out texts have the values that stand beside."""
    _, other = blocks("validation", 100)
    found = measure(other, reference)
    assert found["reference_bits_per_byte"].value == pytest.approx(found["reference_bits_per_byte"].real, rel=0.1)
    assert found["ngram_entropy"].value == pytest.approx(found["ngram_entropy"].real, rel=0.1)
    assert found["ngram_divergence"].value == pytest.approx(found["ngram_divergence"].real, rel=0.15)
    assert found["copied_ngrams"].value == pytest.approx(found["copied_ngrams"].real, abs=0.02)


@pytest.mark.whole
def test_one_text_repeated(texts, reference):
    """The reference model alone takes it for real; entropy and divergence do not."""
    found = measure([texts[1][7]] * 100, reference)
    assert found["ngram_entropy"].value < 7 < 11 < found["ngram_entropy"].real
    assert found["ngram_divergence"].value > 2 * found["ngram_divergence"].real


@pytest.mark.whole
def test_copied_texts(texts, reference):
    found = measure([texts[0][i : i + 128] for i in range(1000, 9000, 128)], reference)
    assert found["copied_ngrams"].value == 1
    assert found["copied_ngrams"].real < 0.15
    assert found["reference_bits_per_byte"].value < found["reference_bits_per_byte"].real - 0.5


@pytest.mark.whole
def test_shuffled_letters(texts, reference):
    source = random.Random(0)
    found = measure([bytes(source.sample(text, len(text))) for text in texts[1][:100]], reference)
    assert found["reference_bits_per_byte"].value > 2 * found["reference_bits_per_byte"].real
    assert found["ngram_divergence"].value > 1.5 * found["ngram_divergence"].real
    assert found["copied_ngrams"].value == 0


def test_no_bytes_at_all(reference):
    """Texts that a broken model leaves empty."""
    found = measure([b"", b""], reference)
    assert (found["ngram_entropy"].value, found["ngram_divergence"].value) == (0, 1)


def test_the_floor_restarts_with_each_text(texts, reference):
    by_text = [mean_bits(reference.model, Joined.of([text])) for text in texts[1]]
    assert reference.floor_bits == pytest.approx(np.mean(by_text))
    assert reference.floor_bits > mean_bits(reference.model, Joined.of([b"".join(texts[1])]))


def test_bits_of_texts_of_several_lengths():
    """The sum over the sum, not the mean of ratios."""
    nats, sizes = np.array([-10.0, -2.0]), np.array([10, 1])
    assert bits_per(nats, sizes) == pytest.approx(12 / 11 / math.log(2))


def test_standard_error_of_bits():
    """Of texts of equal length it is that of the mean; else resampled texts spread as much."""
    source = np.random.default_rng(0)
    nats, sizes = -source.gamma(5, size=400), np.full(400, 16)
    assert standard_error_of_bits(nats, sizes) == pytest.approx(nats.std(ddof=1) / 20 / 16 / math.log(2))
    sizes = source.integers(5, 30, 400)
    nats = nats - sizes
    spread = [bits_per(nats[i], sizes[i]) for i in (source.integers(0, 400, 400) for _ in range(2000))]
    assert standard_error_of_bits(nats, sizes) == pytest.approx(np.std(spread), rel=0.1)
    assert standard_error_of_bits(nats[:1], sizes[:1]) == math.inf
