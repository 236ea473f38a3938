"""Networks that FSDP2 holds in shards: gather their whole tensors, and fill them from whole tensors.

A whole tensor is gathered from all processes, so every process must call these functions, in the same order.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils._pytree import tree_leaves

from hfgen.errors import UsageError


def whole(tensor: Tensor) -> Tensor:
    """Return the tensor itself or, for a shard, the tensor that it is part of."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def local(tensor: Any) -> Tensor:
    """Return the tensor itself, or the shard of it that this process holds."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def fill(target: Any, value: Tensor) -> None:
    """Copy a whole tensor into `target`, or its part into a shard; no process sends anything."""
    value = value.detach().to(target.device)
    if hasattr(target, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor

        shard = distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)
        target.to_local().copy_(shard.to_local())
    else:
        target.copy_(value)


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the `state_dict` with whole tensors."""
    return {name: whole(tensor) for name, tensor in model.state_dict().items()}


@torch.no_grad()
def fill_state(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put a `state_dict` of whole tensors into a network that may be in shards."""
    for name, target in model.state_dict().items():
        fill(target, tensors[name])


def refuse_second_derivatives(network: nn.Module) -> None:
    """Let a gradient of a gradient raise a UsageError: FSDP2 frees weights that the second one reads."""

    def refuse(gradient: Tensor) -> None:
        if torch.is_grad_enabled():  # as it is inside a backward pass that makes a graph
            raise UsageError(
                f"{type(network).__name__.removeprefix('FSDP')} is in shards (FSDP2), and its gradient is "
                "differentiated.\nLet the objective differentiate `unwrapped(network)`, or train without FSDP2."
            )

    def watch(module: nn.Module, inputs: Any, output: Any) -> None:
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.register_hook(refuse)

    network.register_forward_hook(watch)


def reshard(networks: Iterable[nn.Module]) -> None:
    """Free the whole weights that a forward pass gathered and that no backward pass has freed since.

    Such a network's parameters are plain tensors until then, which nothing that goes by shards can use.
    """
    for network in networks:
        for module in network.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


@contextlib.contextmanager
def gathered(
    networks: Mapping[str, nn.Module], whole: Mapping[str, nn.Module], emas: Mapping[str, Any] = {}
) -> Iterator[None]:
    """Fill the whole networks of the same names from their EMA, or else from their shards, inside the context.

    They are moved to the CPU afterwards: training with shards leaves no device memory to spare. Other whole networks,
    such as one that the objective calls but does not train, stay where they are.
    """
    for name, network in networks.items():
        tensors = emas[name].state_dict() if name in emas else whole_state(network)
        whole[name].load_state_dict(tensors, strict=False)  # EMA has one name for tied weights
        whole[name].to(next(iter(tensors.values())).device)
    try:
        yield
    finally:
        for name in networks:
            whole[name].to("cpu")
