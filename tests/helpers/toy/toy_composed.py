"""Tiny families of components that are not simply trained: a frozen encoder, and pipelines inside a pipeline."""

from collections.abc import Iterator

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from hfgen import (
    Batch,
    HFGenPipeline,
    Objective,
    PriorScheduler,
    Update,
    check_images,
    eval_mode,
    frozen,
    labels_for,
    noise_for,
)

PAPER = ("Kingma & Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114",)


class ToyEncoder(ModelMixin, ConfigMixin):
    """Images (B, C, H, W) -> latent maps (B, latent_dim, 2, 2), with BatchNorm for its mode and its buffers."""

    @register_to_config
    def __init__(self, in_channels: int = 1, latent_dim: int = 2) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.mix = nn.Conv2d(in_channels, latent_dim, 1)
        self.norm = nn.BatchNorm2d(latent_dim)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.norm(self.mix(self.pool(pixel_values)))


class ToyDecoder(ModelMixin, ConfigMixin):
    """Latent maps (B, latent_dim, S, S) -> images (B, C, sample_size, sample_size) in [-1, 1]."""

    @register_to_config
    def __init__(
        self, sample_size: int = 8, out_channels: int = 1, latent_dim: int = 2, latent_size: int = 2, width: int = 8
    ) -> None:
        super().__init__()
        self.inner = nn.Linear(latent_dim * latent_size**2, width)
        self.outer = nn.Linear(width, out_channels * sample_size**2)

    def forward(self, latents: Tensor) -> Tensor:
        size = self.config.sample_size
        images = torch.tanh(self.outer(self.inner(latents.flatten(1)).tanh()))
        return images.unflatten(1, (self.config.out_channels, size, size))


