"""Sampling, from noise to images: DDPM's ancestral sampling, DDIM and its inversion, diffusers' other solvers.

The first three have float64 coefficients and step to the next listed level, where diffusers' own `step` guesses it.
A denoiser is a network with its conditions: (x_t, t) -> its output; t has no axes. The state x is kept in float32.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from hfgen import Noise
from hfgen_diffusion.process import END, Clip, ForwardProcess

Denoiser = Callable[[Tensor, Tensor], Tensor]
Steps = Iterable[tuple[int, int]]


def ancestral(
    denoise: Denoiser, process: ForwardProcess, x: Tensor, steps: Steps, noise: Noise, clip: Clip, variance_type: str
) -> Tensor:
    """x ~ p(x_p|x_t) = N(μ, σ² I) step by step (Ho et al. 2020, algorithm 2), without noise after the last.

    Args:
        x: of the first level, (B, C, H, W).
        steps: (from, to).
        noise: what is drawn in each step.
        variance_type: σ² is β̃ (`"fixed_small"`), β (`"fixed_large"`) or between (`"learned_range"`), each of the step
            from t to p.
    """
    for t, p in steps:
        output, v = split(denoise(x, level_tensor(t, x)), x)
        x0 = process.predict(output, x, *scales(process, t), clip)[0]
        from_x0, from_x = posterior_weights(process.alpha_bar(t), process.alpha_bar(p))
        x = from_x0 * x0 + from_x * x
        if p != END:
            log_variance = log_variance_of(variance_type, process.alpha_bar(t), process.alpha_bar(p), v)
            sigma = (0.5 * log_variance).exp() if isinstance(log_variance, Tensor) else math.exp(0.5 * log_variance)
            x = x + sigma * noise.normal(*x.shape[1:])
    return x


def ddim(
    denoise: Denoiser,
    process: ForwardProcess,
    x: Tensor,
    steps: Steps,
    clip: Clip,
    eta: float = 0.0,
    noise: Noise | None = None,
) -> Tensor:
    """x_p = √ᾱ_p x̂_0 + √(1 - ᾱ_p - σ²) ε̂ + σ z (Song et al. 2021, arXiv:2010.02502, eq. 12 and 16).

    Args:
        eta: 0 is a deterministic map, 1 the ancestral sampling with `fixed_small`.
        noise: what is drawn where eta is above 0.
    """
    for t, p in steps:
        output, _ = split(denoise(x, level_tensor(t, x)), x)
        x0, epsilon = process.predict(output, x, *scales(process, t), clip)
        a_t, a_p = process.alpha_bar(t), process.alpha_bar(p)
        sigma = eta * math.sqrt((1 - a_p) / (1 - a_t) * (1 - a_t / a_p)) if p != END else 0.0
        x = math.sqrt(a_p) * x0 + math.sqrt(max(0.0, 1 - a_p - sigma**2)) * epsilon
        if sigma:
            assert noise is not None
            x = x + sigma * noise.normal(*x.shape[1:])
    return x


def invert_ddim(denoise: Denoiser, process: ForwardProcess, x: Tensor, steps: Steps) -> Tensor:
    """The same map upwards, with ε̂ of the level that is left (Song et al. 2021, section 4.3); nothing is clipped.

    Args:
        x: images, or what stands at the first level.
        steps: (from, to), rising; from END is from the image, at which the network is asked as at level 0.
    """
    for t, p in steps:
        asked = max(t, 0)
        output, _ = split(denoise(x, level_tensor(asked, x)), x)
        x0, epsilon = process.predict(output, x, *scales(process, asked))
        a_p = process.alpha_bar(p)
        clean = t == END and process.alpha_bar(END) == 1
        x = math.sqrt(a_p) * (x if clean else x0) + math.sqrt(1 - a_p) * epsilon
    return x


def solve(
    denoise: Denoiser,
    scheduler: Any,
    x: Tensor,
    wrap: Callable[[Sequence[Any]], Iterable[Any]],
    options: dict[str, Any],
) -> Tensor:
    """Sample by diffusers' own `scheduler.step`, with its scale of the network's input.

    Args:
        x: noise of the scheduler's own scale, N(0, init_noise_sigma² I).
        scheduler: with its timesteps set.
        wrap: shows the progress.
        options: further arguments of `step`, such as a list of generators.
    """
    for t in wrap(scheduler.timesteps):
        x = solver_step(denoise, scheduler, x, t, options)
    return x


def solver_step(denoise: Denoiser, scheduler: Any, x: Tensor, t: Tensor, options: dict[str, Any]) -> Tensor:
    """Return x after one call of the network, and of `scheduler.step`."""
    output, _ = split(denoise(scheduler.scale_model_input(x, t), t), x)
    found: Tensor = scheduler.step(output, t, x, return_dict=False, **options)[0]
    return found


def split(output: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """A network's prediction, and what it says of the variance if it learns that: twice as many channels."""
    if output.shape[1] == x.shape[1]:
        return output, None
    prediction, v = output.chunk(2, dim=1)
    return prediction, v


def posterior_weights(a_t: Any, a_p: Any) -> tuple[Any, Any]:
    """Return the weights of x_0 and x_t in the mean of q(x_p|x_t, x_0), any p < t (Ho et al. 2020, eq. 7)."""
    alpha = a_t / a_p
    return a_p**0.5 * (1 - alpha) / (1 - a_t), alpha**0.5 * (1 - a_p) / (1 - a_t)


def log_variance_of(variance_type: str, a_t: float, a_p: float, v: Tensor | None) -> Tensor | float:
    """ln σ² of p(x_p|x_t); learned: v = -1 is β̃, v = 1 is β (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 15)."""
    large = math.log(1 - a_t / a_p)
    small = math.log((1 - a_p) / (1 - a_t)) + large
    if variance_type == "learned_range":
        assert v is not None
        return small + (large - small) * (v + 1) / 2
    return large if variance_type == "fixed_large" else small


def scales(process: ForwardProcess, t: int) -> tuple[float, float]:
    """√ᾱ and √(1 - ᾱ) of a level."""
    alpha_bar = process.alpha_bar(t)
    return math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)


def level_tensor(t: int, x: Tensor) -> Tensor:
    return torch.tensor(t, device=x.device)
