"""Measures of sampled texts beside real ones; none of them says much alone.

The reference model's cross-entropy is lower for dull texts, and as low for one text that is repeated: read it beside
the entropy of n-grams. The Jensen-Shannon divergence sees both, but grows as texts get fewer: read it beside its
floor, that of as many training texts. Copied n-grams are read beside those of held-out texts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hfgen_text.kneser_ney import KneserNey
from hfgen_text.ngrams import Joined, entropy, jensen_shannon, ngrams, share_found

ORDER = 6  # of the reference model
ENTROPY_OF, DIVERGENCE_OF, COPIES_OF = 4, 3, 12  # bytes of the n-grams


@dataclass(frozen=True)
class Beside:
    """A value of sampled texts, and the value of real ones that it is read beside."""

    value: float
    real: float


@dataclass(frozen=True)
class TextReference:
    """The texts and the n-gram model that sampled texts are compared with.

    Attributes:
        train: the training text, in pieces.
        real: held-out texts.
        like: as many training texts of the same length as are sampled, for the floor of the divergence.
        model: the n-gram model of the training text.
    """

    train: Joined
    real: Joined
    like: Joined
    model: KneserNey

    @classmethod
    def of(
        cls, train: Sequence[bytes], real: Sequence[bytes], like: Sequence[bytes], order: int = ORDER
    ) -> "TextReference":
        joined = Joined.of([b"".join(train)])
        return cls(joined, Joined.of(real), Joined.of(like), KneserNey.fit(joined, order))

    @property
    def floor_bits(self) -> float:
        """Bits per byte of the held-out texts under the n-gram model, each text by itself: the floor to beat."""
        return mean_bits(self.model, self.real)


def mean_bits(model: KneserNey, texts: Joined) -> float:
    """Return the cross-entropy of texts under an n-gram model, in bits per byte; 0 of no bytes."""
    return float(model.nats(texts).mean()) / math.log(2) if len(texts) else 0.0


def bits_per(nats: np.ndarray, sizes: np.ndarray) -> float:
    """Return -sum ln p / (ln 2 * sum of sizes): bits per byte or per character of several texts together.

    >>> round(bits_per(np.array([-math.log(2) * 3, -math.log(2)]), np.array([3, 1])), 6)
    1.0
    """
    return -float(np.sum(nats)) / (math.log(2) * float(np.sum(sizes)))


def standard_error_of_bits(nats: np.ndarray, sizes: np.ndarray) -> float:
    """Return the standard error of `bits_per` over the texts, as of a ratio of means (delta method)."""
    count = len(nats)
    if count < 2:
        return math.inf
    ratio = -nats.sum() / sizes.sum()
    residuals = -nats - ratio * sizes
    return float(residuals.std(ddof=1) / math.sqrt(count) / sizes.mean() / math.log(2))


def measure(drawn: Sequence[bytes], reference: TextReference) -> dict[str, Beside]:
    """Measure sampled texts, as their bytes.

    Returns:
        `reference_bits_per_byte`, `ngram_entropy` in bits, `ngram_divergence` in bits beside its floor, and
        `copied_ngrams`, a share.
    """
    texts, real, train = Joined.of(drawn), reference.real, reference.train
    of_drawn, of_real = ngrams(ENTROPY_OF, texts, real)
    one, other, like = ngrams(DIVERGENCE_OF, texts, real, reference.like)
    copied, copied_real, known = ngrams(COPIES_OF, texts, real, train)
    return {
        "reference_bits_per_byte": Beside(mean_bits(reference.model, texts), reference.floor_bits),
        "ngram_entropy": Beside(entropy(of_drawn), entropy(of_real)),
        "ngram_divergence": Beside(_divergence(one, other), _divergence(like, other)),
        "copied_ngrams": Beside(share_found(copied, known), share_found(copied_real, known)),
    }


def _divergence(one: np.ndarray, other: np.ndarray) -> float:
    return jensen_shannon(one, other) if len(one) and len(other) else 1.0
