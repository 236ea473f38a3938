"""The curve f(n), and what it bounds: the likelihood of every way to reveal a text.

f(n) is the mean cross-entropy, in nats, of one masked place of a text in which n places, drawn uniformly, are masked.
A sampler that reveals k_1, k_2, ... places, drawn uniformly, has the bound sum k_i f(n_i) of -ln p, with n_i the
masked places before step i. One place a step gives the negative ELBO; one step gives the sum of marginal
cross-entropies.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor

NUM_BINS = 16


def equal_sizes(length: int, num_steps: int) -> list[int]:
    """Places that each of at most `num_steps` steps reveals, as equal as can be.

    >>> equal_sizes(8, 3), equal_sizes(2, 3)
    ([2, 3, 3], [1, 1])
    """
    steps = min(num_steps, length)
    return [length * (i + 1) // steps - length * i // steps for i in range(steps)]


def uniform_grid(num_steps: int) -> list[float]:
    """Shares masked, from 1 to 0 in equal steps."""
    return [1 - i / num_steps for i in range(num_steps + 1)]


def cosine_grid(num_steps: int) -> list[float]:
    """Shares masked, cos(pi/2 (1 - t)): few places are revealed at first (Shi et al. 2024, arXiv:2406.04329)."""
    return [1.0, *(math.cos(math.pi / 2 * i / num_steps) for i in range(1, num_steps)), 0.0]


def nelbo(f: Sequence[float]) -> float:
    """Negative ELBO, in nats: the bound of one place a step."""
    return math.fsum(f)


def bound_of_sizes(f: Sequence[float], sizes: Sequence[int]) -> float:
    """Bound, in nats, of steps that reveal so many places each, drawn uniformly.

    Raises:
        ValueError: they do not reveal each place once.
    """
    if sum(sizes) != len(f) or min(sizes) < 1:
        raise ValueError(f"steps of {list(sizes)} places do not reveal a text of {len(f)}")
    masked, total = len(f), 0.0
    for size in sizes:
        total += size * f[masked - 1]
        masked -= size
    return total


def bound_of_grid(f: Sequence[float], grid: Sequence[float]) -> float:
    """Bound, in nats, of steps in which each masked place opens by itself: t -> s with probability (t - s) / t.

    Args:
        grid: shares masked, from 1 to 0 (Austin et al. 2021, arXiv:2107.03006; L_T of Sahoo et al. 2024).
    """
    length, total = len(f), 0.0
    n = np.arange(1, length + 1)
    choose = np.array([math.lgamma(length + 1) - math.lgamma(k + 1) - math.lgamma(length - k + 1) for k in n])
    for t, s in pairwise(grid):
        log_p = choose + n * math.log(t) + (length - n) * (math.log1p(-t) if t < 1 else -1e300)
        total += (t - s) / t * float((np.exp(log_p) * n * np.asarray(f)).sum())
    return total


def best_sizes(f: Sequence[float], num_steps: int) -> list[int]:
    """Sizes of at most `num_steps` steps with the smallest bound, by dynamic programming."""
    length = len(f)
    steps = min(num_steps, length)
    best = np.full((steps + 1, length + 1), np.inf)  # of the last i steps, before which n places are masked
    size = np.zeros((steps + 1, length + 1), int)
    best[0, 0] = 0.0
    for i in range(1, steps + 1):
        for n in range(1, length + 1):
            k = np.arange(1, n + 1)
            costs = k * f[n - 1] + best[i - 1, n - k]
            best[i, n], size[i, n] = costs.min(), k[costs.argmin()]
    masked, found = length, list[int]()
    for i in range(steps, 0, -1):
        found.append(int(size[i, masked]))
        masked -= found[-1]
    return found


def measured_curve(counts: Tensor, cross_entropies: Tensor, length: int, num_bins: int = NUM_BINS) -> list[float]:
    """f(1), ..., f(L), from draws: the mean of each bin of numbers of places, and straight lines between the bins.

    Args:
        counts: masked places of each draw, (N,).
        cross_entropies: of each draw, the mean of its masked places in nats, (N,).
    """
    n, values = counts.double().cpu().numpy(), cross_entropies.double().cpu().numpy()
    bins = np.minimum(((n - 1) * num_bins / length).astype(int), num_bins - 1)
    there = np.unique(bins)
    centers = [float(n[bins == b].mean()) for b in there]
    means = [float(values[bins == b].mean()) for b in there]
    if len(there) > 1:  # the first and last lines go on to 1 and L
        for at, end in ((0, 1.0), (-1, float(length))):
            one, two = (0, 1) if at == 0 else (-1, -2)
            slope = (means[two] - means[one]) / (centers[two] - centers[one])
            if centers[at] != end:
                centers, means = _extended(centers, means, at, end, means[one] + slope * (end - centers[one]))
    return [float(value) for value in np.interp(np.arange(1, length + 1), centers, means)]


def _extended(x: list[float], y: list[float], at: int, end: float, value: float) -> tuple[list[float], list[float]]:
    return ([end, *x], [value, *y]) if at == 0 else ([*x, end], [*y, value])


def estimate(cross_entropies: Tensor, length: int) -> Tensor:
    """Negative ELBO of each text in nats, (B,), from draws (B, M), whose numbers of places cover 1..L evenly."""
    return length * cross_entropies.double().mean(-1)
