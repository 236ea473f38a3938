"""The weight of the KL divergence in a VAE's training, step by step; it is saved beside the weights."""

import math

import torch
from accelerate.utils import reduce
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from hfgen import UsageError


class BetaScheduler(SchedulerMixin, ConfigMixin):
    """The regularizer of the training loss, beta * sum_j max(free_bits, KL_j); not part of any reported bound.

    Args:
        beta: weight of the KL divergence (Higgins et al. 2017); 1 is the ELBO.
        warmup_steps: optimizer steps over which it rises linearly from 0 (Bowman et al. 2016, section 3.1).
        cycle_steps: begin anew after so many steps (Fu et al. 2019, arXiv:1903.10145); None rises once.
        free_bits: lambda, in nats per latent dimension: below it the mean KL of a dimension costs nothing more
            (Kingma et al. 2016, arXiv:1606.04934, eq. 15). The mean is that of a micro-batch over all processes.

    Raises:
        UsageError: a value outside its range.
    """

    @register_to_config
    def __init__(
        self, beta: float = 1.0, warmup_steps: int = 0, cycle_steps: int | None = None, free_bits: float = 0.0
    ) -> None:
        if not (beta >= 0 and math.isfinite(beta)):
            raise UsageError(f"--beta_scheduler.beta is {beta}; it must be at least 0.")
        if warmup_steps < 0:
            raise UsageError(f"--beta_scheduler.warmup_steps is {warmup_steps}; it must be at least 0.")
        if cycle_steps is not None and cycle_steps < max(warmup_steps, 1):
            raise UsageError(
                f"--beta_scheduler.cycle_steps is {cycle_steps}, less than the warm-up of {warmup_steps} steps."
            )
        if not (free_bits >= 0 and math.isfinite(free_bits)):
            raise UsageError(f"--beta_scheduler.free_bits is {free_bits}; it must be at least 0.")

    @property
    def is_elbo(self) -> bool:
        """Return True if the loss is the ELBO at every step."""
        return self.config.beta == 1 and self.config.warmup_steps == 0 and self.config.free_bits == 0

    def beta_at(self, step: int) -> float:
        """beta of the optimizer step number `step`, from 0."""
        if self.config.cycle_steps is not None:
            step %= self.config.cycle_steps
        return self.config.beta * min(1.0, (step + 1) / (self.config.warmup_steps + 1))

    def regularizer(self, kl: Tensor, step: int) -> Tensor:
        """The scalar added to the negative reconstruction term; `kl` is (B, ...), of each image and dimension."""
        means = kl.mean(0)
        if self.config.free_bits > 0:
            limit = torch.full_like(means, self.config.free_bits)
            means = torch.where(reduce(means.detach().clone(), "mean") > limit, means, limit)
        return self.beta_at(step) * means.sum()
