"""RealNVP written by hand: the layers of hfgen's, with the same weights, in plain torch."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pixel_shuffle, pixel_unshuffle

from hfgen_flow.realnvp import RealNVP


class PlainConv(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
        self.bias, self.logs = nn.Parameter(torch.empty(outputs)), nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return (conv2d(x, self.weight, padding=1) + self.bias[:, None, None]) * self.logs.exp()[:, None, None]


class PlainZeroConv(PlainConv):
    def forward(self, x: Tensor) -> Tensor:
        return conv2d(x, self.weight, self.bias, padding=1) * torch.exp(3 * self.logs)[:, None, None]


class PlainNetwork(nn.Module):
    """Residual blocks between two convolutions; no normalization over the batch."""

    def __init__(self, inputs: int, outputs: int, width: int, blocks: int) -> None:
        super().__init__()
        self.first = PlainConv(inputs, width)
        pairs = [nn.ModuleList([PlainConv(width, width), PlainZeroConv(width, width)]) for _ in range(blocks)]
        self.blocks = nn.ModuleList(pairs)
        self.last = PlainZeroConv(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for first, second in self.blocks:
            x = x + second(torch.relu(first(torch.relu(x))))
        return self.last(torch.relu(x))


class PlainActNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias, self.logs = nn.Parameter(torch.empty(channels)), nn.Parameter(torch.empty(channels))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x + self.bias[:, None, None]) * self.logs.exp()[:, None, None], self.logs.sum() * x[0, 0].numel()

    def inverse(self, y: Tensor) -> Tensor:
        return y * torch.exp(-self.logs)[:, None, None] - self.bias[:, None, None]


class PlainCoupling(nn.Module):
    """y = x e^s + t where the mask is 0; a mask of pixels is one more input of the network."""

    def __init__(self, inputs: int, outputs: int, width: int, blocks: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.empty(outputs))
        self.network = PlainNetwork(inputs, 2 * outputs, width, blocks)

    def shift_and_scale(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.network(x).float()
        return h[:, 0::2], self.scale[:, None, None] * torch.tanh(h[:, 1::2])


class PlainCheckerboard(PlainCoupling):
    def __init__(self, channels: int, side: int, parity: int, width: int, blocks: int) -> None:
        super().__init__(channels + 1, channels, width, blocks)
        place = torch.arange(side)
        self.register_buffer("mask", ((place[:, None] + place + parity) % 2 == 0).float())

    def moved(self, x: Tensor) -> tuple[Tensor, Tensor]:
        t, s = self.shift_and_scale(torch.cat([x * self.mask, self.mask.expand(len(x), 1, -1, -1)], 1))
        return t * (1 - self.mask), s * (1 - self.mask)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        t, s = self.moved(x)
        return x * s.exp() + t, s.sum((1, 2, 3))

    def inverse(self, y: Tensor) -> Tensor:
        t, s = self.moved(y)
        return (y - t) * torch.exp(-s)


class PlainChannels(PlainCoupling):
    def __init__(self, channels: int, reverse: bool, width: int, blocks: int) -> None:
        super().__init__(channels // 2, channels // 2, width, blocks)
        self.reverse = reverse

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.chunk(2, 1)
        return (second, first) if self.reverse else (first, second)

    def join(self, kept: Tensor, moved: Tensor) -> Tensor:
        return torch.cat([moved, kept] if self.reverse else [kept, moved], 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = self.parts(x)
        t, s = self.shift_and_scale(kept)
        return self.join(kept, moved * s.exp() + t), s.sum((1, 2, 3))

    def inverse(self, y: Tensor) -> Tensor:
        kept, moved = self.parts(y)
        t, s = self.shift_and_scale(kept)
        return self.join(kept, (moved - t) * torch.exp(-s))


class PlainRealNVP(nn.Module):
    """Two scales, with the layers of hfgen's default and its order of parameters, of logit(low + scale v)."""

    ORDER = (0, 3, 1, 2)

    def __init__(self, side: int, width: int, blocks: int, couplings: int, low: float, scale: float) -> None:
        super().__init__()
        self.low, self.scale = low, scale
        boards = [PlainCheckerboard(1, side, number % 2, width, blocks) for number in range(couplings)]
        channels = [PlainChannels(4, bool(number % 2), 2 * width, blocks) for number in range(couplings)]
        last = [PlainCheckerboard(2, side // 2, number % 2, 2 * width, blocks) for number in range(couplings + 1)]
        self.boards = nn.ModuleList(layer for board in boards for layer in (board, PlainActNorm(1)))
        self.channels = nn.ModuleList(layer for coupling in channels for layer in (coupling, PlainActNorm(4)))
        self.last = nn.ModuleList(layer for board in last for layer in (board, PlainActNorm(2)))

    def forward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        y, rest = self.low + self.scale * v, 1 - self.low - self.scale + self.scale * (1 - v)
        x, log_det = y.log() - rest.log(), (math.log(self.scale) - y.log() - rest.log()).sum((1, 2, 3))
        for layer in self.boards:
            x, term = layer(x)
            log_det = log_det + term
        x = pixel_unshuffle(x, 2)
        for layer in self.channels:
            x, term = layer(x)
            log_det = log_det + term
        x, z = pixel_unshuffle(pixel_shuffle(x, 2), 2)[:, self.ORDER].chunk(2, 1)
        for layer in self.last:
            x, term = layer(x)
            log_det = log_det + term
        return torch.cat([z.flatten(1), x.flatten(1)], 1), log_det

    def inverse(self, latents: Tensor) -> Tensor:
        side = self.last[0].mask.shape[0]
        z, x = latents.unflatten(1, (4, side, side)).chunk(2, 1)
        for layer in reversed(self.last):
            x = layer.inverse(x)
        x = torch.cat([x, z], 1)[:, [self.ORDER.index(place) for place in range(4)]]
        for layer in reversed(self.channels):
            x = layer.inverse(x)
        x = pixel_shuffle(x, 2)
        for layer in reversed(self.boards):
            x = layer.inverse(x)
        return (torch.sigmoid(x) - self.low) / self.scale

    def loss(self, v: Tensor) -> Tensor:
        z, log_det = self(v)
        nats = -0.5 * (z**2 + math.log(2 * math.pi)).sum(1) + log_det
        return 8 - nats.mean() / (z.shape[1] * math.log(2))


def plain_realnvp(flow: RealNVP) -> PlainRealNVP:
    """With hfgen's weights; both compute the same function."""
    config, logit = flow.config, flow.preprocess
    sizes = config.sample_size, config.hidden_channels, config.num_blocks, config.num_couplings
    device = next(flow.parameters()).device
    model = PlainRealNVP(*sizes, logit.low, logit.scale).to(device)
    with torch.no_grad():
        for theirs, ours in zip(model.parameters(), flow.parameters(), strict=True):
            theirs.copy_(ours)
        v = torch.rand(4, 1, config.sample_size, config.sample_size, device=device)
        for plain, found in zip(model(v), flow(v), strict=True):
            torch.testing.assert_close(plain, found, rtol=1e-4, atol=1e-3)
    return model
