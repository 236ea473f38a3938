"""Layers that a VQ-VAE's encoder and decoder share, and the sizes that its parts must agree on."""

import math
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import relu

from hfgen import UsageError


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, residual_channels: int) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(channels, residual_channels, 3, 1, 1)
        self.conv1 = nn.Conv2d(residual_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv1(relu(self.conv3(relu(x))))


def residual_blocks(channels: int, residual_channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(channels, residual_channels) for _ in range(count)))


def widths(hidden_channels: int, num_halvings: int) -> list[int]:
    """Channels after each halving.

    >>> widths(128, 2)
    [64, 128]
    """
    return [max(1, hidden_channels >> i) for i in reversed(range(num_halvings))]


def sides(sample_size: int, num_halvings: int) -> list[int]:
    """The image's side and that after each halving, rounded up.

    >>> sides(28, 2), sides(13, 2)
    ([28, 14, 7], [13, 7, 4])

    Raises:
        UsageError: no halving, or more than the side allows.
    """
    found = [sample_size]
    for _ in range(num_halvings):
        found.append(math.ceil(found[-1] / 2))
    if num_halvings < 1 or found[-2] < 2:
        raise UsageError(
            f"--encoder.num_halvings (or --decoder.num_halvings) is {num_halvings} for images of side {sample_size}; "
            "it must be at least 1, and leave at least a side of 2 to halve."
        )
    return found


def check_codes(encoder: Any, quantizer: Any, decoder: Any, scheduler: Any) -> None:
    """Raise a UsageError unless the configs of all components have latents of one length, number and map."""
    lengths = [part.config.latent_dim for part in (encoder, quantizer, decoder)]
    if len({*lengths}) > 1:
        raise UsageError(
            "--encoder.latent_dim, --quantizer.latent_dim and --decoder.latent_dim are "
            f"{', '.join(map(str, lengths))}; they must be the same."
        )
    maps = [sides(part.config.sample_size, part.config.num_halvings)[-1] for part in (encoder, decoder)]
    if [*scheduler.config.code_shape] != [maps[0]] * 2 or maps[0] != maps[1]:
        raise UsageError(
            f"The encoder gives {maps[0]}x{maps[0]} codes, the decoder takes {maps[1]}x{maps[1]}, and "
            f"--scheduler.code_shape is {[*scheduler.config.code_shape]}; they must be the same."
        )
    if quantizer.config.num_embeddings != scheduler.config.num_embeddings:
        raise UsageError(
            f"--quantizer.num_embeddings is {quantizer.config.num_embeddings}, but --scheduler.num_embeddings is "
            f"{scheduler.config.num_embeddings}."
        )
