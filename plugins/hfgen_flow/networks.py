"""The networks inside coupling layers: the only place where a flow may compute in half precision.

Their last layer is zero at first, so that a coupling starts as the same map for every image. Layers are normalized by
ActNorm instead of batch normalization: an image's density never depends on the images beside it.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from hfgen import UsageError
from hfgen_flow.bijections import ActNorm
from hfgen_flow.precision import CouplingNetwork, full_precision


def require_at_least(least: int, component: str = "flow", /, **options: int) -> None:
    """Raise a UsageError that names the option which is below."""
    for name, value in options.items():
        if value < least:
            raise UsageError(f"--{component}.{name} is {value}; it must be at least {least}.")


class NormalizedConv2d(nn.Module):
    """A convolution without bias, then ActNorm: computed as one convolution (Kingma & Dhariwal 2018, code)."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        shape = (out_channels, in_channels, kernel_size, kernel_size)
        self.weight = nn.Parameter(torch.randn(shape, dtype=torch.float32) * 0.05)
        self.actnorm = ActNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        padding = self.weight.shape[-1] // 2
        if self.actnorm.measuring:
            with full_precision(x.device):
                self.actnorm.measure(conv2d(x, self.weight.to(x.dtype), padding=padding))
        scale = self.actnorm.logs.exp()
        weight, bias = self.weight * scale[:, None, None, None], self.actnorm.bias * scale
        return conv2d(x, weight.to(x.dtype), bias.to(x.dtype), padding=padding)


class ZeroConv2d(nn.Module):
    """A 3x3 convolution that starts at zero, its output times e^(3 logs) (Kingma & Dhariwal 2018, code)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, 3, 3, dtype=torch.float32))
        self.bias = nn.Parameter(torch.zeros(out_channels, dtype=torch.float32))
        self.logs = nn.Parameter(torch.zeros(out_channels, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.exp(3 * self.logs)
        weight, bias = self.weight * scale[:, None, None, None], self.bias * scale
        return conv2d(x, weight.to(x.dtype), bias.to(x.dtype), padding=1)


class ConvNetwork(CouplingNetwork):
    """Glow's: 3x3, ReLU, 1x1, ReLU, 3x3 (Kingma & Dhariwal 2018, section 5)."""

    def __init__(self, in_channels: int, out_channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.first = NormalizedConv2d(in_channels, hidden_channels, 3)
        self.second = NormalizedConv2d(hidden_channels, hidden_channels, 1)
        self.last = ZeroConv2d(hidden_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(x).relu_()).relu_())


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))) (He et al. 2016, arXiv:1603.05027)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = NormalizedConv2d(channels, channels), ZeroConv2d(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x.relu()).relu_())


class ResidualNetwork(CouplingNetwork):
    """RealNVP's: residual blocks between two 3x3 convolutions (Dinh et al. 2017, section 3.7 and appendix)."""

    def __init__(self, in_channels: int, out_channels: int, hidden_channels: int, num_blocks: int) -> None:
        super().__init__()
        self.first = NormalizedConv2d(in_channels, hidden_channels)
        self.blocks = nn.ModuleList(ResidualBlock(hidden_channels) for _ in range(num_blocks))
        self.last = ZeroConv2d(hidden_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x.relu())
