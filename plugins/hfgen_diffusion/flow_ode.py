"""The probability-flow ODE of a diffusion, and the density that it gives (Song et al. 2021, arXiv:2011.13456, section
4.3).

With y = x / √ᾱ and σ = √((1 - ᾱ)/ᾱ) it reads dy/dσ = ε̂ (Song et al. 2021, arXiv:2010.02502, eq. 14), whose Euler steps
are DDIM's.
"""

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from hfgen_diffusion.process import ForwardProcess
from hfgen_diffusion.sampling import Denoiser, split


class ProbabilityFlow:
    """y from the lowest noise level of a process to the highest, by Runge-Kutta's fourth-order method.

    The steps are equal in ln σ and the same for every image, so that none depends on what stands beside it. Between
    the levels that the network was trained on, t is interpolated, linear in ln σ.
    """

    def __init__(self, denoise: Denoiser, process: ForwardProcess) -> None:
        self.denoise, self.process = denoise, process
        alphas = process.alphas_cumprod[:-1]
        self.log_sigmas = (0.5 * (1 / alphas - 1).log()).numpy()

    def drift(self, log_sigma: float, y: Tensor) -> Tensor:
        """dy/d ln σ = σ ε̂, in y's dtype."""
        sigma = math.exp(log_sigma)
        signal, noise = 1 / math.sqrt(1 + sigma**2), sigma / math.sqrt(1 + sigma**2)
        t = float(np.interp(log_sigma, self.log_sigmas, np.arange(len(self.log_sigmas))))
        x = y * signal
        output, _ = split(self.denoise(x, torch.tensor(t, dtype=torch.float32, device=y.device)), x)
        return sigma * self.process.predict(output, x, signal, noise)[1].to(y.dtype)

    def drift_and_divergence(self, log_sigma: float, y: Tensor, probe: Tensor) -> tuple[Tensor, Tensor]:
        """The drift, and vᵀ J v of its Jacobian J, which is tr J in expectation (Hutchinson 1990), (B,)."""
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            drift = self.drift(log_sigma, y)
            (product,) = torch.autograd.grad(drift, y, probe)
        return drift.detach(), (product * probe).flatten(1).sum(1)

    def log_density(self, x: Tensor, probe: Tensor, num_steps: int) -> tuple[Tensor, Tensor]:
        """(x_T, ln p(x) in nats, (B,)), float64.

        Args:
            x: at the lowest noise level, as a density over [-1, 1]: in units of y.
            probe: v, of independent signs, the same along the whole way.
        """
        y, probe = x.double(), probe.double()
        total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        grid = np.linspace(self.log_sigmas[0], self.log_sigmas[-1], num_steps + 1)
        for start, end in pairwise(grid.tolist()):
            h, middle = end - start, (start + end) / 2
            k1, d1 = self.drift_and_divergence(start, y, probe)
            k2, d2 = self.drift_and_divergence(middle, y + h / 2 * k1, probe)
            k3, d3 = self.drift_and_divergence(middle, y + h / 2 * k2, probe)
            k4, d4 = self.drift_and_divergence(end, y + h * k3, probe)
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            total = total + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
        alpha_bar = self.process.alpha_bar(self.process.num_train_timesteps - 1)
        latents = y * math.sqrt(alpha_bar)
        log_prior = -0.5 * (latents.square() + math.log(2 * math.pi)).flatten(1).sum(1)
        return latents, log_prior + 0.5 * math.log(alpha_bar) * x[0].numel() + total
