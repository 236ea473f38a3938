"""The course of a flow from noise to images, by a solver whose steps are the same for all images."""

import math

import torch
from torch import Tensor

from hfgen import Given, Noise, UsageError
from hfgen_diffusion.course import Course, begun
from hfgen_diffusion.flow_solvers import METHODS, STOCHASTIC_END, State, Velocity, stochastic_step, time
from hfgen_diffusion.interpolant import Interpolant


def flow_course(
    velocity: Velocity,
    interpolant: Interpolant,
    solver: str,
    times: list[float],
    noise: Noise,
    stochasticity: float | None,
    given: Given | None,
) -> Course:
    """Return the course; where the velocity is too large near the image, its last step is to x̂.

    Args:
        times: from noise, 1, to the end of the interpolant.
        stochasticity: of the stochastic solver, by default 1.
    """
    end, w = interpolant.end, 0.0
    if solver == "stochastic":
        end, w = STOCHASTIC_END, checked_stochasticity(stochasticity)
        times = [end + (1 - end) * t for t in times]
    if end > 0:
        times = [*times, 0.0]
    if given is not None and given.strength < 1:
        times = begun(times, given.strength)

    def drift(state: State, t: Tensor) -> State:
        return (velocity(state[0], t),)

    def step(x: Tensor, i: int) -> Tensor:
        start, ends = times[i], times[i + 1]
        if end > 0 and ends == 0:
            last = time(start, (x,))
            return interpolant.image(velocity(x, last), x, last)
        if solver == "stochastic":
            return stochastic_step(velocity, interpolant, x, start, ends, noise, w)
        (x,) = METHODS[solver](drift, (x,), start, ends)
        return x

    return Course([*(scales_of(interpolant, t) for t in times[:-1]), (1.0, 0.0)], step)


def scales_of(interpolant: Interpolant, t: float) -> tuple[float, float]:
    """Return α and σ at a time."""
    found = interpolant.scales(torch.tensor(t, dtype=torch.float64), torch.zeros((), dtype=torch.float64))
    return float(found.alpha), float(found.sigma)


def checked_stochasticity(stochasticity: float | None) -> float:
    """Return w(t) / σ(t); raise a UsageError below 0."""
    w = 1.0 if stochasticity is None else stochasticity
    if not (w >= 0 and math.isfinite(w)):
        raise UsageError(f"stochasticity is {w}; it must be at least 0.")
    return w
