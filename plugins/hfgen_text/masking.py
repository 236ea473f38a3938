"""Masking texts: how many places, and which. For a network without time nothing else is random in its training.

With x a text of L places and n of them masked, drawn uniformly, the negative ELBO of masked diffusion in continuous
time is sum over n = 1..L of f(n), where f(n) is the mean cross-entropy of one masked place (Ou et al. 2025,
arXiv:2406.03736, section 3; by Beta integrals it is the 1/t-weighted integral of Sahoo et al. 2024, arXiv:2406.07524).
"""

import torch
from torch import Tensor


def counts_of(shares: Tensor, length: int) -> Tensor:
    """Numbers in [0, 1) -> numbers of masked places in 1..length, each equally likely."""
    return (shares.double() * length).floor().clamp(0, length - 1).long() + 1


def masked_places(uniforms: Tensor, counts: Tensor) -> Tensor:
    """Mask the `counts` (B,) places of each text with its smallest numbers (B, L): bool, (B, L)."""
    return ranks(uniforms) < counts.unsqueeze(-1)


def ranks(numbers: Tensor) -> Tensor:
    """Rank of each number in its row, from 0 for the smallest; equal numbers by their places."""
    return numbers.argsort(dim=-1, stable=True).argsort(dim=-1, stable=True)


def strata(uniforms: Tensor) -> Tensor:
    """Numbers (..., M) in [0, 1) -> one in each of M equal parts of it, in float64: their mean varies far less."""
    count = uniforms.shape[-1]
    return (torch.arange(count, device=uniforms.device, dtype=torch.float64) + uniforms.double()) / count


def mean_cross_entropy(log_probs: Tensor, ids: Tensor, masked: Tensor) -> Tensor:
    """Mean over the masked places of -ln p(right symbol): log-probabilities (B, L, V) -> (B,)."""
    nats = -log_probs.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    return torch.where(masked, nats, 0).sum(-1) / masked.sum(-1)
