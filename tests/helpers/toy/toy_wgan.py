"""A tiny Wasserstein GAN as a third party would write it: its own optimizers, schedules, progress and an average."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from hfgen import Batch, HFGenPipeline, Objective, PriorScheduler, Update, UsageError, frozen


class WGANGenerator(ModelMixin, ConfigMixin):
    """Latents (B, 3) -> images (B, C, H, W) in [-1, 1]."""

    @register_to_config
    def __init__(self, sample_size: int = 8, out_channels: int = 1, width: int = 8) -> None:
        super().__init__()
        self.shape = (out_channels, sample_size, sample_size)
        self.layers = nn.Sequential(nn.Linear(3, width), nn.SiLU(), nn.Linear(width, math.prod(self.shape)))

    def forward(self, latents: Tensor) -> Tensor:
        return torch.tanh(self.layers(latents)).unflatten(1, self.shape)


class WGANCritic(ModelMixin, ConfigMixin):
    """Images -> scores (B,); without a last bias, whose gradient would be zero."""

    @register_to_config
    def __init__(self, sample_size: int = 8, in_channels: int = 1, width: int = 8) -> None:
        super().__init__()
        size = in_channels * sample_size**2
        self.layers = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, 1, bias=False))

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.flatten(1)).flatten()


class WGANObjective(Objective):
    """Several critic steps for each generator step, which every second step of the training leaves out."""

    averages = {"teacher": "generator"}

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        scheduler: PriorScheduler,
        teacher: nn.Module,
        n_critic: int = 2,
        teacher_decay: float = 0.5,
    ) -> None:
        self.generator, self.critic, self.scheduler, self.teacher = generator, critic, scheduler, teacher
        self.n_critic, self.teacher_decay = n_critic, teacher_decay

    @property
    def progress(self) -> float:
        return self.step / self.last_step

    def optimizer_settings(self, given: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        generator = given["generator"]
        beta2 = generator["betas"][1] * (1 - 0.1 * (1 - self.progress))
        return {
            "generator": {"lr": generator["lr"] * (1 - self.progress / 2), "betas": (generator["betas"][0], beta2)}
        }

    def ema_half_life(self) -> float:
        return 100 * self.progress

    def average_decay(self, name: str) -> float:
        return self.teacher_decay

    def training_step(self, batch: Batch) -> Iterator[Update]:
        latents = self.scheduler.sample_prior(self.noise)
        with torch.no_grad():
            fake = self.generator(latents)
        for _ in range(self.n_critic):
            yield Update("critic", self.critic(fake).mean() - self.critic(batch["pixel_values"]).mean())
        if self.step % 2 == 0:
            with torch.no_grad():
                target = self.teacher(latents)
            fake = self.generator(latents)
            with frozen(self.critic):
                loss = self.progress * (fake - target).square().mean() - self.critic(fake).mean()
                yield Update("generator", loss)


class WGANPipeline(HFGenPipeline):
    """x = G(z)."""

    objective_class = WGANObjective
    training_defaults = {
        "learning_rate": 1e-3,
        "optimizer": {
            "generator": {"class_name": "Adam"},
            "critic": {
                "class_name": "RMSprop",
                "learning_rate": 2e-3,
                "weight_decay": 0.01,
                "no_decay": True,
                "lr_scheduler": "linear",
            },
        },
    }
    ema_components = ("generator",)
    description = "A Wasserstein GAN"
    references = ("Arjovsky et al. (2017), Wasserstein GAN, arXiv:1701.07875",)

    def __init__(self, generator: WGANGenerator, critic: WGANCritic, scheduler: PriorScheduler) -> None:
        super().__init__()
        self.register_modules(generator=generator, critic=critic, scheduler=scheduler)

    @classmethod
    def default_configs(cls, sample_size, in_channels, num_classes, overrides):
        if num_classes is not None:
            raise UsageError("The toy WGAN has no class-conditional form; leave --class_conditional out.")
        return {
            "generator": {"sample_size": sample_size, "out_channels": in_channels},
            "critic": {"sample_size": sample_size, "in_channels": in_channels},
            "scheduler": {"latent_shape": [3]},
        }

    def decode(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        return self.generator(latents.to(self.generator.dtype))
