"""GMMN: generative moment matching networks (Li, Swersky & Zemel 2015, arXiv:1502.02761), in data space.

A generator and no discriminator: it learns until a two-sample test, the maximum mean discrepancy (MMD), can no longer
tell a batch of its images from a batch of the data.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from hfgen import Batch, HFGenPipeline, Objective, PriorScheduler, Update, UsageError, check_latents, eval_mode

BANDWIDTHS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4)


class GMMNGenerator(ModelMixin, ConfigMixin):
    """f(h; w): a multilayer perceptron of ReLUs; its tanh is the paper's sigmoid, for pixels in [-1, 1].

    Args:
        sample_size: side of the images.
        out_channels: channels of the images.
        latent_dim: length of h.
        hidden_dims: widths of the hidden layers, from h to the image. The authors' code has 64, 256, 256, 1024 for
            MNIST, and trains them 40,000 steps; the default learns faster.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 28,
        out_channels: int = 1,
        latent_dim: int = 10,
        hidden_dims: Sequence[int] = (256, 512),
    ) -> None:
        super().__init__()
        self.image_shape = (out_channels, sample_size, sample_size)
        widths = [latent_dim, *hidden_dims]
        hidden = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
        self.layers = nn.Sequential(*hidden, nn.Linear(widths[-1], math.prod(self.image_shape)), nn.Tanh())

    def forward(self, latents: Tensor) -> Tensor:
        """Latents (B, latent_dim) -> images (B, C, H, W) in [-1, 1]."""
        return self.layers(latents).unflatten(1, self.image_shape)


def squared_mmd(x: Tensor, y: Tensor, bandwidths: Sequence[float] = BANDWIDTHS) -> Tensor:
    """The squared MMD of samples x (N, ...) and y (M, ...), a scalar: equation 3 of the paper, the V-statistic."""
    x, y = x.flatten(1).float(), y.flatten(1).float()
    return kernel(x, x, bandwidths).mean() - 2 * kernel(x, y, bandwidths).mean() + kernel(y, y, bandwidths).mean()


def kernel(x: Tensor, y: Tensor, bandwidths: Sequence[float]) -> Tensor:
    """Sum of the Gaussian kernels exp(-|x_i - y_j|^2 / (2 sigma D)) over sigma: (N, D), (M, D) -> (N, M)."""
    squares = x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T
    exponent = -squares.clamp(min=0) / (2 * x.shape[1])  # of equal points, rounding can leave less than 0
    return torch.stack([(exponent / sigma).exp() for sigma in bandwidths]).sum(0)


class GMMNObjective(Objective):
    """The MMD of a batch of samples and a batch of data: the root of equation 3, as the paper minimizes it.

    Large batches tell more: those of several processes are compared as one.

    Args:
        bandwidths: sigma of each Gaussian kernel, per pixel in [-1, 1]. The default is, rounded, the authors' 2, 5,
            10, 20, 40, 80 for 784 pixels in [0, 1].
    """

    coupled = True  # each image of a batch is compared with each other

    def __init__(
        self, generator: nn.Module, scheduler: PriorScheduler, bandwidths: Sequence[float] = BANDWIDTHS
    ) -> None:
        self.generator, self.scheduler, self.bandwidths = generator, scheduler, bandwidths

    def training_step(self, batch: Batch) -> Iterator[Update]:
        """Yield the update of the generator."""
        samples = self.gather(self.generator(self.scheduler.sample_prior(self.noise)))
        loss = squared_mmd(samples, self.gather(batch["pixel_values"]), self.bandwidths)
        yield Update("generator", loss.clamp(min=1e-12).sqrt())  # at 0 the root has no slope


class GMMNPipeline(HFGenPipeline):
    """Samples images in one step: x = f(h; w), h uniform in [-1, 1].

    References:
        Li, Swersky & Zemel (2015), Generative moment matching networks, arXiv:1502.02761
    """

    objective_class = GMMNObjective
    training_defaults = {"learning_rate": 2e-3, "train_batch_size": 256, "num_train_epochs": 50}
    ema_components = ("generator",)
    description = "Generative moment matching network: a perceptron that minimizes the maximum mean discrepancy"
    references = ("Li, Swersky & Zemel (2015), Generative moment matching networks, arXiv:1502.02761",)

    def __init__(self, generator: GMMNGenerator, scheduler: PriorScheduler) -> None:
        super().__init__()
        self.register_modules(generator=generator, scheduler=scheduler)

    @classmethod
    def default_configs(
        cls, sample_size: int, in_channels: int, num_classes: int | None, overrides: Mapping[str, dict[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """The generator for the data's shape; the prior has its `latent_dim`."""
        if num_classes is not None:
            raise UsageError("GMMN has no class-conditional form; train it without --class_conditional.")
        latent_dim = overrides.get("generator", {}).get("latent_dim", 10)
        return {
            "generator": {"sample_size": sample_size, "out_channels": in_channels},
            "scheduler": {"latent_shape": [latent_dim], "distribution": "uniform"},
        }

    @torch.no_grad()
    def decode(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """f(h; w): latents (B, latent_dim) -> images (B, C, H, W) in [-1, 1]."""
        check_latents(latents, self.scheduler.config.latent_shape)
        with eval_mode(self.models().values()):
            return self.generator(latents.to(self.generator.dtype))
