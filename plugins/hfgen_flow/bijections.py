"""Bijections: `forward(x) -> (y, log_det)` and `inverse(y) -> x`, with ln|det dy/dx| in nats, one for each image.

Directions are data -> latents. Everything here is computed in the precision of x, float32 or float64, also where
networks run in half precision: parameters and log-determinants are brought to x.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, logsigmoid, pixel_shuffle, pixel_unshuffle

from hfgen import UsageError
from hfgen_flow.precision import full_precision

Preprocessing = Literal["logit_alpha", "logit_2alpha", "logit_halfalpha", "glow", "unit"]


def sum_of(log_det: Tensor) -> Tensor:
    """Sum all elements of each image: (B, ...) -> (B,)."""
    return log_det.flatten(1).sum(1)


class Preprocess(nn.Module):
    """Preprocessing of a flow of images: v in [0, 1] -> an unbounded or centered range.

    `"logit_alpha"`: logit(alpha + (1 - alpha) v), the text of Dinh et al. 2017 (arXiv:1605.08803, section 4.1);
    `"logit_2alpha"`: logit(alpha + (1 - 2 alpha) v), their code; `"logit_halfalpha"`: logit(alpha / 2 +
    (1 - alpha) v); `"glow"`: v - 1/2 (Kingma & Dhariwal 2018, code); `"unit"`: 2 v - 1. The same alpha is another
    model under another name, so the name is part of the config.

    Raises:
        UsageError: no such name, or an alpha outside (0, 1/2).
    """

    def __init__(self, name: str = "logit_2alpha", alpha: float = 0.05) -> None:
        super().__init__()
        if name not in get_args(Preprocessing):
            raise UsageError(f"--flow.preprocessing is {name!r}; it can be {', '.join(get_args(Preprocessing))}.")
        if not 0 < alpha < 0.5:
            raise UsageError(f"--flow.alpha is {alpha}; it must lie between 0 and 0.5.")
        self.logit = name.startswith("logit")
        low, scale = {
            "logit_alpha": (alpha, 1 - alpha),
            "logit_2alpha": (alpha, 1 - 2 * alpha),
            "logit_halfalpha": (alpha / 2, 1 - alpha),
            "glow": (-0.5, 1.0),
            "unit": (-1.0, 2.0),
        }[name]
        self.low, self.scale, self.gap = low, scale, 1 - low - scale  # the gap between the highest y and 1

    def forward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        y = self.low + self.scale * v
        if not self.logit:
            return y, v.new_full(v.shape[:1], v[0].numel() * math.log(self.scale))
        log_y, log_rest = torch.log(y), torch.log(self.gap + self.scale * (1 - v))  # 1 - y would be 0 where y rounds
        return log_y - log_rest, sum_of(math.log(self.scale) - log_y - log_rest)

    def inverse(self, y: Tensor) -> Tensor:
        return ((torch.sigmoid(y) if self.logit else y) - self.low) / self.scale


class Squeeze(nn.Module):
    """Blocks of factor x factor pixels become channels: (B, C, H, W) -> (B, C factor^2, H / factor, W / factor)."""

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = pixel_unshuffle(x, self.factor)
        return y.contiguous(memory_format=torch.channels_last), x.new_zeros(len(x))  # as networks want it

    def inverse(self, y: Tensor) -> Tensor:
        return pixel_shuffle(y, self.factor)


class AlternateSqueeze(nn.Module):
    """The squeeze that RealNVP factors out after: channels are ordered by sub-pixel, (0, 0), (1, 1), (0, 1), (1, 0),
    so that the first half of them are a checkerboard's pixels (Dinh et al. 2017, section 3.6 and code)."""

    ORDER = (0, 3, 1, 2)  # of pixel_unshuffle's (0, 0), (0, 1), (1, 0), (1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        parts = pixel_unshuffle(x, 2).unflatten(1, (-1, 4))
        return torch.cat([parts[:, :, place] for place in self.ORDER], dim=1), x.new_zeros(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        parts = y.chunk(4, dim=1)
        back = [parts[self.ORDER.index(place)] for place in range(4)]
        return pixel_shuffle(torch.stack(back, dim=2).flatten(1, 2), 2)


class ActNorm(nn.Module):
    """y = (x + bias) e^logs in each channel (Kingma & Dhariwal 2018, arXiv:1807.03039, section 3.1).

    `initialize` sets bias and logs from one batch, so that y has mean 0 and variance 1; a saved buffer remembers it.

    Raises:
        UsageError: `inverse` before that.
    """

    initialized: Tensor

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_channels, dtype=torch.float32))
        self.logs = nn.Parameter(torch.zeros(num_channels, dtype=torch.float32))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))
        self.measuring = False

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.measuring:
            self.measure(x)
        bias, logs = self.bias.to(x.dtype), self.logs.to(x.dtype)
        y = (x + bias[:, None, None]) * logs.exp()[:, None, None]
        return y, (logs.sum() * (x.shape[2] * x.shape[3])).expand(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        require_initialized(self)
        bias, logs = self.bias.to(y.dtype), self.logs.to(y.dtype)
        return y * torch.exp(-logs)[:, None, None] - bias[:, None, None]

    @torch.no_grad()
    def measure(self, x: Tensor) -> None:
        """Take mean and standard deviation of this batch, of all processes together."""
        mean, deviation = channel_moments(x)
        self.bias.copy_(-mean)
        self.logs.copy_(-deviation.log())
        self.initialized.fill_(True)


def channel_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (of the population, at least 1e-6) of each channel of (B, C, H, W), float64, over
    all processes: each holds its part of the batch, and all get the same."""
    x = x.double()
    sums = torch.stack([x.sum((0, 2, 3)), x.square().sum((0, 2, 3)), x.new_full(x.shape[1:2], x[:, 0].numel())])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(sums)
    mean = sums[0] / sums[2]
    variance = sums[1] / sums[2] - mean**2
    return mean, variance.clamp(min=1e-12).sqrt()


def _actnorms(module: nn.Module) -> Iterator[Any]:
    """Find ActNorms by their attribute: bundled code has an ActNorm of its own in each file."""
    return (part for part in module.modules() if hasattr(part, "initialized"))


def is_initialized(module: nn.Module) -> bool:
    """Return True if every ActNorm in the module has seen its batch, or there is none."""
    flags = [part.initialized for part in _actnorms(module)]
    return not flags or bool(torch.stack(flags).all())


def require_initialized(module: nn.Module) -> None:
    """Raise a UsageError unless every ActNorm in the module has seen its batch."""
    if not is_initialized(module):
        raise UsageError(
            f"This {type(module).__name__} is not initialized: its actnorm layers take statistics from one batch.\n"
            "Train it (the first step does it), load a trained one, or call hfgen_flow.bijections.initialize(flow, v)."
        )


@torch.no_grad()
def initialize(module: nn.Module, *inputs: Tensor | None) -> None:
    """Data-dependent initialization: call the module once, each ActNorm taking its statistics from what reaches it.

    Every process calls it with its own part of one batch, and all come out equal. What was initialized stays as it is.
    """
    actnorms = [part for part in _actnorms(module) if not part.initialized]
    if not actnorms:
        return
    try:
        for part in actnorms:
            part.measuring = True
        module(*inputs)
    finally:
        for part in actnorms:
            part.measuring = False


class InvertibleConv1x1(nn.Module):
    """y = W x in each pixel, W a random rotation at first (Kingma & Dhariwal 2018, section 3.2).

    Args:
        parametrization: `"lu"`: W = P L (U + diag(sign e^log_s)), eq. 10, with the log-determinant H W sum log_s;
            `"plain"`: W itself, and `slogdet`.

    Raises:
        UsageError: no such parametrization.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, num_channels: int, parametrization: str = "lu") -> None:
        super().__init__()
        if parametrization not in ("lu", "plain"):
            raise UsageError(f"--flow.convolution is {parametrization!r}; it can be 'lu' or 'plain'.")
        weight = torch.linalg.qr(torch.randn(num_channels, num_channels, dtype=torch.float32))[0]
        self.parametrization = parametrization
        if parametrization == "plain":
            self.weight = nn.Parameter(weight)
            return
        p, lower, upper = torch.linalg.lu(weight)
        s = upper.diagonal()
        self.register_buffer("permutation", p)
        self.register_buffer("sign", s.sign())
        self.log_s = nn.Parameter(s.abs().log())
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """W, (C, C)."""
        if self.parametrization == "plain":
            return self.weight.to(dtype)
        return self.permutation.to(dtype) @ self._lower(dtype) @ self._upper(dtype)

    def log_det_per_pixel(self, dtype: torch.dtype) -> Tensor:
        """ln|det W|, a scalar."""
        if self.parametrization == "plain":
            return torch.linalg.slogdet(self.weight.to(dtype))[1]
        return self.log_s.to(dtype).sum()

    def inverse_matrix(self, dtype: torch.dtype) -> Tensor:
        """W^-1, solved in float64."""
        if self.parametrization == "plain":
            return torch.linalg.inv(self.weight.double()).to(dtype)
        lower, upper, permutation = self._lower(torch.float64), self._upper(torch.float64), self.permutation.double()
        solved = torch.linalg.solve_triangular(lower, permutation.T, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper, solved, upper=True).to(dtype)

    def _lower(self, dtype: torch.dtype) -> Tensor:
        return self.lower.to(dtype).tril(-1) + torch.eye(len(self.lower), dtype=dtype, device=self.lower.device)

    def _upper(self, dtype: torch.dtype) -> Tensor:
        s = self.sign.to(dtype) * self.log_s.to(dtype).exp()
        return self.upper.to(dtype).triu(1) + s.diag()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        with full_precision(x.device):
            y = conv2d(x, self.matrix(x.dtype)[:, :, None, None])
            log_det = self.log_det_per_pixel(x.dtype) * (x.shape[2] * x.shape[3])
        return y, log_det.expand(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        with full_precision(y.device):
            return conv2d(y, self.inverse_matrix(y.dtype)[:, :, None, None])


class NormalizedConv1x1(nn.Module):
    """ActNorm, then the invertible 1x1 convolution, as one convolution: W diag(e^logs) (x + bias)."""

    def __init__(self, num_channels: int, parametrization: str = "lu") -> None:
        super().__init__()
        self.actnorm = ActNorm(num_channels)
        self.convolution = InvertibleConv1x1(num_channels, parametrization)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.actnorm.measuring:
            self.actnorm.measure(x)
        with full_precision(x.device):
            logs = self.actnorm.logs.to(x.dtype)
            weight = self.convolution.matrix(x.dtype) * logs.exp()
            y = conv2d(x, weight[:, :, None, None], weight @ self.actnorm.bias.to(x.dtype))
            log_det = logs.sum() + self.convolution.log_det_per_pixel(x.dtype)
        return y, (log_det * (x.shape[2] * x.shape[3])).expand(len(x))

    def inverse(self, y: Tensor) -> Tensor:
        require_initialized(self.actnorm)
        with full_precision(y.device):
            weight = torch.exp(-self.actnorm.logs.to(y.dtype))[:, None] * self.convolution.inverse_matrix(y.dtype)
            return conv2d(y, weight[:, :, None, None], -self.actnorm.bias.to(y.dtype))


class Logit(nn.Module):
    """ln v - ln(1 - v) of v in (0, 1), for flows of the dequantization noise."""

    def forward(self, v: Tensor) -> tuple[Tensor, Tensor]:
        log_v, log_rest = torch.log(v), torch.log1p(-v)
        return log_v - log_rest, sum_of(-log_v - log_rest)

    def inverse(self, y: Tensor) -> Tensor:
        return torch.sigmoid(y)


class Sigmoid(nn.Module):
    """The inverse of `Logit`."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sigmoid(x), sum_of(logsigmoid(x) + logsigmoid(-x))

    def inverse(self, y: Tensor) -> Tensor:
        return Logit()(y)[0]


class DiagonalNormal(nn.Module):
    """x ~ N(mean, e^(2 logs)) as a bijection: eps = (x - mean) e^-logs, which is N(0, 1)."""

    def forward(self, x: Tensor, mean: Tensor, logs: Tensor) -> tuple[Tensor, Tensor]:
        return (x - mean) * torch.exp(-logs), sum_of(-logs.expand_as(x))

    def inverse(self, y: Tensor, mean: Tensor, logs: Tensor) -> Tensor:
        return y * logs.exp() + mean
