"""Agreement between the processes of a training; every process must call these functions, in the same order."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed import ReduceOp

from hfgen.errors import HFGenError


def share_buffers(models: Iterable[nn.Module], num_processes: int) -> None:
    """Give every process the main process's buffers: each has BatchNorm statistics of its own."""
    for model in models if num_processes > 1 else ():
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)


@contextlib.contextmanager
def unreduced(accelerator: Accelerator, models: Iterable[nn.Module]) -> Iterator[None]:
    """Keep DDP from reducing the gradients of these networks inside the context."""
    with contextlib.ExitStack() as stack:
        for model in models:
            stack.enter_context(accelerator.no_sync(_uncompiled(model)))
        yield


@contextlib.contextmanager
def reduced(accelerator: Accelerator, models: Iterable[nn.Module]) -> Iterator[None]:
    """Reduce the gradients of the next backward pass after all, inside `unreduced`.

    DDP by itself decides that in the forward pass, which may come before an earlier update.
    """
    with contextlib.ExitStack() as stack:
        for model in models:
            stack.enter_context(accelerator.trigger_sync_in_backward(_uncompiled(model)))
        yield


def _uncompiled(model: nn.Module) -> nn.Module:
    """Return the module behind torch.compile; only there Accelerate recognizes DistributedDataParallel."""
    return getattr(model, "_orig_mod", model)


def highest(values: Iterable[int], device: torch.device) -> list[int]:
    """Return the maximum of each number over all processes."""
    numbers = torch.tensor(list(values), device=device)
    torch.distributed.all_reduce(numbers, op=ReduceOp.MAX)
    return numbers.tolist()


def require_equal_gradients(name: str, model: nn.Module, device: torch.device) -> None:
    """Check that DDP has averaged a network's gradients over the processes.

    Raises:
        HFGenError: they differ: the objective uses a `torch.func` transform, or calls anything but the network itself.
    """
    parameters = [(key, p) for key, p in model.named_parameters() if p.requires_grad]
    sums = torch.stack([torch.zeros((), device=device) if p.grad is None else p.grad.sum() for _, p in parameters])
    sums = sums.double().nan_to_num()
    low, high = sums.clone(), sums.clone()
    torch.distributed.all_reduce(low, op=ReduceOp.MIN)
    torch.distributed.all_reduce(high, op=ReduceOp.MAX)
    differing = [key for (key, _), equal in zip(parameters, (low == high).tolist(), strict=True) if not equal]
    if differing:
        raise HFGenError(
            f"The gradients of {name} differ between the processes, first that of {differing[0]}: the objective "
            "bypasses DistributedDataParallel.\nCall the network itself, once for each loss, instead of torch.func "
            "transforms or methods other than `forward`.\nA penalty on `unwrapped(network)` belongs to a loss with "
            "such a call, or adds one: `+ 0 * network(...).sum()`.\nOr train in one process."
        )
