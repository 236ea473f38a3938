"""Flows of Gaussian data N(0, s²), whose velocity is known, and noise that makes expectations exact."""

import torch

from hfgen_diffusion.interpolant import Interpolant

S = 0.5  # standard deviation of the data


def velocity(s=S, path="linear"):
    """v* = E[dx_t/dt | x_t], by the numbers of the paths themselves."""

    def v(x, t):
        at = Interpolant(path).scales(t, x)
        return (at.alpha * at.d_alpha * s**2 + at.sigma * at.d_sigma) / (at.alpha**2 * s**2 + at.sigma**2) * x

    return v


def drift(s=S, path="linear"):
    """The same of a solver's state, and how often it was called."""
    of_x, calls = velocity(s, path), []

    def found(state, t):
        calls.append(t)
        return (of_x(state[0], t),)

    return found, calls


class Quantiles:
    """Scalars at the middles of as many parts of equal probability; of images, ε = ±1."""

    def __init__(self, epsilon):
        self.epsilon = epsilon
        self.middles = (torch.arange(len(epsilon) // 4, dtype=torch.float64) + 0.5) / (len(epsilon) // 4)

    def __len__(self):
        return len(self.epsilon)

    def uniform(self, *shape):
        assert not shape
        return self.middles.repeat_interleave(4)

    def normal(self, *shape):
        return self.epsilon if shape else torch.special.ndtri(self.middles).repeat_interleave(4)
