"""Samplers of masked diffusion: in which order places are revealed, and how many at a time.

A sampler calls `predict(ids) -> log-probabilities (B, L, V)` for texts whose masked places hold the mask symbol. A
text's result depends on its own random numbers alone: its order and its symbols are drawn apart, both before the
first step.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from hfgen import SeededNoise, UsageError
from hfgen_text.curve import cosine_grid, uniform_grid
from hfgen_text.masking import ranks
from hfgen_text.symbols import draw, entropies, tempered

Sampler = Literal["random", "bernoulli", "entropy_bound", "confidence", "drawn_confidence", "remdm"]
LAWS = {
    "random": "of the bound of so many steps; the model's own with one place a step",
    "bernoulli": "of the bound of its grid",
    "confidence": "the model's own with one place a step",
    "entropy_bound": "near the model's: several places are drawn as if they were independent",
    "remdm": "of a chain that masks places again",
    "drawn_confidence": "another one than the model's, whatever the steps",
}
Progress = Callable[[Any], Iterable[Any]]


@dataclass
class Canvas:
    """Texts that are being drawn.

    Attributes:
        ids: (B, L), int64; the mask symbol where nothing is known yet.
        masked: (B, L), bool: places that are still masked.
        order: (B, L), in [0, 1): places are revealed in the order of falling numbers.
        chance: (B, L), in [0, 1): by which the symbol of each place is drawn.
    """

    ids: Tensor
    masked: Tensor
    order: Tensor
    chance: Tensor
    mask_id: int
    temperature: float = 1.0
    top_p: float = 1.0

    @classmethod
    def of(cls, ids: Tensor, known: Tensor, noise: SeededNoise, mask_id: int, **options: float) -> "Canvas":
        """Begin with known places (B, L); the numbers of a text's places are those of its seed, known or not."""
        length = ids.shape[1]
        order, chance = noise.uniform(length), noise.uniform(length)
        return cls(ids.masked_fill(~known, mask_id), ~known, order, chance, mask_id, **options)

    def draw(self, log_probs: Tensor) -> Tensor:
        """Draw a symbol for every place, (B, L)."""
        return draw(tempered(log_probs, self.temperature, self.top_p), self.chance)

    def reveal(self, opened: Tensor, symbols: Tensor) -> None:
        """Set the opened places; visible ones never change."""
        opened = opened & self.masked
        self.ids = torch.where(opened, symbols, self.ids)
        self.masked = self.masked & ~opened


Predict = Callable[[Tensor], Tensor]


