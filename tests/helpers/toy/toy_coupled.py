"""A generator whose loss couples the images of the whole batch, as a third party would write it."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from toy_critic import ToyPainter

from hfgen import Batch, HFGenPipeline, Objective, PriorScheduler, Update


class ToyCoupledObjective(Objective):
    """The energy distance of sampled and real images over the whole batch, plus a term of each own image's nearest.

    The first is the same number in every process; the second looks from own real images at all sampled ones.
    """

    coupled = True

    def __init__(self, generator: nn.Module, scheduler: PriorScheduler) -> None:
        self.generator, self.scheduler = generator, scheduler

    def training_step(self, batch: Batch) -> Iterator[Update]:
        own = self.generator(self.scheduler.sample_prior(self.noise)).flatten(1)
        x, y = self.gather(own), self.gather(batch["pixel_values"].flatten(1))
        energy = 2 * distances(x, y).mean() - distances(x, x).mean() - distances(y, y).mean()
        nearest = distances(batch["pixel_values"].flatten(1), x).neg().logsumexp(1).neg().mean()
        yield Update("generator", energy + nearest)


def distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|, (N, M), smooth at 0."""
    return (torch.linalg.vector_norm(x[:, None] - y, dim=2).square() + 1e-2).sqrt()


class ToyCoupledPipeline(HFGenPipeline):
    """x = G(z)."""

    objective_class = ToyCoupledObjective
    training_defaults = {"learning_rate": 1e-3}
    ema_components = ("generator",)
    description = "An energy distance"
    references = ("Deng et al. (2026), Generative modeling via drifting, arXiv:2602.04770",)

    def __init__(self, generator: ToyPainter, scheduler: PriorScheduler) -> None:
        super().__init__()
        self.register_modules(generator=generator, scheduler=scheduler)

    @classmethod
    def default_configs(cls, sample_size, in_channels, num_classes, overrides):
        return {"generator": {"sample_size": sample_size}, "scheduler": {"latent_shape": [3]}}

    def decode(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        return self.generator(latents.to(self.generator.dtype))
