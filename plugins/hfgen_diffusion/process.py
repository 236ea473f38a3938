"""The forward process q(x_t|x_0) of a scheduler's config, in float64, and what a network's output says of x_0.

t = 0 ... T - 1, as in diffusers; t = 0 is one step of noise, x_1 in the papers. At END, -1, sampling ends: ᾱ = 1.
"""

import math
from typing import Any, Literal

import torch
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from torch import Tensor

from hfgen_diffusion.faults import check_betas, check_scheduler, variance_type_of

END = -1
Clip = Literal["none", "x0", "x0_and_epsilon"]
CLIPS = ("none", "x0", "x0_and_epsilon")


class ForwardProcess:
    """q(x_t|x_0) = N(√ᾱ_t x_0, (1 - ᾱ_t) I) (Ho et al. 2020, arXiv:2006.11239, eq. 4).

    Attributes:
        alphas_cumprod: ᾱ_t, float64, (T + 1,): the last, of index END, is 1, or ᾱ_0 where the scheduler's
            `set_alpha_to_one` is false.
        prediction_type: `"epsilon"`, `"sample"` (x_0) or `"v_prediction"` (v = √ᾱ ε - √(1 - ᾱ) x_0).
        variance_type: `"fixed_small"`, `"fixed_large"` or `"learned_range"`.

    Raises:
        UsageError: a scheduler with a known fault, or none of diffusion.
    """

    def __init__(self, scheduler: Any) -> None:
        check_scheduler(scheduler)
        config = self.config = scheduler.config
        betas = betas_of(scheduler)
        check_betas(betas, config)
        alphas = (1 - betas).cumprod(0)
        # a DDPMScheduler made from a DDIM's config keeps the entry, which its own `step` ignores
        held = hasattr(scheduler, "final_alpha_cumprod") and not config.get("set_alpha_to_one", True)
        end = float(alphas[0]) if held else 1.0
        self.alphas_cumprod = torch.cat([alphas, torch.tensor([end], dtype=torch.float64)])
        self.num_train_timesteps = len(alphas)
        self.prediction_type: str = config.get("prediction_type", "epsilon")
        self.variance_type = variance_type_of(scheduler)
        # not every scheduler that keeps the entry can do it
        self._threshold = DDPMScheduler.from_config(config)._threshold_sample if config.get("thresholding") else None
        self._scales = torch.stack([self.alphas_cumprod.sqrt(), (1 - self.alphas_cumprod).sqrt()]).float()

    @property
    def default_clip(self) -> Clip:
        """Clipping as in the scheduler's config: x_0 is clipped to its range, or it is not."""
        return "x0" if self.config.get("clip_sample", False) or self.config.get("thresholding", False) else "none"

    def alpha_bar(self, level: int) -> float:
        """ᾱ of a level, END included."""
        return float(self.alphas_cumprod[level])

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ_t and √(1 - ᾱ_t) of each image, float32, (B, 1, 1, 1)."""
        self._scales = self._scales.to(t.device)
        signal, noise = self._scales[:, t]
        return signal.view(-1, 1, 1, 1), noise.view(-1, 1, 1, 1)

    def add_noise(self, x0: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
        """x_t = √ᾱ_t x_0 + √(1 - ᾱ_t) ε, in float32, t (B,)."""
        signal, noise = self.scales(t)
        return signal * x0.float() + noise * epsilon

    def predict(
        self, output: Tensor, x_t: Tensor, signal: Tensor | float, noise: Tensor | float, clip: Clip = "none"
    ) -> tuple[Tensor, Tensor]:
        """(x̂_0, ε̂) that a network's output stands for, at x_t = signal x_0 + noise ε.

        Args:
            clip: `"x0"` cuts x̂_0 off and leaves ε̂ as the network gave it; `"x0_and_epsilon"` makes ε̂ fit it.
        """
        if self.prediction_type == "epsilon":
            x0, epsilon = (x_t - noise * output) / signal, output
        elif self.prediction_type == "sample":
            x0, epsilon = output, (x_t - signal * output) / noise
        else:
            x0, epsilon = signal * x_t - noise * output, noise * x_t + signal * output
        if clip != "none":
            x0 = self._clipped(x0)
        if clip == "x0_and_epsilon":
            epsilon = (x_t - signal * x0) / noise
        return x0, epsilon

    def target(self, x0: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
        """Return the target that the network's output is trained to match."""
        if self.prediction_type == "epsilon":
            return epsilon
        signal, noise = self.scales(t)
        return x0 if self.prediction_type == "sample" else signal * epsilon - noise * x0

    def _clipped(self, x0: Tensor) -> Tensor:
        if self.config.get("thresholding", False):
            assert self._threshold is not None
            return self._threshold(x0)
        limit = self.config.get("clip_sample_range", 1.0)
        return x0.clamp(-limit, limit)


def betas_of(scheduler: Any) -> Tensor:
    """β_t in float64, (T,): diffusers computes them in float32, and has 9997.3 for an SNR of 9999."""
    config = scheduler.config
    count, first, last = config.num_train_timesteps, config.beta_start, config.beta_end
    schedule = "trained" if config.get("trained_betas") is not None else config.beta_schedule
    if schedule == "trained":
        betas = torch.as_tensor(config.trained_betas, dtype=torch.float64)
    elif schedule == "linear":
        betas = torch.linspace(first, last, count, dtype=torch.float64)
    elif schedule == "scaled_linear":
        betas = torch.linspace(first**0.5, last**0.5, count, dtype=torch.float64) ** 2
    elif schedule == "squaredcos_cap_v2":
        betas = cosine_betas(count)
    else:
        return scheduler.betas.double()
    return rescale_zero_terminal_snr(betas) if config.get("rescale_betas_zero_snr", False) else betas


def cosine_betas(num_train_timesteps: int) -> Tensor:
    """β_t = min(1 - f(t + 1)/f(t), 0.999), f(t) = cos²((t/T + 0.008)/1.008 π/2) (Nichol & Dhariwal 2021,
    arXiv:2102.09672, eq. 17)."""
    u = torch.arange(num_train_timesteps + 1, dtype=torch.float64) / num_train_timesteps
    f = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=0.999)


def snr(alpha_bar: Tensor) -> Tensor:
    """ᾱ / (1 - ᾱ)"""
    return alpha_bar / (1 - alpha_bar)
