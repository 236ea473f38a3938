"""How far apart two orders of the same float32 arithmetic may come: processors and thread counts choose the order.

Tests compare in float64 where the code computes in it. Where the code computes in float32, the bound is derived:
`gamma` of the number of roundings, times the size of what is rounded; of images, what such roundings change.
"""

import copy

import numpy as np
import torch


def gamma(count):
    """Bound the relative error of `count` float32 roundings, each upon the last (Higham 2002, lemma 3.1)."""
    rounding = count * torch.finfo(torch.float32).eps / 2
    return rounding / (1 - rounding)


def images_apart(pipeline, draw):
    """Bound the difference of two float32 computations of the images `draw(pipeline)`.

    A sum of n products, however ordered, is the exact one of weights that are each moved by gamma(n) at most (Higham
    2002, section 3.1), and ᾱ_t is a product of t + 1 rounded numbers. So this moves all of them by that much, with
    random signs, and takes twice the largest change of an image: once for each computation.
    """
    generator, expected, change = torch.Generator().manual_seed(0), np.asarray(draw(pipeline)), 0.0
    for _ in range(2):
        moved = copy.deepcopy(pipeline)
        for weight in moved.unet.parameters():
            _move(weight.data, gamma(weight[0].numel()), generator)
        levels = torch.arange(len(moved.scheduler.alphas_cumprod))
        _move(moved.scheduler.alphas_cumprod, gamma(2 * (levels + 1)), generator)
        change = max(change, float(np.abs(np.asarray(draw(moved)) - expected).max()))
    assert 0 < change < 1e-3, "the images are not those of small numbers of roundings"
    return 2 * change


def _move(numbers, most, generator):
    """Multiply each by 1 + most or 1 - most."""
    numbers *= 1 + most * (2 * torch.randint(2, numbers.shape, generator=generator) - 1)
