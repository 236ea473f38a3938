"""RealNVP on points (Dinh, Sohl-Dickstein & Bengio 2017, arXiv:1605.08803): affine couplings of vectors."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from hfgen import Batch, HFGenPipeline, LogLikelihood, Objective, PriorScheduler, Update, UsageError


class PointFlow(ModelMixin, ConfigMixin):
    """z = f(x): couplings that leave half of the coordinates as they are, in turn, and scale and move the others.

    Args:
        sample_size: number of coordinates, D; at least 2.
        num_couplings: affine couplings.
        hidden_dim: width of the two hidden layers of each coupling's network.
    """

    @register_to_config
    def __init__(self, sample_size: int = 2, num_couplings: int = 8, hidden_dim: int = 64) -> None:
        super().__init__()
        if sample_size < 2:
            raise UsageError(f"A coupling needs at least 2 numbers in a point; these have {sample_size}.")
        self.networks = nn.ModuleList(_network(sample_size, hidden_dim) for _ in range(num_couplings))

    def mask(self, index: int, like: Tensor) -> Tensor:
        """Return b, (D,): 1 for the coordinates that coupling `index` leaves as they are."""
        return ((torch.arange(like.shape[1], device=like.device) + index) % 2).to(like.dtype)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Points (B, D) -> latents (B, D), ln|det dz/dx| (B,): equations 7 and 9 of the paper."""
        log_det = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for index, network in enumerate(self.networks):
            scale, move, mask = self.coupling(network, x, index)
            x = mask * x + (1 - mask) * (x * scale.exp() + move)
            log_det = log_det + scale.sum(1)
        return x, log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Latents (B, D) -> points (B, D): equation 8 of the paper."""
        for index in reversed(range(len(self.networks))):
            scale, move, mask = self.coupling(self.networks[index], z, index)
            z = mask * z + (1 - mask) * (z - move) * (-scale).exp()
        return z

    def coupling(self, network: nn.Module, x: Tensor, index: int) -> tuple[Tensor, Tensor, Tensor]:
        mask = self.mask(index, x)
        scale, move = network(mask * x).chunk(2, dim=1)
        return (1 - mask) * 2 * torch.tanh(scale / 2), (1 - mask) * move, mask


def _network(size: int, width: int) -> nn.Sequential:
    last = nn.Linear(width, 2 * size)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)  # the flow begins as the identity
    return nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last)


def log_density(flow: nn.Module, points: Tensor) -> Tensor:
    """ln p(x), (B,), nats: the standard normal density of f(x), and ln|det df/dx|."""
    z, log_det = flow(points)
    return -0.5 * (z.square().sum(1) + z.shape[1] * math.log(2 * math.pi)) + log_det


class PointFlowObjective(Objective):
    """The mean of -ln p(x), nats."""

    def __init__(self, flow: nn.Module, scheduler: PriorScheduler) -> None:
        self.flow, self.scheduler = flow, scheduler

    def training_step(self, batch: Batch) -> Iterator[Update]:
        """Yield the update of the flow."""
        yield Update("flow", -log_density(self.flow, batch["point_values"]).mean())


class PointFlowPipeline(HFGenPipeline):
    """Samples points by the inverse of a flow, and gives the exact density of any point."""

    modality = "points"
    objective_class = PointFlowObjective
    training_defaults = {"learning_rate": 2e-3, "train_batch_size": 256, "num_train_epochs": 40}
    ema_components = ("flow",)
    description = "RealNVP of points: affine couplings with an exact density"
    references = ("Dinh, Sohl-Dickstein & Bengio (2017), Density estimation using Real NVP, arXiv:1605.08803",)

    def __init__(self, flow: PointFlow, scheduler: PriorScheduler) -> None:
        super().__init__()
        self.register_modules(flow=flow, scheduler=scheduler)

    @property
    def is_density(self) -> bool:
        return True

    @classmethod
    def default_configs(
        cls, sample_size: int, in_channels: int, num_classes: int | None, overrides: Mapping[str, dict[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        if num_classes is not None:
            raise UsageError("This flow has no class-conditional form; train it without --class_conditional.")
        return {"flow": {"sample_size": sample_size}, "scheduler": {"latent_shape": [sample_size]}}

    @torch.no_grad()
    def decode(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Latents (B, D) -> points (B, D)."""
        return self.flow.inverse(latents.to(self.flow.dtype))

    @torch.no_grad()
    def encode(self, points: Tensor, class_labels: Tensor | None = None, seeds: Sequence[int] | None = None) -> Tensor:
        """Points (B, D) -> latents (B, D)."""
        return self.flow(points.to(self.flow.device, self.flow.dtype))[0]

    @torch.no_grad()
    def log_likelihood(
        self, points: Tensor, class_labels: Tensor | None = None, seeds: Sequence[int] | None = None
    ) -> LogLikelihood:
        """ln p(x) of each point (B, D): a density, which may exceed 1."""
        nats = log_density(self.flow, points.to(self.flow.device, self.flow.dtype))
        return LogLikelihood(nats.double().cpu(), "exact", points.shape[1])
