"""Networks inside the wrappers of a training, for penalties and derivatives that wrappers hinder."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import Partial
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from hfgen.noise import seed_device

WHOLE = "_hfgen_whole"  # attribute of a network in shards: the network from which it was copied


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the network inside DDP's and torch.compile's wrappers; the network itself where there is none.

    Use it for what differentiates through a network, such as a gradient penalty: `--torch_compile` can compile no
    second derivative. The same loss must also hold a call of the network as it was handed to the objective, because
    that call is what makes DDP reduce the gradients of all:

        penalty = gradient_penalty(unwrapped(self.critic), images)
        yield Update("critic", self.critic(fake).mean() - self.critic(real).mean() + penalty)

    FSDP2 has no module inside: it changes the network itself, and frees its gathered weights after the first
    derivative, before the second reads them. What is returned then computes with weights that it gathers for itself,
    in full precision. Call it, and none of its methods.
    """
    inside = _inside(network)
    return Gathered(inside) if hasattr(inside, WHOLE) else inside


def _inside(network: nn.Module) -> nn.Module:
    return extract_model_from_parallel(network, keep_torch_compile=False)


class Gathered(nn.Module):
    """Compute what a network in shards computes, with weights that autograd gathers; their gradients are averaged.

    Every process must call it.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = [network]  # in a list: neither its parameters nor its modes are those of this module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the whole network from which this one was copied, with this one's weights, buffers and modes."""
        [network] = self._network
        whole: nn.Module = getattr(network, WHOLE)
        for one, other in zip(whole.modules(), network.modules(), strict=True):
            one.training = other.training
        for module in network.modules():
            if isinstance(module, FSDPModule):
                module.reshard()  # after a call, parameters are whole until they are freed
        average: Any = {"grad_placements": [Partial("avg")]}
        shards: dict[str, Any] = dict(network.named_parameters())
        weights = {name: shard.full_tensor(**average) for name, shard in shards.items()}
        return functional_call(whole, {**weights, **dict(network.named_buffers())}, args, kwargs)


@torch.no_grad()
def directional_derivative(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    tangents: tuple[Tensor, ...],
    step: float | None = None,
    **conditions: Any,
) -> Tensor:
    """Return the derivative of a network along `tangents`, J_f(x) v, without gradient to weights or inputs.

    It is exact by forward-mode automatic differentiation. With `step` h it is the central difference
    (f(x + h v) - f(x - h v)) / 2h, with a relative error of about h^2, for layers that have no forward mode; in
    float32 and with inputs of order 1, h = 1e-2 is best. Both of its calls draw the same dropout.

    Args:
        inputs: x, the positional arguments of the network: float tensors.
        tangents: v, of the same shapes.
        conditions: further arguments of the network, such as `class_labels`, which stay as they are.
    """
    inside = _inside(network)
    if step is None:
        quiet = warnings.catch_warnings(action="ignore", category=DeprecationWarning)  # of torch's, by its first jvp
        with quiet, sdpa_kernel(SDPBackend.MATH):  # the only attention that has a forward mode
            return torch.func.jvp(lambda *x: inside(*x, **conditions), inputs, tangents)[1]
    seed, ends = int(torch.randint(2**62, ())), []
    for h in (step, -step):
        seed_device(inputs[0].device, seed)
        ends.append(inside(*(x + h * v for x, v in zip(inputs, tangents, strict=True)), **conditions))
    return (ends[0] - ends[1]) / (2 * step)


@contextlib.contextmanager
def eval_mode(models: Any) -> Iterator[None]:
    """Put the networks in eval mode for a while: BatchNorm in training mode would mix the images of a batch."""
    training = [model for model in models if model.training]
    for model in training:
        model.eval()
    try:
        yield
    finally:
        for model in training:
            model.train()
