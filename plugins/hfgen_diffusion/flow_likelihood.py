"""ln p(x) of a flow: the density of noise, carried along the ODE to the image (Chen et al. 2018, arXiv:1806.07366)."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from hfgen import Noise
from hfgen_diffusion.flow_solvers import State, Velocity, adaptive, solve

BIN = 2 / 255  # width of a byte in [-1, 1]


class Density(NamedTuple):
    """ln p of each image as an estimate, with what it does not know.

    Attributes:
        latents: where the flow leads, (B, ...).
        nats: (B,), float64, the mean over the probes.
        probe_error: standard error of that mean, (B,); nan with one probe.
        solver_error: sum of the estimated errors of the steps, (B,); nan where the solver estimates none.
        evaluations: calls of the network.
    """

    latents: Tensor
    nats: Tensor
    probe_error: Tensor
    solver_error: Tensor
    evaluations: int


def signs(noise: Noise, num_probes: int, shape: tuple[int, ...]) -> Tensor:
    """Probes e of independent signs, (P, B, ...), each image's own."""
    return torch.stack([(noise.uniform(*shape) < 0.5) * 2.0 - 1 for _ in range(num_probes)])


def log_density(
    velocity: Velocity,
    x: Tensor,
    probes: Tensor,
    way: tuple[float, float] | list[float],
    solver: str = "adaptive",
    tolerance: float = 1e-4,
) -> Density:
    """ln p(x) = ln N(x_1; 0, I) + ∫ div v(x_t, t) dt from t = 0 to 1, along dx/dt = v(x, t).

    Args:
        x: at the first time, (B, ...), a density over these values.
        probes: eᵀ (dv/dx) e of each is div v in expectation (Hutchinson 1990).
        way: the times from the image to the noise, 1; of an adaptive solver the two ends.
        tolerance: of each step, for each dimension.
    """
    drift, calls = with_divergence(velocity, probes)
    start: State = (x, torch.zeros(len(x), len(probes), dtype=torch.float64, device=x.device))
    if solver == "adaptive":
        solved = adaptive(drift, start, way[0], way[-1], tolerance, [1.0, float(x[0].numel())])
        state, error = solved.state, solved.error[1].mean(1)
    else:
        state = solve(solver, drift, start, pairwise(way))
        error = torch.full((len(x),), math.nan, dtype=torch.float64, device=x.device)
    latents, integral = state
    log_prior = -0.5 * (latents.double().square() + math.log(2 * math.pi)).flatten(1).sum(1)
    spread = integral.std(1) / math.sqrt(len(probes)) if len(probes) > 1 else torch.full_like(error, math.nan)
    return Density(latents, log_prior + integral.mean(1), spread, error, calls())


def with_divergence(velocity: Velocity, probes: Tensor) -> tuple[Callable[[State, Tensor], State], Callable[[], int]]:
    """Return the drift of (x, ∫ div v by each probe), and how often it has called the network so far."""
    calls = 0

    def drift(state: State, t: Tensor) -> State:
        nonlocal calls
        calls += 1
        with torch.enable_grad():
            x = state[0].detach().requires_grad_()
            v = velocity(x, t)
            products = [
                torch.autograd.grad(v, x, probe.to(v), retain_graph=number + 1 < len(probes))[0] * probe
                for number, probe in enumerate(probes)
            ]
        traces = torch.stack([product.double().flatten(1).sum(1) for product in products], 1)
        return v.detach(), traces

    return drift, lambda: calls
