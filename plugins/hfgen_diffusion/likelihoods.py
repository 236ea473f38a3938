"""ln p(x) of a diffusion, as a bound and as an estimate, each named as such."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from hfgen import LogLikelihood, SeededNoise, UsageError
from hfgen_diffusion.bound import bound_terms
from hfgen_diffusion.flow_ode import ProbabilityFlow
from hfgen_diffusion.process import Clip, ForwardProcess
from hfgen_diffusion.sampling import Denoiser

ELEMENTS = 2**16  # image elements in one pass of the network
BIN = 2 / 255  # width of a byte in [-1, 1]

Part = tuple[Denoiser, ForwardProcess, Tensor, SeededNoise]


def variational_bound(
    parts: Iterable[Part], process: ForwardProcess, num_timesteps: int | None, clip: Clip
) -> LogLikelihood:
    """The bound in nats, of bytes."""
    _check_whole("num_timesteps", num_timesteps)
    nats, dimensions = [], 0
    for part in parts:
        nats.append(-bound_terms(*part, num_timesteps, clip).total())
        dimensions = part[2][0].numel()
    levels = process.num_train_timesteps
    asked = levels if num_timesteps is None else min(levels, num_timesteps + 1)
    variance = process.variance_type.replace("_", " ")
    cut = "x_0 clipped" if clip != "none" else "nothing clipped"
    method = f"variational bound, {asked:,} of {levels:,} levels, one draw of each; variance {variance}, {cut}"
    return LogLikelihood(torch.cat(nats), "lower bound", dimensions, 256, method=method)


def probability_flow(parts: Iterable[Part], process: ForwardProcess, num_steps: int) -> LogLikelihood:
    """The density of uniformly dequantized bytes, times the width of a bin."""
    _check_whole("num_ode_steps", num_steps)
    if process.alpha_bar(process.num_train_timesteps - 1) == 0:
        raise UsageError(
            "The probability-flow ODE needs some of the image in its last level, and with rescale_betas_zero_snr\n"
            "that is noise alone. Ask for the variational bound instead."
        )
    nats, dimensions = [], 0
    for denoise, _, x, noise in parts:
        dimensions = x[0].numel()
        dequantized = x + BIN * (noise.uniform(*x.shape[1:]) - 0.5)
        probe = (noise.uniform(*x.shape[1:]) < 0.5) * 2.0 - 1
        density = ProbabilityFlow(denoise, process).log_density(dequantized, probe, num_steps)[1]
        nats.append(density + dimensions * math.log(BIN))
    method = f"probability-flow ODE, {num_steps} Runge-Kutta steps, one probe; uniform dequantization"
    return LogLikelihood(torch.cat(nats), "estimate", dimensions, 256, method=method)


def _check_whole(name: str, value: int | None) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is not None and (not whole or value < 1):
        raise UsageError(f"{name} is {value!r}; expected a whole number, at least 1.")
