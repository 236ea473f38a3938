"""DCGAN: deep convolutional generative adversarial networks (Radford, Metz & Chintala 2015, arXiv:1511.06434).

The networks are those that "DCGAN" means today (the Torch and PyTorch versions of the paper's code): 4x4 convolutions,
100 latents, no biases. At 64x64 they are exactly 100-512-256-128-64-C and its mirror.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import one_hot, softplus
from torch.optim.swa_utils import update_bn

from hfgen import Batch, HFGenPipeline, Objective, PriorScheduler, StepNoise, Update, UsageError, frozen

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "leaky_relu": partial(nn.LeakyReLU, 0.2)}


class DCGANGenerator(ModelMixin, ConfigMixin):
    """G(z): transposed convolutions from 1x1 to `sample_size`, each doubling the size after the first.

    Args:
        sample_size: side of the images: b * 2**k with b in 4..7 and k >= 1 (28, 32, 64, 128 ...).
        out_channels: channels of the images.
        latent_dim: length of z.
        base_channels: channels before the last layer; they double towards the input.
        num_classes: makes it conditional: the label joins z as a one-hot vector (Mirza & Osindero 2014).
        batch_norm_momentum: weight of the newest batch in BatchNorm's running statistics.
        activation: after each BatchNorm; `"leaky_relu"` has slope 0.2, which is torchgan's generator.
        image_bias: whether the last layer has a bias, as torchgan's does.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 64,
        out_channels: int = 1,
        latent_dim: int = 100,
        base_channels: int = 64,
        num_classes: int | None = None,
        batch_norm_momentum: float = 0.1,
        activation: Literal["relu", "leaky_relu"] = "relu",
        image_bias: bool = False,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise UsageError(f"--generator.activation is {activation!r}; it can be {' or '.join(ACTIVATIONS)}.")
        base, doublings = split_size(sample_size)
        widths = [base_channels * 2**i for i in reversed(range(doublings))]
        stem = nn.ConvTranspose2d(latent_dim + (num_classes or 0), widths[0], base, bias=False)
        self.blocks = nn.ModuleList([_block(stem, ACTIVATIONS[activation](), batch_norm_momentum)])
        for width_in, width_out in pairwise(widths):
            layer = nn.ConvTranspose2d(width_in, width_out, 4, 2, 1, bias=False)
            self.blocks.append(_block(layer, ACTIVATIONS[activation](), batch_norm_momentum))
        self.to_image = nn.ConvTranspose2d(widths[-1], out_channels, 4, 2, 1, bias=image_bias)
        self.apply(initialize)

    def forward(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Latents (B, latent_dim) -> images (B, C, H, W) in [-1, 1]."""
        x = latents
        if self.config.num_classes:
            x = torch.cat([x, _one_hot(class_labels, self.config.num_classes).to(x.dtype)], dim=1)
        x = x[:, :, None, None]
        for block in self.blocks:
            x = block(x)
        return torch.tanh(self.to_image(x))


class DCGANDiscriminator(ModelMixin, ConfigMixin):
    """D(x): the generator's mirror, with LeakyReLU(0.2) and no BatchNorm in its first layer. Returns logits.

    Args:
        sample_size: as the generator's.
        in_channels: channels of the images.
        base_channels: channels after the first layer; they double from there.
        num_classes: makes it conditional: the label joins x as one-hot planes (Mirza & Osindero 2014).
        batch_norm_momentum: as the generator's.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 64,
        in_channels: int = 1,
        base_channels: int = 64,
        num_classes: int | None = None,
        batch_norm_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        base, doublings = split_size(sample_size)
        widths = [base_channels * 2**i for i in range(doublings)]
        first = nn.Conv2d(in_channels + (num_classes or 0), widths[0], 4, 2, 1, bias=False)
        self.from_image = nn.Sequential(first, nn.LeakyReLU(0.2))
        self.blocks = nn.ModuleList()
        for width_in, width_out in pairwise(widths):
            layer = nn.Conv2d(width_in, width_out, 4, 2, 1, bias=False)
            self.blocks.append(_block(layer, nn.LeakyReLU(0.2), batch_norm_momentum))
        self.to_logit = nn.Conv2d(widths[-1], 1, base, bias=False)
        self.apply(initialize)

    def forward(self, pixel_values: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] -> logits (B,) that they are real."""
        x = pixel_values
        if self.config.num_classes:
            planes = _one_hot(class_labels, self.config.num_classes).to(x.dtype)[:, :, None, None]
            x = torch.cat([x, planes.expand(-1, -1, *x.shape[2:])], dim=1)
        x = self.from_image(x)
        for block in self.blocks:
            x = block(x)
        return self.to_logit(x).flatten()


def split_size(sample_size: int) -> tuple[int, int]:
    """(b, k) with sample_size = b * 2**k and b in 4..7: the first layer's size and the number of doublings.

    >>> split_size(64), split_size(28)
    ((4, 4), (7, 2))

    Raises:
        UsageError: there is no such pair with k >= 1.
    """
    base, doublings = sample_size, 0
    while base > 7 and base % 2 == 0:
        base, doublings = base // 2, doublings + 1
    if 4 <= base <= 7 and doublings >= 1:
        return base, doublings
    possible = [b * 2**k for b in range(4, 8) for k in range(1, 9)]
    near = sorted(sorted(possible, key=lambda size: abs(size - sample_size))[:4])
    raise UsageError(
        f"DCGAN cannot make {sample_size}x{sample_size} images: the side must be 4, 5, 6 or 7 times a power of two.\n"
        f"Near sizes: {', '.join(map(str, near))}. Choose one with --resolution."
    )


def _one_hot(class_labels: Tensor | None, num_classes: int) -> Tensor:
    if class_labels is None:
        raise UsageError("This model is class-conditional; give class_labels, one for each image.")
    return one_hot(class_labels, num_classes)


def _block(layer: nn.Module, activation: nn.Module, momentum: float) -> nn.Sequential:
    width: Any = layer.out_channels
    return nn.Sequential(layer, nn.BatchNorm2d(width, momentum=momentum), activation)


def initialize(module: nn.Module) -> None:
    """N(0, 0.02) for weights; N(1, 0.02) and 0 for BatchNorm (section 3 of the paper, and its code)."""
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class DCGANObjective(Objective):
    """The game of Goodfellow et al. 2014 (arXiv:1406.2661), algorithm 1, on logits: softplus(t) = log(1 + e^t).

    Real and fake images pass the discriminator in separate batches: with BatchNorm in it, one joint batch would be
    another objective. The generator's loss goes through the updated discriminator, on the same fake images.

    Args:
        loss: `"non_saturating"`: G minimizes -log D(G(z)), section 3 of the paper; `"minimax"`: the value function
            itself, log(1 - D(G(z))).
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        scheduler: PriorScheduler,
        loss: Literal["non_saturating", "minimax"] = "non_saturating",
    ) -> None:
        self.generator, self.discriminator, self.scheduler = generator, discriminator, scheduler
        self.generator_loss = {"non_saturating": non_saturating_loss, "minimax": minimax_loss}[loss]

    def training_step(self, batch: Batch) -> Iterator[Update]:
        """The discriminator's update, then the generator's."""
        real, labels = batch["pixel_values"], batch.get("class_labels")
        fake = self.generator(self.scheduler.sample_prior(self.noise), labels)
        real_logits = self.discriminator(real, labels)
        fake_logits = self.discriminator(fake.detach(), labels)
        logits = {"real_logit": real_logits.mean(), "fake_logit": fake_logits.mean()}
        yield Update("discriminator", discriminator_loss(real_logits, fake_logits), logits)
        with frozen(self.discriminator):
            yield Update("generator", self.generator_loss(self.discriminator(fake, labels)))

    @classmethod
    def refresh_statistics(cls, pipeline: HFGenPipeline) -> None:
        """BatchNorm's statistics under the averaged weights, from 32 batches of 64 fixed latents."""
        generator, num_classes = pipeline.generator, pipeline.num_classes
        device = next(generator.parameters()).device
        images = torch.arange(32 * 64, device=device).reshape(32, 64)
        batches = [
            {
                "latents": pipeline.scheduler.sample_prior(StepNoise(0, index, slice(0, 64), 64, device)),
                "class_labels": images[index] % num_classes if num_classes else None,
            }
            for index in range(32)
        ]
        update_bn(batches, _Called(generator))


