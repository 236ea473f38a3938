"""A tiny family as a third party would write it, for tests of the core, which names no family."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from hfgen import HFGenPipeline, PriorScheduler


class ToyGenerator(ModelMixin, ConfigMixin):
    """Latents (B, latent_dim) -> gray images (B, 1, sample_size, sample_size); BatchNorm for its buffers."""

    @register_to_config
    def __init__(self, sample_size: int = 4, latent_dim: int = 3, width: int = 8) -> None:
        super().__init__()
        self.inner = nn.Linear(latent_dim, width)
        self.norm = nn.BatchNorm1d(width)
        self.outer = nn.Linear(width, sample_size**2)

    def forward(self, latents: Tensor) -> Tensor:
        size = self.config.sample_size
        return torch.tanh(self.outer(self.norm(self.inner(latents)))).unflatten(1, (1, size, size))


class ToyCritic(ModelMixin, ConfigMixin):
    """Images -> logits (B,)."""

    @register_to_config
    def __init__(self, sample_size: int = 4) -> None:
        super().__init__()
        self.score = nn.Linear(sample_size**2, 1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.score(pixel_values.flatten(1)).flatten()


class ToyPipeline(HFGenPipeline):
    """x = G(z); the critic is optional."""

    _optional_components = ["critic"]

    def __init__(self, generator: ToyGenerator, scheduler: PriorScheduler, critic: ToyCritic | None = None) -> None:
        super().__init__()
        self.register_modules(generator=generator, scheduler=scheduler, critic=critic)

    @classmethod
    def default_configs(cls, sample_size, in_channels, num_classes, overrides):
        shape = {"sample_size": sample_size}
        return {"generator": shape, "critic": shape, "scheduler": {"latent_shape": [3]}}

    def decode(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        return self.generator(latents.to(self.generator.dtype))
