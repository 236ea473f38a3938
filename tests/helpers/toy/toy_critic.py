"""A WGAN-GP whose critic has torch's spectral norm and steps on fresh images, as a third party would write it."""

from collections.abc import Iterator
from typing import Literal

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from hfgen import Batch, HFGenPipeline, Objective, PriorScheduler, Update, frozen, parts, unwrapped


class ToyPainter(ModelMixin, ConfigMixin):
    """Latents (B, 3) -> gray images (B, 1, sample_size, sample_size); two layers may be one, under two names.

    Args:
        unsaved: keep a buffer that is not in the state dict.
        tied: give the second layer the first one's weight.
    """

    @register_to_config
    def __init__(self, sample_size: int = 8, unsaved: bool = False, tied: bool = False) -> None:
        super().__init__()
        self.first, self.again, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, sample_size**2)
        self.register_buffer("scale", torch.ones(3), persistent=not unsaved)
        if tied:
            self.again.weight = self.first.weight

    def forward(self, latents: Tensor) -> Tensor:
        hidden = self.again(torch.tanh(self.first(latents))) * self.scale
        return torch.tanh(self.last(hidden)).unflatten(1, (1, self.config.sample_size, self.config.sample_size))


class ToySpectralCritic(ModelMixin, ConfigMixin):
    """Images -> scores (B,); each forward call in training mode is a step of the power iteration."""

    @register_to_config
    def __init__(self, sample_size: int = 8, width: int = 8) -> None:
        super().__init__()
        self.inner = spectral_norm(nn.Linear(sample_size**2, width))
        self.score = spectral_norm(nn.Linear(width, 1, bias=False))

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.score(torch.tanh(self.inner(pixel_values.flatten(1)))).flatten()


class ToyCriticObjective(Objective):
    """Wasserstein distance with a gradient penalty (Gulrajani et al. 2017).

    Args:
        n_critic: critic updates of a step, each on a part of the batch.
        generator_first: update the generator first, so that its last call in a step has no backward pass.
        penalty: differentiate the wrapped critic or the one inside; `"alone"` makes it the whole loss.
        once: iterate the spectral norm once for each update, not once for each call.
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        scheduler: PriorScheduler,
        n_critic: int = 2,
        generator_first: bool = False,
        penalty: Literal["wrapped", "inside", "alone"] = "inside",
        once: bool = True,
    ) -> None:
        self.generator, self.critic, self.scheduler = generator, critic, scheduler
        self.n_critic, self.generator_first, self.penalty, self.once = n_critic, generator_first, penalty, once
        self.differentiates_twice = penalty == "wrapped"

    def training_step(self, batch: Batch) -> Iterator[Update]:
        latents, mixed = self.scheduler.sample_prior(self.noise), self.noise.uniform(1, 1, 1)
        if self.generator_first:
            yield self.of_the_generator(latents)
        for part in parts({**batch, "latents": latents, "mixed": mixed}, self.n_critic):
            yield from self.of_the_critic(part)
        if not self.generator_first:
            yield self.of_the_generator(latents)

    def of_the_generator(self, latents: Tensor) -> Update:
        self.start_update()
        with frozen(self.critic):
            return Update("generator", -self.critic(self.generator(latents)).mean())

    def of_the_critic(self, part: Batch) -> Iterator[Update]:
        real = part["pixel_values"]
        with torch.no_grad():
            fake = self.generator(part["latents"])
        between = torch.lerp(real, fake, part["mixed"])
        if self.penalty == "alone":
            yield Update("critic", gradient_penalty(unwrapped(self.critic), between))
            return
        self.start_update()
        scores = self.critic(torch.cat([fake, real]))
        distance = scores[: len(fake)].mean() - scores[len(fake) :].mean()
        if self.once:
            self.critic.eval()
        penalty = gradient_penalty(self.critic if self.penalty == "wrapped" else unwrapped(self.critic), between)
        yield Update("critic", distance + 10 * penalty, {"penalty": penalty})

    def start_update(self) -> None:
        """Let spectral norm iterate in the first micro-batch of each update; the others see the same weights."""
        self.critic.train(self.micro_batch == 0 or not self.once)


def gradient_penalty(critic: nn.Module, images: Tensor) -> Tensor:
    """E (|grad_x D(x)| - 1)^2, a scalar."""
    x = images.detach().requires_grad_()
    gradient = torch.autograd.grad(critic(x).sum(), x, create_graph=True)[0]
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()


class ToyCriticPipeline(HFGenPipeline):
    """x = G(z)."""

    objective_class = ToyCriticObjective
    training_defaults = {"learning_rate": 1e-3}
    ema_components = ("generator",)
    description = "A small WGAN-GP"
    references = ("Gulrajani et al. (2017), Improved training of Wasserstein GANs, arXiv:1704.00028",)

    def __init__(self, generator: ToyPainter, critic: ToySpectralCritic, scheduler: PriorScheduler) -> None:
        super().__init__()
        self.register_modules(generator=generator, critic=critic, scheduler=scheduler)

    @classmethod
    def default_configs(cls, sample_size, in_channels, num_classes, overrides):
        shape = {"sample_size": sample_size}
        return {"generator": shape, "critic": shape, "scheduler": {"latent_shape": [3]}}

    def decode(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        return self.generator(latents.to(self.generator.dtype))
