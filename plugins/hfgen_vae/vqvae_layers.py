"""Layers that a VQ-VAE's encoder and decoder share: residual blocks, and the sizes of their feature maps."""

import math

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
            f"num_halvings is {num_halvings} for images of side {sample_size}; it must be at least 1, and leave at "
            "least a side of 2 to halve."
        )
    return found