class CodecObjective(Objective):
    """|D(E(x)) - x|^2, of D alone."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        self.encoder, self.decoder = encoder, decoder

    def training_step(self, batch: Batch) -> Iterator[Update]:
        with torch.no_grad():
            latents = self.encoder(batch["pixel_values"])
        yield Update("decoder", (self.decoder(latents) - batch["pixel_values"]).float().square().mean())


class CodecPipeline(HFGenPipeline):
    """x = D(z); the encoder is frozen."""

    objective_class = CodecObjective
    ema_components = ("decoder",)
    frozen_components = ("encoder",)
    description = "A decoder of a frozen encoder's latents"
    references = PAPER

    def __init__(self, encoder: ToyEncoder, decoder: ToyDecoder, scheduler: PriorScheduler) -> None:
        super().__init__()
        self.register_modules(encoder=encoder, decoder=decoder, scheduler=scheduler)

    @classmethod
    def default_configs(cls, sample_size, in_channels, num_classes, overrides):
        latent_dim = overrides.get("encoder", {}).get("latent_dim", 2)
        decoder = {"sample_size": sample_size, "out_channels": in_channels, "latent_dim": latent_dim}
        scheduler = {"latent_shape": [latent_dim, 2, 2]}
        return {"encoder": {"in_channels": in_channels}, "decoder": decoder, "scheduler": scheduler}

    @torch.no_grad()
    def encode(self, images: Tensor, class_labels: Tensor | None = None, seeds=None) -> Tensor:
        check_images(images, (self.decoder.config.out_channels, *[self.decoder.config.sample_size] * 2))
        labels_for(len(images), class_labels, None, self._execution_device)
        noise_for(len(images), seeds, self._execution_device)
        with eval_mode(self.models().values()):
            return self.encoder(images.to(self._execution_device, self.encoder.dtype)).float()

    @torch.no_grad()
    def decode(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        with eval_mode(self.models().values()):
            return self.decoder(latents.to(self.decoder.dtype))


class OneStepObjective(Objective):
    """The squared distance of each datum from the one drawn beside it: what a test needs, not a good model."""

    def __init__(self, generator: nn.Module, scheduler: PriorScheduler, scale: float = 1.0) -> None:
        self.generator, self.scheduler, self.scale = generator, scheduler, scale

    def training_step(self, batch: Batch) -> Iterator[Update]:
        drawn = self.generator(self.scheduler.sample_prior(self.noise))
        yield Update("generator", self.scale * (drawn - batch["pixel_values"]).float().square().mean())


class OneStepPipeline(HFGenPipeline):
    """x = G(z), of any tensors (C, S, S) in [-1, 1]."""

    objective_class = OneStepObjective
    ema_components = ("generator",)
    description = "A generator of one step"
    references = PAPER

    def __init__(self, generator: ToyDecoder, scheduler: PriorScheduler) -> None:
        super().__init__()
        self.register_modules(generator=generator, scheduler=scheduler)

    @classmethod
    def default_configs(cls, sample_size, in_channels, num_classes, overrides):
        return {
            "generator": {"sample_size": sample_size, "out_channels": in_channels},
            "scheduler": {"latent_shape": [overrides.get("generator", {}).get("latent_dim", 2), 2, 2]},
        }

    def decode(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        return self.generator(latents.to(self.generator.dtype))


class DistilledObjective(Objective):
    """G(z) is to be what a teacher makes of the same z, and what a critic takes for real."""

    def __init__(self, generator: nn.Module, scheduler: PriorScheduler, teacher: nn.Module, critic: nn.Module) -> None:
        self.generator, self.scheduler, self.teacher, self.critic = generator, scheduler, teacher, critic

    def training_step(self, batch: Batch) -> Iterator[Update]:
        latents = self.scheduler.sample_prior(self.noise)
        drawn = self.generator(latents)
        scores = self.critic(drawn.detach()) - self.critic(batch["pixel_values"])
        yield Update("critic", scores.float().add(1).relu().mean())
        with torch.no_grad():
            wanted = self.teacher(latents)
        with frozen(self.critic):
            yield Update("generator", ((drawn - wanted).square().mean() - 0.1 * self.critic(drawn).mean()).float())


class DistilledPipeline(OneStepPipeline):
    """x = G(z), of a teacher and a critic that only training uses."""

    objective_class = DistilledObjective
    frozen_components = ("teacher",)
    training_only_components = ("teacher", "critic")
    description = "A student of one step"

    def __init__(
        self,
        generator: ToyDecoder,
        scheduler: PriorScheduler,
        teacher: ToyDecoder | None = None,
        critic: ToyDecoder | None = None,
    ) -> None:
        HFGenPipeline.__init__(self)
        self.register_modules(generator=generator, scheduler=scheduler, teacher=teacher, critic=critic)

    @classmethod
    def default_configs(cls, sample_size, in_channels, num_classes, overrides):
        configs = super().default_configs(sample_size, in_channels, num_classes, overrides)
        critic = {"sample_size": 1, "latent_dim": in_channels, "latent_size": sample_size}
        return {**configs, "teacher": configs["generator"], "critic": critic}


class LatentObjective(Objective):
    """The prior's own objective, on latents of the frozen decoder's encoder."""

    def __init__(self, decoder: HFGenPipeline, prior: HFGenPipeline, scale: float = 1.0) -> None:
        self.decoder = decoder
        self.of_prior = type(prior).objective_class(**prior.components, scale=scale)

    def training_step(self, batch: Batch) -> Iterator[Update]:
        self.of_prior.noise = self.noise
        for update in self.of_prior.training_step({"pixel_values": self.decoder.encode(batch["pixel_values"])}):
            yield update._replace(component=f"prior.{update.component}")


class LatentToyPipeline(HFGenPipeline):
    """x = D(z), z from a prior that is a pipeline of any family; so is what holds D."""

    objective_class = LatentObjective
    frozen_components = ("decoder",)
    description = "A prior over another pipeline's latents"
    references = PAPER

    def __init__(self, decoder: HFGenPipeline, prior: HFGenPipeline) -> None:
        super().__init__()
        self.register_modules(decoder=decoder, prior=prior)

    @classmethod
    def default_configs(cls, sample_size, in_channels, num_classes, overrides):
        latent_dim = overrides.get("decoder", {}).get("encoder", {}).get("latent_dim", 2)
        return {"prior": {"sample_size": 2, "in_channels": latent_dim}}

    def sample(self, noise, class_labels=None, num_inference_steps=None) -> Tensor:
        return self.decoder.decode(self.prior.sample(noise, num_inference_steps=num_inference_steps).float())
