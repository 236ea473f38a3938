"""The scheduler of one-step families: the prior p(z), and how a sample is drawn from it."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn.functional import logsigmoid

from hfgen.errors import UsageError
from hfgen.noise import Noise


class PriorScheduler(SchedulerMixin, ConfigMixin):
    """Draws latents from the prior; one step, so `timesteps == [0]`.

    Args:
        latent_shape: shape of one latent, without the batch.
        distribution: `"normal"` is N(0, 1) in each element, `"uniform"` is U(-1, 1), `"logistic"` the standard
            logistic distribution (Dinh et al. 2015, arXiv:1410.8516).
        temperature: what a latent of a normal or logistic prior is multiplied by when it is sampled, as in Glow
            (Kingma & Dhariwal 2018, section 6: 0.7). Training always draws at temperature 1.
        truncation: elements of a normal prior beyond this many standard deviations are drawn anew
            (Brock et al. 2018, "the truncation trick"); None draws the whole distribution.

    Raises:
        UsageError: a value outside its range, or a truncation or temperature of a uniform prior.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        latent_shape: Sequence[int] = (100,),
        distribution: Literal["normal", "uniform", "logistic"] = "normal",
        temperature: float = 1.0,
        truncation: float | None = None,
    ) -> None:
        if distribution not in ("normal", "uniform", "logistic"):
            raise UsageError(
                f"--scheduler.distribution is {distribution!r}; it can be 'normal', 'uniform' or 'logistic'."
            )
        if not latent_shape or any(int(n) < 1 for n in latent_shape):
            raise UsageError(f"--scheduler.latent_shape is {list(latent_shape)}; it needs positive sizes.")
        if not (temperature >= 0 and math.isfinite(temperature)):
            raise UsageError(f"--scheduler.temperature is {temperature}; it must be at least 0.")
        if truncation is not None and not truncation > 0:
            raise UsageError(f"--scheduler.truncation is {truncation}; it must be above 0.")
        if distribution == "uniform" and temperature != 1.0:
            raise UsageError("--scheduler.temperature belongs to a normal or logistic prior, not a uniform one.")
        if distribution != "normal" and truncation is not None:
            raise UsageError(f"--scheduler.truncation belongs to a normal prior, not a {distribution} one.")
        self.timesteps = torch.zeros(1, dtype=torch.int64)

    def set_timesteps(self, num_inference_steps: int | None = None, device: torch.device | str = "cpu") -> None:
        """Set the one step; raise a UsageError for any other number."""
        if num_inference_steps not in (None, 1):
            raise UsageError(f"This model samples in one step; num_inference_steps={num_inference_steps}.")
        self.timesteps = self.timesteps.to(device)

    def sample_prior(self, noise: Noise) -> Tensor:
        """Draw latents as training sees them, at temperature 1 and untruncated: (B, *latent_shape)."""
        if self.config.distribution == "uniform":
            return noise.uniform(*self.config.latent_shape) * 2 - 1
        if self.config.distribution == "logistic":
            u = noise.uniform(*self.config.latent_shape).double()
            return torch.logit(u + (0.5 - u) * 2**-24).float()  # u may be 0
        return noise.normal(*self.config.latent_shape)

    def log_prob(self, latents: Tensor) -> Tensor:
        """ln p(z) in nats, at temperature 1 and untruncated: (B, *latent_shape) -> (B,)."""
        z = latents.flatten(1)
        if self.config.distribution == "uniform":
            inside = (z.abs() <= 1).all(1)
            return torch.where(inside, -z.shape[1] * math.log(2), -math.inf).to(z.dtype)
        if self.config.distribution == "logistic":
            return (logsigmoid(z) + logsigmoid(-z)).sum(1)
        return -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)

    def sample(self, noise: Noise) -> Tensor:
        """Draw latents to sample images from: (B, *latent_shape), at the set temperature and truncation."""
        if self.config.truncation is None:
            return self.sample_prior(noise) * self.config.temperature
        return self._truncated(noise) * self.config.temperature

    def _truncated(self, noise: Noise) -> Tensor:
        """Draw the normal distribution on [-t, t] by its inverse distribution function: one draw per element."""
        mass = math.erf(self.config.truncation / math.sqrt(2))
        u = noise.uniform(*self.config.latent_shape).double() * 2 - 1
        z = math.sqrt(2) * torch.erfinv(u * mass)
        return z.clamp(-self.config.truncation, self.config.truncation).float()

    def interpolate(self, start: Tensor, end: Tensor, t: float) -> Tensor:
        """Return the latent a fraction t of the way: along the great circle for a normal prior, along the straight
        line for others. Shapes (B, *latent_shape)."""
        if self.config.distribution != "normal":
            return torch.lerp(start, end, t)
        return slerp(start, end, t)


def slerp(start: Tensor, end: Tensor, t: float) -> Tensor:
    """Interpolate spherically: the latent a fraction t of the way between latents of N(0, I), along which their length
    is kept (White 2016, "Sampling generative networks", section 3). Shapes (B, ...)."""
    a, b = start.flatten(1), end.flatten(1)
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=1).clamp(-1, 1)
    omega = torch.arccos(cosine)[:, None]
    near = omega.sin().abs() < 1e-4
    weight_a = torch.where(near, torch.full_like(omega, 1 - t), torch.sin((1 - t) * omega) / omega.sin())
    weight_b = torch.where(near, torch.full_like(omega, t), torch.sin(t * omega) / omega.sin())
    return (weight_a * a + weight_b * b).reshape(start.shape)


def require_steps(scheduler: object, num_inference_steps: int) -> None:
    """Raise a UsageError for several steps of a scheduler that samples in one."""
    if hasattr(scheduler, "sample_prior") and len(getattr(scheduler, "timesteps", ())) == 1:
        scheduler.set_timesteps(num_inference_steps)  # type: ignore[attr-defined]
