"""The whole batch of a step: it is gathered from the processes, or split into parts.

Row i of the global batch is the same image whatever the number of processes, so what is computed from gathered tensors
or from these parts depends neither on that number nor on accumulation.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from hfgen.errors import UsageError


def gather_rows(tensor: Tensor) -> Tensor:
    """Concatenate the tensors (B, ...) of all processes: (num_processes * B, ...), in the global batch's order.

    The gradient of a process's own rows is the sum of what the losses of all processes ask of them. DDP and FSDP2 take
    the mean of the processes' gradients, which is then the gradient of the mean of their losses, whatever each of
    them computes: the same loss of all rows, or the mean over its own rows of a loss that looks at all.
    A gradient that the objective itself takes through this function is that sum: take it towards what was gathered
    instead. Every process must call it, in the same order and with the same shape, and again in the backward pass.
    """
    world = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not world or torch.distributed.get_world_size() == 1:
        return tensor
    return _Gather.apply(tensor)


class _Gather(Function):
    """Own rows -> the rows of all processes; transposed by `_Own`, so that it can be differentiated twice."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        rows = rows.contiguous()
        everyone = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(everyone, rows)
        return torch.cat(everyone)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Own.apply(*gradients)


class _Own(Function):
    """The rows of all processes -> own rows, summed over the processes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        total = rows.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total.chunk(torch.distributed.get_world_size())[torch.distributed.get_rank()].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _Gather.apply(*gradients)


def parts(batch: Mapping[str, Tensor], count: int) -> Iterator[dict[str, Tensor]]:
    """Split a batch into `count` smaller ones, such as fresh images for each of several critic updates of a step.

    Part k has rows k, k + count, k + 2 * count ... of each tensor. So it is the same part of the global batch in one
    process, in several, and accumulated. Noise is drawn for the whole batch and split along with it:

        latents = self.scheduler.sample_prior(self.noise)
        for part in parts({**batch, "latents": latents}, self.n_critic):
            ...

    Args:
        batch: tensors whose first dimension is the batch's.

    Raises:
        UsageError: the batch cannot be divided into so many equal parts.
    """
    size = len(next(iter(batch.values())))
    if size % count:
        raise UsageError(
            f"This training splits the batch of a step into {count} equal parts, which {size} images are not.\n"
            f"Give a --train_batch_size that {count} divides: {max(count, size // count * count)}, for example."
        )
    return ({name: tensor[part::count] for name, tensor in batch.items()} for part in range(count))
