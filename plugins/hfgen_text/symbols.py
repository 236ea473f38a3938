"""Drawing symbols: by inverse CDF in float64, from one uniform number for each."""

import math

import torch
from torch import Tensor

from hfgen import UsageError


def draw(log_probs: Tensor, uniform: Tensor) -> Tensor:
    """Draw a symbol for each row, log-probabilities (..., V) and numbers (...) in [0, 1) -> ids (...), int64.

    A symbol is off by at most 2^-24 in probability, the step of a float32 number. The maximum of log p plus a Gumbel
    number in float32 suppresses rare symbols instead (Zheng et al. 2024, arXiv:2409.02908, section 4).
    """
    cumulated = log_probs.double().exp().cumsum(-1)
    wanted = (uniform.double() * cumulated[..., -1]).unsqueeze(-1)
    found = torch.searchsorted(cumulated, wanted, right=True).squeeze(-1)
    return torch.minimum(found, (cumulated < cumulated[..., -1:]).sum(-1))  # where rounding brings it to the end


def tempered(log_probs: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """Sharpen distributions (..., V), then keep the likeliest symbols that have `top_p` of the mass between them.

    A model whose symbols are drawn so is another one: its likelihood is not that of the texts.

    Raises:
        UsageError: an argument out of its range.
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise UsageError(f"temperature is {temperature}; it must be above 0, and 1 is the model itself.")
    if not 0 < top_p <= 1:
        raise UsageError(f"top_p is {top_p}; it lies in (0, 1], and 1 is the model itself.")
    if temperature != 1.0:
        log_probs = (log_probs.double() / temperature).log_softmax(-1)
    if top_p == 1.0:
        return log_probs
    probs, ids = log_probs.double().exp().sort(dim=-1, descending=True, stable=True)
    before = probs.cumsum(-1) - probs
    cut = torch.zeros_like(before, dtype=torch.bool).scatter(-1, ids, before >= top_p)
    return log_probs.masked_fill(cut, -math.inf).log_softmax(-1)


def log_probs_of(logits: Tensor, num_symbols: int, never: Tensor) -> Tensor:
    """Logits (..., N) of a network -> log-probabilities (..., V) of symbols, at least float32.

    Args:
        num_symbols: V; further outputs of the network are left out.
        never: ids of symbols that no text holds, such as the mask: their probability is 0.
    """
    logits = logits[..., :num_symbols]
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits.index_fill(-1, never, -math.inf).log_softmax(-1)


def entropies(log_probs: Tensor) -> Tensor:
    """Entropy of distributions (..., V) in nats."""
    return -torch.special.xlogy(log_probs.exp(), log_probs.exp()).sum(-1)
