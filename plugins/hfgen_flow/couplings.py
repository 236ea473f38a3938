"""Coupling layers: one part of x passes unchanged, and a network of it gives the parameters for the other part.

The elementwise transforms take (x, h) with the network's output h (B, C P, H, W): P parameters for each channel of x,
beside each other.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from hfgen import UsageError
from hfgen_flow.bijections import sum_of
from hfgen_flow.splines import inverse_spline, spline

MakeNetwork = Callable[[int, int], nn.Module]  # input channels, output channels


class Transform(nn.Module):
    """Base class: an invertible function of each element of x, given the parameters h that a network gives for it.

    `forward(x, h)` returns y and ln|dy/dx| of each element, both of x's shape.

    Attributes:
        parameters_per_channel: h has so many channels for each of x's.
    """

    parameters_per_channel: int

    def inverse(self, y: Tensor, h: Tensor) -> Tensor:
        """Return the x that `forward` maps to y."""
        raise NotImplementedError


class AdditiveTransform(Transform):
    """y = x + t: of unit determinant (Dinh et al. 2015, NICE, arXiv:1410.8516, section 3.2)."""

    parameters_per_channel = 1

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return x + h, torch.zeros_like(x)

    def inverse(self, y: Tensor, h: Tensor) -> Tensor:
        return y - h


class AffineTransform(Transform):
    """y = x e^s + t, s = scale tanh(...), scale learned for each channel (Dinh et al. 2017, eq. 7 and section 4.1)."""

    parameters_per_channel = 2

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(num_channels, dtype=torch.float32))

    def _split(self, h: Tensor) -> tuple[Tensor, Tensor]:
        t, s = h.unflatten(1, (-1, 2)).unbind(2)
        return t, self.scale.to(h.dtype)[:, None, None] * torch.tanh(s)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        t, s = self._split(h)
        return torch.addcmul(t, x, s.exp()), s

    def inverse(self, y: Tensor, h: Tensor) -> Tensor:
        t, s = self._split(h)
        return (y - t) * torch.exp(-s)


class SigmoidTransform(Transform):
    """y = (x + t) sigmoid(s + 2): it only contracts (Kingma & Dhariwal 2018, code).

    Here s is kept within (-LIMIT, LIMIT) by a tanh of slope 1 at 0: without it, inverses grow without bound, and
    samples come out as infinite.
    """

    LIMIT = 4.0
    parameters_per_channel = 2

    def _split(self, h: Tensor) -> tuple[Tensor, Tensor]:
        t, s = h.unflatten(1, (-1, 2)).unbind(2)
        return t, logsigmoid(self.LIMIT * torch.tanh(s / self.LIMIT) + 2)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        t, log_scale = self._split(h)
        return (x + t) * log_scale.exp(), log_scale

    def inverse(self, y: Tensor, h: Tensor) -> Tensor:
        t, log_scale = self._split(h)
        return y * torch.exp(-log_scale) - t


class SplineTransform(Transform):
    """A monotone rational-quadratic spline on [-bound, bound], the identity outside (Durkan et al. 2019)."""

    def __init__(self, num_bins: int = 8, bound: float = 3.0) -> None:
        super().__init__()
        if not 2 <= num_bins <= 256:
            raise UsageError(f"--flow.num_bins is {num_bins}; a spline has 2 to 256 bins.")
        if not bound > 0:
            raise UsageError(f"--flow.spline_bound is {bound}; it must be above 0.")
        self.bound, self.parameters_per_channel = bound, 3 * num_bins - 1

    def _split(self, h: Tensor) -> Tensor:
        return h.unflatten(1, (-1, self.parameters_per_channel)).movedim(2, -1)

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return spline(x, self._split(h), self.bound)

    def inverse(self, y: Tensor, h: Tensor) -> Tensor:
        return inverse_spline(y, self._split(h), self.bound)


def run(network: nn.Module, x: Tensor) -> Tensor:
    """The network in its own precision, its output in that of x; with channels last its convolutions take half as
    long on a CPU."""
    inputs = x.to(next(network.parameters()).dtype, memory_format=torch.channels_last)
    return network(inputs).to(x.dtype)


class CheckerboardCoupling(nn.Module):
    """A coupling that keeps pixels with (i + j + parity) even, transforms the others (Dinh et al. 2017, section 3.4).

    The network gets a plane that marks the pixels it sees.

    Args:
        context_channels: of images of the same size that the network sees too.
    """

    mask: Tensor

    def __init__(
        self,
        num_channels: int,
        sample_size: int,
        parity: int,
        transform: Transform,
        make_network: MakeNetwork,
        context_channels: int = 0,
    ) -> None:
        super().__init__()
        self.transform = transform
        outputs = num_channels * transform.parameters_per_channel
        self.network = make_network(num_channels + 1 + context_channels, outputs)
        place = torch.arange(sample_size)
        self.register_buffer("mask", (place[:, None] + place + parity) % 2 == 0)

    def _condition(self, x: Tensor, context: Tensor | None) -> Tensor:
        plane = self.mask.to(x.dtype)
        seen = [x * plane, plane.expand(len(x), 1, -1, -1)]
        return run(self.network, torch.cat(seen if context is None else [*seen, context], dim=1))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, log_det = self.transform(x, self._condition(x, context))
        return torch.where(self.mask, x, y), sum_of(log_det.masked_fill(self.mask, 0))

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        return torch.where(self.mask, y, self.transform.inverse(y, self._condition(y, context)))


class ChannelCoupling(nn.Module):
    """A coupling that keeps one part of the channels and transforms the other (Dinh et al. 2017, section 3.4).

    Args:
        num_kept: channels that go through: the first, or with `reverse` the last.
    """

    def __init__(
        self, num_channels: int, transform: Transform, make_network: MakeNetwork, num_kept: int, reverse: bool = False
    ) -> None:
        super().__init__()
        moved = num_channels - num_kept
        self.transform, self.reverse = transform, reverse
        self.network = make_network(num_kept, moved * transform.parameters_per_channel)
        self.sizes = (moved, num_kept) if reverse else (num_kept, moved)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.split(self.sizes, dim=1)
        return (second, first) if self.reverse else (first, second)

    def _join(self, kept: Tensor, moved: Tensor) -> Tensor:
        return torch.cat((moved, kept) if self.reverse else (kept, moved), dim=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        kept, moved = self._split(x)
        y, log_det = self.transform(moved, run(self.network, kept))
        return self._join(kept, y), sum_of(log_det)

    def inverse(self, y: Tensor) -> Tensor:
        kept, moved = self._split(y)
        return self._join(kept, self.transform.inverse(moved, run(self.network, kept)))
