"""Monotone rational-quadratic splines (Durkan et al. 2019, arXiv:1906.04032; Gregory & Delbourgo 1982)."""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

MIN_SIZE, MIN_DERIVATIVE = 1e-3, 1e-3  # of a bin, as a share of the interval; of the slope at a knot
UNIT_SLOPE = math.log(math.expm1(1 - MIN_DERIVATIVE))  # softplus of it, plus the least slope, is 1


def knots(parameters: Tensor, bound: float) -> tuple[Tensor, Tensor, Tensor]:
    """Knots and slopes of each element's spline on [-bound, bound], from 3 K - 1 free parameters of K bins.

    Zero parameters give the identity.

    Args:
        parameters: (..., 3 K - 1): widths and heights, before softmax, and inner slopes, before softplus.

    Returns:
        x and y of the knots and the slope at each, (..., K + 1): slope 1 at the ends, where the tails begin.
    """
    num_bins = (parameters.shape[-1] + 1) // 3
    widths, heights, slopes = parameters.split([num_bins, num_bins, num_bins - 1], dim=-1)
    slopes = MIN_DERIVATIVE + softplus(slopes + UNIT_SLOPE)
    return _ends(widths, bound), _ends(heights, bound), pad(slopes, (1, 1), value=1.0)


def _ends(sizes: Tensor, bound: float) -> Tensor:
    """Free parameters of bins' sizes -> where they end, from -bound to bound."""
    num_bins = sizes.shape[-1]
    shares = MIN_SIZE + (1 - MIN_SIZE * num_bins) * sizes.softmax(-1)
    inner = shares[..., :-1].cumsum(-1) * 2 * bound - bound
    return torch.cat([_filled(inner, -bound), inner, _filled(inner, bound)], dim=-1)


def _filled(like: Tensor, value: float) -> Tensor:
    return like.new_full((*like.shape[:-1], 1), value)


def _bin(values: Tensor, ends: Tensor, *of_knots: Tensor) -> list[Tensor]:
    """Return, for each value, each of `of_knots` at the left and at the right end of its bin."""
    index = (values[..., None] >= ends[..., 1:-1]).sum(-1, keepdim=True)
    return [t.gather(-1, place)[..., 0] for t in of_knots for place in (index, index + 1)]


def spline(x: Tensor, parameters: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    """y and ln dy/dx of each element (eqs. 4 and 5); outside [-bound, bound] the identity.

    Args:
        x: any shape.
        parameters: (*x.shape, 3 K - 1).
    """
    xs, ys, slopes = knots(parameters, bound)
    inside = x.abs() <= bound
    x_in = x.clamp(-bound, bound)
    x0, x1, y0, y1, d0, d1 = _bin(x_in, xs, xs, ys, slopes)
    s, t = (y1 - y0) / (x1 - x0), (x_in - x0) / (x1 - x0)
    bottom = s + (d1 + d0 - 2 * s) * t * (1 - t)
    y = y0 + (y1 - y0) * (s * t**2 + d0 * t * (1 - t)) / bottom
    top = d1 * t**2 + 2 * s * t * (1 - t) + d0 * (1 - t) ** 2
    log_slope = 2 * torch.log(s) + torch.log(top) - 2 * torch.log(bottom)
    return torch.where(inside, y, x), torch.where(inside, log_slope, torch.zeros_like(x))


def inverse_spline(y: Tensor, parameters: Tensor, bound: float) -> Tensor:
    """x of each element (eqs. 6 to 8): the root of a quadratic, in the form that does not cancel."""
    xs, ys, slopes = knots(parameters, bound)
    inside = y.abs() <= bound
    y_in = y.clamp(-bound, bound)
    y0, y1, x0, x1, d0, d1 = _bin(y_in, ys, ys, xs, slopes)
    s, up = (y1 - y0) / (x1 - x0), y_in - y0
    bend = d1 + d0 - 2 * s
    a, b, c = (y1 - y0) * (s - d0) + up * bend, (y1 - y0) * d0 - up * bend, -s * up
    root = torch.sqrt((b**2 - 4 * a * c).clamp(min=0))
    t = 2 * c / (-b - root)
    return torch.where(inside, x0 + t * (x1 - x0), y)