def step_sizes(canvas: Canvas, num_steps: int | None) -> Tensor:
    """Places of each text up to the end of each step, (B, T): as equal as can be; without a number one a step."""
    unknown = canvas.masked.sum(-1, keepdim=True)
    steps = max(1, int(unknown.max())) if num_steps is None else num_steps
    ends = torch.arange(1, steps + 1, device=unknown.device).unsqueeze(0)
    if num_steps is None:
        return torch.minimum(ends, unknown)
    return torch.where(unknown < steps, torch.minimum(ends, unknown), unknown * ends // steps)


def in_random_order(predict: Predict, canvas: Canvas, num_steps: int | None, progress: Progress = iter) -> None:
    """Reveal places in the order of the seed, as many in each step; one a step without a number of steps."""
    place = ranks(torch.where(canvas.masked, -canvas.order, 2.0))
    ends = step_sizes(canvas, num_steps)
    for step in progress(range(ends.shape[1])):
        _reveal(predict, canvas, place < ends[:, step : step + 1])


def by_grid(predict: Predict, canvas: Canvas, grid: Sequence[float], progress: Progress = iter) -> None:
    """Reveal each place in the step in which the share masked falls below its own number (Bernoulli steps)."""
    for s in progress(grid[1:]):
        _reveal(predict, canvas, canvas.order >= s)


def _reveal(predict: Predict, canvas: Canvas, opened: Tensor) -> None:
    """Draw the places that are opened; where there is none, the network need not be called."""
    opened = opened & canvas.masked
    rows = opened.any(-1)
    if bool(rows.any()):
        canvas.reveal(opened, canvas.draw(predict(canvas.ids)))


def by_confidence(predict: Predict, canvas: Canvas, num_steps: int | None, progress: Progress = iter) -> None:
    """Reveal the places with the likeliest symbols first, chosen before a symbol is drawn."""
    _by_score(predict, canvas, num_steps, progress, lambda log_probs, symbols: log_probs.amax(-1))


def by_drawn_confidence(
    predict: Predict, canvas: Canvas, num_steps: int | None, noise: SeededNoise, progress: Progress = iter
) -> None:
    """Draw all places, keep those whose drawn symbols are likeliest (Chang et al. 2022, arXiv:2202.04200; LLaDA).

    Likely symbols are kept more often than the model draws them: texts are less varied than the model's.
    """

    def score(log_probs: Tensor, symbols: Tensor) -> Tensor:
        canvas.chance = noise.uniform(canvas.ids.shape[1])  # those that are not kept are drawn anew
        return log_probs.gather(-1, symbols.unsqueeze(-1)).squeeze(-1)

    _by_score(predict, canvas, num_steps, progress, score)


def _by_score(
    predict: Predict,
    canvas: Canvas,
    num_steps: int | None,
    progress: Progress,
    score: Callable[[Tensor, Tensor], Tensor],
) -> None:
    ends = step_sizes(canvas, num_steps)
    taken = torch.zeros_like(ends[:, :1])
    for step in progress(range(ends.shape[1])):
        end = ends[:, step : step + 1]
        if bool((end > taken).any()):
            log_probs = predict(canvas.ids)
            symbols = canvas.draw(log_probs)
            scores = torch.where(canvas.masked, score(log_probs, symbols).double(), -torch.inf)
            canvas.reveal(ranks(-scores) < end - taken, symbols)
        taken = end


def by_entropy(predict: Predict, canvas: Canvas, bound: float, progress: Progress = iter) -> None:
    """Reveal in each step the places of least entropy whose summed entropy, less the largest, stays below a bound.

    So many that drawing them apart errs by at most the bound in nats (Ben-Hamu et al. 2025, arXiv:2505.24857).
    """
    for _ in progress(range(canvas.ids.shape[1])):
        if not bool(canvas.masked.any()):
            return
        log_probs = predict(canvas.ids)
        own = torch.where(canvas.masked, entropies(log_probs.double()), torch.inf)
        ordered, places = own.sort(dim=-1, stable=True)
        taken = ordered.cumsum(-1) - ordered <= bound  # the last one is the largest
        taken = taken & ordered.isfinite()
        canvas.reveal(torch.zeros_like(taken).scatter(-1, places, taken), canvas.draw(log_probs))


def remasking(
    predict: Predict,
    canvas: Canvas,
    grid: Sequence[float],
    eta: float,
    rule: Literal["cap", "rescale"],
    noise: SeededNoise,
    progress: Progress = iter,
) -> None:
    """Mask visible places again with probability sigma in each step (ReMDM, Wang et al. 2025, arXiv:2503.00307).

    sigma is min(eta, (1 - a_s) / a_t), "cap", or eta times min(1, (1 - a_s) / a_t), "rescale", with a = 1 - t the
    share that is visible: the share masked at each time is that of plain masked diffusion.
    """
    unknown, length = canvas.masked.clone(), canvas.ids.shape[1]
    for t, s in progress(list(pairwise(grid))):
        most = min(1.0, s / (1 - t)) if t < 1 else 1.0
        sigma = min(eta, most) if rule == "cap" else eta * most
        opening = (t - s + sigma * (1 - t)) / t
        event, canvas.chance = noise.uniform(length), noise.uniform(length)
        opened, closed = canvas.masked & (event < opening), unknown & ~canvas.masked & (event < sigma)
        if bool(opened.any()):
            symbols = canvas.draw(predict(canvas.ids))
            canvas.reveal(opened, symbols)
        canvas.ids = canvas.ids.masked_fill(closed, canvas.mask_id)
        canvas.masked = canvas.masked | closed


def grid_of(name: str, num_steps: int) -> list[float]:
    """Shares masked, by the name of a grid.

    Raises:
        UsageError: there is no such grid.
    """
    grids = {"uniform": uniform_grid, "cosine": cosine_grid}
    if name not in grids:
        raise UsageError(f"grid is {name!r}; it is uniform or cosine.")
    return grids[name](num_steps)
