"""Log-likelihoods in nats and bits per dimension, exact or bounds: the same arithmetic for every family."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from hfgen.errors import CheckError, UsageError

IMPORTANCE_CHUNK = 100  # importance samples drawn at a time: part of the protocol, since draws depend on it


@dataclass(frozen=True)
class LogLikelihood:
    """ln p(x) of each image, or text, or a bound of it.

    Attributes:
        nats: shape (B,), float64.
        kind: `"exact"`; `"lower bound"`: its expectation is at most the exact value; `"estimate"`: near
            the exact value, on either side.
        num_dimensions: elements of an image, C * H * W; or how many units each text has, shape (B,).
        num_values: how many values each element can take (2 binary, 256 bytes); None where p is a density, which
            is not a probability and may exceed 1.
        num_importance_samples: K of an importance-weighted bound, else None.
        method: how it was computed, where there is more to say.
        unit: what is counted: `"dimension"`, or of texts `"byte"`, `"character"` ...
        noun: what p(x) is of.

    Raises:
        CheckError: a value that is not a number, or plus infinity.
    """

    nats: Tensor
    kind: Literal["exact", "lower bound", "estimate"]
    num_dimensions: int | Tensor
    num_values: int | None = None
    num_importance_samples: int | None = None
    method: str | None = None
    unit: str = "dimension"
    noun: str = "image"

    def __post_init__(self) -> None:
        broken = self.nats.isnan() | (self.nats == math.inf)
        if broken.any():
            raise CheckError(
                f"The log-likelihood of {self.noun} {int(broken.nonzero()[0])} is {self.nats[broken][0]}."
            )

    def __str__(self) -> str:
        """`-86.76 +- 0.12 nats per image, 0.1597 bits per dimension of 2 values (lower bound, ...)`"""
        parts: list[str] = [self.kind, *([self.method] if self.method else [])]
        if self.num_importance_samples is not None:
            noun = "sample" if self.num_importance_samples == 1 else "samples"
            parts.append(f"{self.num_importance_samples} importance {noun}")
        if self.num_values is None:
            parts.append("a density")
        bits = "" if self.num_values is None else f", {self.mean_bits:.4f} bits per {self.unit}"
        bits += "" if self.num_values is None else f" of {self.num_values} values"
        value = f"{self._mean} nats per {self.noun}{bits}"
        return f"{value} ({', '.join(parts)}; mean of {len(self.nats)})"

    @property
    def _mean(self) -> str:
        """Return the mean to the digits that its error leaves, with the error: `-814 +- 120`."""
        mean, error = float(self.nats.mean()), self.standard_error
        if not 0 < error < math.inf:
            return f"{mean:.2f}"
        digits = max(0, 1 - math.floor(math.log10(error)))
        return f"{mean:.{digits}f} +- {error:.{digits}f}"

    @property
    def standard_error(self) -> float:
        """Standard error of the mean over the images; infinite for a single image."""
        return float(self.nats.std() / math.sqrt(len(self.nats))) if len(self.nats) > 1 else math.inf

    @property
    def bits_per_dim(self) -> Tensor:
        """-log2 p(x) / D, shape (B,): comparable only between models of the same `num_values`.

        Raises:
            UsageError: p is a density, whose value would depend on the units of x.
        """
        if self.num_values is None:
            raise UsageError(
                "Bits per dimension are of a probability, and this model's likelihood is a density.\n"
                "Train with a discrete likelihood, or compare densities in nats."
            )
        return bits_per_dim(self.nats, self.num_dimensions)

    @property
    def mean_bits(self) -> float:
        """Bits per unit of all together: where lengths differ, not the mean of each one's bits. Raises as above."""
        bits, sizes = self.bits_per_dim, self.num_dimensions
        return float(bits.mean() if isinstance(sizes, int) else (bits * sizes).sum() / sizes.sum())


def bits_per_dim(nats: Tensor, num_dimensions: int | Tensor) -> Tensor:
    """-nats / (D ln 2)

    >>> bits_per_dim(torch.tensor([-784 * math.log(2)]), 784)  # a fair coin for each of 28x28 pixels
    tensor([1.])
    """
    return -nats / (num_dimensions * math.log(2))


def images_to_levels(images: Tensor, num_values: int, strict: bool = False) -> Tensor:
    """Images of 8 bits in [-1, 1] -> levels 0 .. num_values - 1, as floats; below 256 the lower bits are dropped.

    Raises:
        UsageError: with `strict`, a value that lies between two bytes.
    """
    values = (images + 1) * 127.5
    bytes_ = values.round()
    if strict and (values - bytes_).abs().max() > 1e-2:
        raise UsageError(
            "The likelihood is of bytes, and the images hold values in between.\n"
            "Give images of 8 bits as k / 127.5 - 1, not resized or blurred in floating point."
        )
    return (bytes_ / (256 // num_values)).floor()


def levels_to_images(levels: Tensor, num_values: int) -> Tensor:
    """Levels 0 .. num_values - 1 -> bytes over the whole range, as images in [-1, 1]; undone by `images_to_levels`."""
    return (levels * (255 / (num_values - 1))).round() / 127.5 - 1


def check_num_samples(num_importance_samples: Any) -> None:
    """Raise a UsageError unless it is a whole number of at least 1."""
    whole = isinstance(num_importance_samples, int) and not isinstance(num_importance_samples, bool)
    if not whole or num_importance_samples < 1:
        raise UsageError(f"num_importance_samples is {num_importance_samples!r}; expected a whole number, at least 1.")


def importance_weighted_bound(log_weights: Callable[[int], Tensor], num_importance_samples: int) -> Tensor:
    """L_K = ln 1/K sum_k w_k of each image, with w_k = p(x, z_k) / q(z_k|x) (Burda et al. 2016, arXiv:1509.00519,
    eq. 8). Its expectation rises with K towards ln p(x).

    Args:
        log_weights: called with a number of samples n; returns ln w of as many new ones, (B, n).
        num_importance_samples: K.

    Returns:
        shape (B,), float64.

    Raises:
        UsageError: K is below 1.
    """
    check_num_samples(num_importance_samples)
    total = log_weights(min(IMPORTANCE_CHUNK, num_importance_samples)).double().logsumexp(1)
    for start in range(IMPORTANCE_CHUNK, num_importance_samples, IMPORTANCE_CHUNK):
        chunk = log_weights(min(IMPORTANCE_CHUNK, num_importance_samples - start))
        total = torch.logaddexp(total, chunk.double().logsumexp(1))
    return total - math.log(num_importance_samples)
