"""BatchNorm over the images of all processes, so that two processes compute what one does.

torch's `SyncBatchNorm` runs on accelerators only. This one runs wherever gradients are reduced; it reduces two tensors
(C,) in each direction, instead of one.
"""

import contextlib
import warnings
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

# torch's replacement for `all_reduce` is a private module
warnings.filterwarnings("ignore", r"torch\.distributed\.nn\.functional\.", FutureWarning)

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class GlobalBatchNorm(nn.BatchNorm2d):
    """BatchNorm that trains with mean and variance of the images of all processes (Ioffe and Szegedy 2015).

    Input and output are (B, C, ...), with the same B in each process. Statistics are computed in float32.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input.float()
        axes = [0, *range(2, x.ndim)]
        count = torch.distributed.get_world_size() * x.numel() // x.shape[1]
        shape = (1, -1, *[1] * (x.ndim - 2))
        mean = all_reduce(x.sum(axes)) / count
        centered = x - mean.view(shape)
        variance = all_reduce(centered.square().sum(axes)) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        y = centered * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, unbiased_variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        weight = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
        self.running_var.lerp_(unbiased_variance.to(self.running_var.dtype), weight)


def batch_norms(models: Iterable[nn.Module]) -> list[nn.Module]:
    """List the BatchNorm modules of the networks."""
    return [module for model in models for module in model.modules() if type(module) in BATCH_NORMS]


@contextlib.contextmanager
def synchronized(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Turn the modules into `GlobalBatchNorm` inside the context; every process must call their networks together."""
    classes = [(module, type(module)) for module in modules]
    for module, _ in classes:
        module.__class__ = GlobalBatchNorm
    try:
        yield
    finally:
        for module, before in classes:
            module.__class__ = before