class _Called(nn.Module):
    """`update_bn` calls its model with one argument; this hands a dictionary on as keywords."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        return self.model(**batch)


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-log D(x) - log(1 - D(G(z))), means over the batch; 2 log 2 where all logits are 0."""
    return softplus(-real_logits.float()).mean() + softplus(fake_logits.float()).mean()


def non_saturating_loss(fake_logits: Tensor) -> Tensor:
    """-log D(G(z)); log 2 where all logits are 0."""
    return softplus(-fake_logits.float()).mean()


def minimax_loss(fake_logits: Tensor) -> Tensor:
    """log(1 - D(G(z))), which saturates where D is sure; -log 2 where all logits are 0."""
    return -softplus(fake_logits.float()).mean()


class DCGANPipeline(HFGenPipeline):
    """Samples images in one step: x = G(z), z from the scheduler's prior.

    References:
        Radford, Metz & Chintala (2015), Unsupervised representation learning with deep convolutional generative
            adversarial networks, arXiv:1511.06434
        Goodfellow et al. (2014), Generative adversarial networks, arXiv:1406.2661
    """

    objective_class = DCGANObjective
    training_defaults = {"learning_rate": 2e-4, "adam_beta1": 0.5, "train_batch_size": 64, "channels_last": True}
    ema_components = ("generator",)
    description = "Deep convolutional GAN: transposed convolutions against a convolutional discriminator"
    references = (
        "Radford, Metz & Chintala (2015), Unsupervised representation learning with deep convolutional generative "
        "adversarial networks, arXiv:1511.06434",
        "Goodfellow et al. (2014), Generative adversarial networks, arXiv:1406.2661",
    )
    _optional_components = ["discriminator"]

    def __init__(
        self, generator: DCGANGenerator, scheduler: PriorScheduler, discriminator: DCGANDiscriminator | None = None
    ) -> None:
        super().__init__()
        shape, latent_dim = list(scheduler.config.latent_shape), generator.config.latent_dim
        if shape != [latent_dim]:
            raise UsageError(f"--scheduler.latent_shape is {shape}, but --generator.latent_dim is {latent_dim}.")
        self.register_modules(generator=generator, scheduler=scheduler, discriminator=discriminator)

    @classmethod
    def default_configs(
        cls, sample_size: int, in_channels: int, num_classes: int | None, overrides: Mapping[str, dict[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """Both networks for the data's shape; the prior has the generator's `latent_dim`."""
        shape = {"sample_size": sample_size, "num_classes": num_classes}
        return {
            "generator": {**shape, "out_channels": in_channels},
            "discriminator": {**shape, "in_channels": in_channels},
            "scheduler": {"latent_shape": [overrides.get("generator", {}).get("latent_dim", 100)]},
        }

    def decode(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """G(z): latents (B, latent_dim) -> images (B, C, H, W) in [-1, 1]."""
        return self.generator(latents.to(self.generator.dtype), class_labels)
