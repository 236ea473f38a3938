"""The variational bound of ln p(x_0), term by term (Ho et al. 2020, arXiv:2006.11239, eq. 5), in nats and float64."""

import math
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hfgen import Noise
from hfgen_diffusion.process import Clip, ForwardProcess
from hfgen_diffusion.sampling import Denoiser, posterior_weights, split


class BoundTerms(NamedTuple):
    """-ln p(x_0) <= prior + diffusion + decoder, each (B,).

    Attributes:
        prior: KL(q(x_T|x_0) || N(0, I)).
        diffusion: the sum over t >= 1 of KL(q(x_{t-1}|x_t, x_0) || p(x_{t-1}|x_t)), or an unbiased estimate of it.
        decoder: -ln p(x_0|x_1), of bytes.
    """

    prior: Tensor
    diffusion: Tensor
    decoder: Tensor

    def total(self) -> Tensor:
        return self.prior + self.diffusion + self.decoder


def bound_terms(
    denoise: Denoiser, process: ForwardProcess, x0: Tensor, noise: Noise, num_timesteps: int | None, clip: Clip
) -> BoundTerms:
    """Compute all terms of the bound, with one ε for each level and image.

    Args:
        x0: images of bytes, k / 127.5 - 1.
        num_timesteps: how many of the T - 1 levels above 0 are used: one at random from each of as many parts,
            weighted by the levels in its part, which leaves the expectation unchanged. None uses all.
    """
    levels = process.num_train_timesteps - 1
    decoder = decoder_term(denoise, process, x0, noise, clip)
    diffusion = torch.zeros(len(x0), dtype=torch.float64, device=x0.device)
    for low, high in pairwise(strata(levels, levels if num_timesteps is None else min(num_timesteps, levels))):
        t = torch.full((len(x0),), 1 + low, device=x0.device)
        if high - low > 1:
            t += (noise.uniform() * (high - low)).long().clamp(max=high - low - 1)
        diffusion += (high - low) * diffusion_term(denoise, process, x0, t, noise, clip)
    return BoundTerms(prior_term(process, x0), diffusion, decoder)


def strata(levels: int, count: int) -> list[int]:
    """0 = b_0 < b_1 < ... < b_count = levels, closest at 0, where the terms are largest and differ most.

    >>> strata(999, 10)
    [0, 1, 8, 27, 64, 125, 216, 343, 511, 728, 999]
    """
    bounds = [0]
    for part in range(1, count + 1):
        bounds.append(max(bounds[-1] + 1, round(levels * (part / count) ** 3)))
    return bounds


def prior_term(process: ForwardProcess, x0: Tensor) -> Tensor:
    """KL(N(√ᾱ_T x_0, (1 - ᾱ_T) I) || N(0, I))"""
    alpha_bar = process.alphas_cumprod[process.num_train_timesteps - 1].to(x0.device)
    variance = 1 - alpha_bar
    return 0.5 * (variance + alpha_bar * x0.double().square() - 1 - variance.log()).flatten(1).sum(1)


def diffusion_term(
    denoise: Denoiser, process: ForwardProcess, x0: Tensor, t: Tensor, noise: Noise, clip: Clip = "none"
) -> Tensor:
    """KL(q(x_{t-1}|x_t, x_0) || p(x_{t-1}|x_t)) for one x_t of each image, t >= 1, (B,)."""
    epsilon = noise.normal(*x0.shape[1:])
    x_t = process.add_noise(x0, epsilon, t)
    output, v = split(denoise(x_t, t), x0)
    x0_hat = process.predict(output, x_t, *process.scales(t), clip)[0]
    return posterior_kl(process, x0, x0_hat, t, v).flatten(1).sum(1)


def decoder_term(denoise: Denoiser, process: ForwardProcess, x0: Tensor, noise: Noise, clip: Clip = "none") -> Tensor:
    """-ln p(x_0|x_t) at t = 0 for one x_t of each image, (B,)."""
    t = torch.zeros(len(x0), dtype=torch.int64, device=x0.device)
    x_t = process.add_noise(x0, noise.normal(*x0.shape[1:]), t)
    output, v = split(denoise(x_t, t), x0)
    mean = process.predict(output, x_t, *process.scales(t), clip)[0]
    return -discretized_gaussian(x0, mean, log_variance(process, t, v)).flatten(1).sum(1)


def posterior_kl(process: ForwardProcess, x0: Tensor, x0_hat: Tensor, t: Tensor, v: Tensor | None) -> Tensor:
    """KL divergence of each element, for t >= 1: two Gaussians whose means differ only in their x_0."""
    a_t, a_p = _alphas(process, t)
    from_x0, _ = posterior_weights(a_t, a_p)
    small = small_log_variance(process, t)
    modeled = log_variance(process, t, v)
    error = (from_x0 * (x0.double() - x0_hat.double())).square()
    return 0.5 * (modeled - small + (small - modeled).exp() - 1 + error * (-modeled).exp())


def discretized_gaussian(x0: Tensor, mean: Tensor, log_variance: Any) -> Tensor:
    """ln of N(mean, σ²)'s mass on the bin of each byte, which is 2/255 wide; the outermost bins are open (eq. 13)."""
    x, mean = x0.double(), mean.double()
    sigma = torch.as_tensor(0.5 * log_variance, dtype=torch.float64).exp()
    upper = torch.where(x > 0.999, math.inf, (x - mean + 1 / 255) / sigma)
    lower = torch.where(x < -0.999, -math.inf, (x - mean - 1 / 255) / sigma)
    flipped = lower > 0  # both tails are computed in the lower one, where differences do not cancel
    low, high = torch.where(flipped, -upper, lower), torch.where(flipped, -lower, upper)
    log_high, log_low = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    return log_high + torch.log(-torch.expm1((log_low - log_high).clamp(max=-1e-300)))


def log_variance(process: ForwardProcess, t: Tensor, v: Tensor | None) -> Tensor:
    """ln σ² of p(x_{t-1}|x_t), (B, 1, 1, 1) or of each element; at t = 0 a fixed one is ln β̃_1, as in the paper's."""
    small = small_log_variance(process, t)
    if process.variance_type == "fixed_small":
        return small
    a_t, a_p = _alphas(process, t)
    large = torch.log(1 - a_t / a_p)
    if process.variance_type == "learned_range":
        assert v is not None
        return small + (large - small) * (v.double() + 1) / 2
    return torch.where((t == 0).view(-1, 1, 1, 1), small, large)


def small_log_variance(process: ForwardProcess, t: Tensor) -> Tensor:
    """ln β̃_t, (B, 1, 1, 1); β̃_0 is zero, and β̃_1 stands in for it."""
    a_t, a_p = _alphas(process, t.clamp(min=1))
    return torch.log((1 - a_p) / (1 - a_t) * (1 - a_t / a_p))


def _alphas(process: ForwardProcess, t: Tensor) -> tuple[Tensor, Tensor]:
    """ᾱ_t and ᾱ_{t-1}, float64, (B, 1, 1, 1); ᾱ_{-1} is 1, whatever the sampler ends on."""
    table = torch.cat([process.alphas_cumprod[:-1], torch.ones(1, dtype=torch.float64)]).to(t.device)
    return table[t].view(-1, 1, 1, 1), table[t - 1].view(-1, 1, 1, 1)
