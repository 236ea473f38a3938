"""Solvers of dx/dt = v(x, t), for states of several parts, each (B, ...).

Each image has its own steps in the adaptive one, so that none depends on what stands beside it.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from hfgen import HFGenError, Noise
from hfgen_diffusion.interpolant import Interpolant

Solver = Literal["euler", "heun", "rk4", "adaptive", "stochastic"]
State = tuple[Tensor, ...]
Drift = Callable[[State, Tensor], State]  # (state, t of () or (B,)) -> d state/dt
Velocity = Callable[[Tensor, Tensor], Tensor]
Steps = Iterable[tuple[float, float]]  # (from, to)

MOST_STEPS = 2000  # of the adaptive solver
STOCHASTIC_END = 0.04  # where the score becomes too large to step with, and x̂ takes its place


def solve(solver: str, drift: Drift, state: State, steps: Steps) -> State:
    """Return the state after these steps of one of `METHODS`."""
    for start, end in steps:
        state = METHODS[solver](drift, state, start, end)
    return state


def euler(drift: Drift, state: State, start: float, end: float) -> State:
    """x + h v: one call of the network."""
    return moved(state, (end - start, drift(state, time(start, state))))


def heun(drift: Drift, state: State, start: float, end: float) -> State:
    """x + h (v + v') / 2 with v' where Euler's step leads: two calls; a step to 0 is Euler's, as diffusers'."""
    h, slope = end - start, drift(state, time(start, state))
    if end == 0:
        return moved(state, (h, slope))
    ahead = drift(moved(state, (h, slope)), time(end, state))
    return moved(state, (h / 2, slope), (h / 2, ahead))


def rk4(drift: Drift, state: State, start: float, end: float) -> State:
    """Runge and Kutta's classical step of the fourth order: four calls."""
    h, middle = end - start, time((start + end) / 2, state)
    k1 = drift(state, time(start, state))
    k2 = drift(moved(state, (h / 2, k1)), middle)
    k3 = drift(moved(state, (h / 2, k2)), middle)
    k4 = drift(moved(state, (h, k3)), time(end, state))
    return moved(state, (h / 6, k1), (h / 3, k2), (h / 3, k3), (h / 6, k4))


METHODS: dict[str, Callable[[Drift, State, float, float], State]] = {"euler": euler, "heun": heun, "rk4": rk4}


def time(t: float, state: State) -> Tensor:
    return torch.tensor(t, dtype=torch.float64, device=state[0].device)


def moved(state: State, *slopes: tuple[float | Tensor, State]) -> State:
    """state + Σ h slope; h is a number or one for each image, (B,)."""
    found = []
    for part, value in enumerate(state):
        for h, slope in slopes:
            factor = h.view(-1, *[1] * (value.ndim - 1)).to(value) if isinstance(h, Tensor) else h
            value = value + factor * slope[part]
        found.append(value)
    return tuple(found)


# --- steps of their own length for each image -----------------------------------------------------------------------

A = (  # Dormand & Prince 1980, table 2
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
C = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


class Solved(NamedTuple):
    """The adaptive solver's result.

    Attributes:
        state: at the end.
        error: of each part, the sum of the estimated errors of its steps, (B, ...).
        evaluations: calls of the network.
    """

    state: State
    error: State
    evaluations: int


def adaptive(drift: Drift, state: State, start: float, end: float, tolerance: float, units: Sequence[float]) -> Solved:
    """Solve by Dormand and Prince's method of the fifth order, with the error of each step below the tolerance.

    Args:
        tolerance: of the root mean square over a part, relative to max(1, |x|).
        units: one for each part: what its tolerance is multiplied by.

    Raises:
        HFGenError: the tolerance is below what the network's rounding allows.
    """
    device, batch = state[0].device, len(state[0])
    t = torch.full((batch,), start, dtype=torch.float64, device=device)
    h = torch.full_like(t, (end - start) / 20)
    slope, total = drift(state, t), zeros(state)
    evaluations = 1
    for _ in range(MOST_STEPS):
        last = (end - t).abs() < h.abs() * 1.01
        h = torch.where(last, end - t, h)
        slopes = [slope]
        for row, place in zip(A, C, strict=True):
            tried = moved(state, *((h * weight, k) for weight, k in zip(row, slopes, strict=True)))
            slopes.append(drift(tried, t + place * h))
        evaluations += len(A)
        error = moved(zeros(state), *((h * weight, k) for weight, k in zip(ERROR, slopes, strict=True)))
        size = relative(error, state, tried, tolerance, units)
        taken = size <= 1
        state, slope = chosen(taken, tried, state), chosen(taken, slopes[-1], slope)
        total = moved(total, (taken.double(), tuple(part.abs() for part in error)))
        t = torch.where(taken, torch.where(last, end, t + h), t)
        if bool((t == end).all()):
            return Solved(state, total, evaluations)
        h = rounded(h * (0.9 * size.clamp(min=1e-10) ** -0.2).clamp(0.2, 5.0))
    raise HFGenError(f"The ODE was not solved in {MOST_STEPS} steps: give a tolerance above {tolerance:g}.")


def rounded(h: Tensor) -> Tensor:
    """Round steps down to powers of 2^¼: what rounds off in a batch then changes no step, but for a rare case."""
    return h.sign() * torch.exp2((4 * h.abs().log2()).floor() / 4)


def zeros(state: State) -> State:
    """Return zeros of a state's shape."""
    return tuple(torch.zeros_like(part) for part in state)


def relative(error: State, before: State, after: State, tolerance: float, units: Sequence[float]) -> Tensor:
    """The largest error of the parts, in units of what is tolerated, (B,); infinite where it is not a number."""
    sizes = []
    for part, unit in enumerate(units):
        scale = torch.maximum(before[part].abs(), after[part].abs()).clamp(min=1) * tolerance * unit
        sizes.append((error[part] / scale).double().square().flatten(1).mean(1).sqrt())
    return torch.stack(sizes).amax(0).nan_to_num(nan=1e10, posinf=1e10)


def chosen(taken: Tensor, new: State, old: State) -> State:
    """Take the new value of the images whose step was good enough."""
    return tuple(torch.where(taken.view(-1, *[1] * (n.ndim - 1)), n, o) for n, o in zip(new, old, strict=True))


# --- with noise -----------------------------------------------------------------------------------------------------


def stochastic_step(
    velocity: Velocity,
    interpolant: Interpolant,
    x: Tensor,
    start: float,
    end: float,
    noise: Noise,
    stochasticity: float,
) -> Tensor:
    """x - h v + ½ w h ∇ ln p_t + √(w h) z: noise that the score takes away again keeps every p_t (Ma et al. 2024,
    arXiv:2401.08740, eq. 6).

    Args:
        noise: what is drawn, each image's own.
        stochasticity: w(t) = stochasticity σ(t); of 0 it is Euler's method.
    """
    t, h = time(start, (x,)), start - end
    v, w = velocity(x, t), float(stochasticity * interpolant.scales(t, x).sigma)
    moved_on = x - h * v
    if w:
        moved_on = moved_on + w * h / 2 * interpolant.score(v, x, t) + (w * h) ** 0.5 * noise.normal(*x.shape[1:])
    return moved_on
