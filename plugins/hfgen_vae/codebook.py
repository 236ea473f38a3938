"""Arithmetic of a codebook: vectors as rows, smoothed counts, perplexity, commitment, a random sample of vectors."""

import torch
from torch import Tensor


def as_rows(z_e: Tensor) -> Tensor:
    """(B, D, h, w) -> (B * h * w, D)"""
    return z_e.movedim(1, -1).flatten(0, -2)


def smoothed(counts: Tensor, epsilon: float) -> Tensor:
    """Laplace smoothing of (K,) counts, which keeps their sum.

    >>> smoothed(torch.tensor([0.0, 2.0]), 1.0)
    tensor([0.5000, 1.5000])
    """
    total = counts.sum()
    return (counts + epsilon) / (total + len(counts) * epsilon) * total


def perplexity(counts: Tensor) -> Tensor:
    """Return e to the entropy of the codes' use: K if all are used equally, 1 if one is used alone.

    >>> perplexity(torch.tensor([5, 5, 5, 5])), perplexity(torch.tensor([0, 7, 0, 0]))
    (tensor(4.0000), tensor(1.))
    """
    shares = counts.float() / counts.sum()
    return torch.special.entr(shares).sum().exp()


def commitment_loss(z_e: Tensor, e: Tensor) -> Tensor:
    """|z_e - e|^2 of each image, (B,), summed over its latents."""
    return (z_e - e).float().square().flatten(1).sum(1)


def lowest(lots: Tensor, vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` lowest of (V,) numbers, sorted, and their vectors: a random sample of (V, D) vectors."""
    lots, order = lots.topk(min(count, len(lots)), largest=False, sorted=True)
    return lots, vectors[order]
