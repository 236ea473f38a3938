"""A sampler's course from noise to images, begun at its first level or at a given image, and RePaint along it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from hfgen import Given, Noise

Wrap = Callable[[Sequence[Any]], Iterable[Any]]  # shows the progress


@dataclass(frozen=True)
class Course:
    """The levels of a sampler, and its steps between them.

    Attributes:
        scales: α and σ of x = α image + σ ε at each level, the noisiest first and the images' own last.
        step: (x, i) -> x at the level i + 1.
    """

    scales: Sequence[tuple[float, float]]
    step: Callable[[Tensor, int], Tensor]

    def follow(self, x: Tensor, noise: Noise, wrap: Wrap, given: Given | None = None) -> Tensor:
        """Return the images to which the course leads from noise, or from what is given.

        Args:
            x: N(0, I), (B, C, H, W).
            noise: what is drawn on the way.
        """
        if given is not None and given.strength < 1:
            alpha, sigma = self.scales[0]
            x = alpha * given.image.to(x) + sigma * x
        if given is not None and given.mask is not None:
            return self._repaint(x, noise, wrap, given, given.mask)
        for i in wrap(range(len(self.scales) - 1)):
            x = self.step(x, i)
        return x

    def _repaint(self, x: Tensor, noise: Noise, wrap: Wrap, given: Given, mask: Tensor) -> Tensor:
        """Put what is given, noised to the same level, in its place after each step, and take some steps back, so that
        what is drawn comes to fit it (Lugmayr et al. 2022, arXiv:2201.09865, algorithm 1)."""
        image = given.image.to(x)
        way = list(pairwise(turns(len(self.scales) - 1, given.jump_length, given.jump_n_sample)))
        for start, end in wrap(way):
            if end < start:
                x = self._back(x, start, noise)
                continue
            alpha, sigma = self.scales[end]
            kept = alpha * image
            x = self.step(x, start)
            if end < len(self.scales) - 1:
                kept = kept + sigma * noise.normal(*x.shape[1:]).to(x)
            x = torch.where(mask, x, kept)
        return x

    def _back(self, x: Tensor, i: int, noise: Noise) -> Tensor:
        """x at the level i - 1, by the noise that q(x_t|x_p) adds."""
        (alpha_p, sigma_p), (alpha, sigma) = self.scales[i], self.scales[i - 1]
        kept = alpha / alpha_p
        return kept * x + max(0.0, sigma**2 - (kept * sigma_p) ** 2) ** 0.5 * noise.normal(*x.shape[1:]).to(x)


def turns(num_steps: int, jump_length: int, jump_n_sample: int) -> Iterator[int]:
    """Yield the levels that RePaint visits, as its authors' code: from every `jump_length`th level above the images
    it goes back that many steps, until each was taken `jump_n_sample` times.

    >>> list(turns(3, 1, 2))
    [0, 1, 0, 1, 2, 1, 2, 3]
    """
    length = min(jump_length, num_steps - 1)
    left = {num_steps - 1 - below: jump_n_sample - 1 for below in range(0, num_steps - length, max(1, length))}
    i = 0
    yield i
    while i < num_steps:
        i += 1
        yield i
        if left.get(i, 0) > 0:
            left[i] -= 1
            for _ in range(length):
                i -= 1
                yield i


def begun(levels: Sequence[Any], first: Any) -> list[Any]:
    """Return a course's levels below one at which it begins, and that one."""
    return [first, *(level for level in levels if level < first)]
