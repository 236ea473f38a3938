"""Averages of networks beside the EMA: further profiles of it, and frozen ones that an objective asks for."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from hfgen.errors import HFGenError, UsageError
from hfgen.objective import Objective
from hfgen.processes.shards import fill, reshard, whole
from hfgen.settings.ema_profiles import EMAProfile
from hfgen.training.ema import ModelEMA


def make_profiles(
    profiles: Sequence[EMAProfile], networks: Mapping[str, nn.Module], global_batch_size: int, **warm_up: Any
) -> dict[str, dict[str, ModelEMA]]:
    """Return name of a profile -> name of a network -> its EMA."""
    return {
        profile.name: {
            name: ModelEMA(network, profile.decay(global_batch_size), gamma=profile.gamma, **warm_up)
            for name, network in networks.items()
        }
        for profile in profiles
    }


class FrozenAverage:
    """The average of a network in eval mode and without gradients, as a network that an objective calls.

    Args:
        source: the trained network, in shards with FSDP2.
        copied: a copy of it, not yet prepared.
    """

    def __init__(self, source: nn.Module, copied: nn.Module, accelerator: Accelerator) -> None:
        self.source, self.network = source, copied.requires_grad_(False)
        if accelerator.distributed_type == DistributedType.FSDP:
            # FSDP2 prepares a network only with an optimizer, which is never stepped.
            unused = torch.optim.SGD(self.network.parameters(), lr=0.0)
            self.model, _ = accelerator.prepare(self.network, unused)
        else:
            self.model = accelerator.prepare_model(self.network, evaluation_mode=True)
        self.model.eval()

    @torch.no_grad()
    def step(self, decay: float) -> None:
        """Take in the weights after an optimizer step: average = decay * average + (1 - decay) * weights."""
        reshard([self.source, self.network])
        averages: list[Tensor] = list(self.network.parameters())
        weights: list[Tensor] = list(self.source.parameters())
        torch._foreach_mul_(averages, decay)
        torch._foreach_add_(averages, weights, alpha=1 - decay)
        self._copy_buffers()

    @torch.no_grad()
    def restart(self) -> None:
        """Start again from the weights as they are now."""
        self.step(0.0)

    def _copy_buffers(self) -> None:
        for average, buffer in zip(self.network.buffers(), self.source.buffers(), strict=True):
            average.copy_(buffer)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the average as whole tensors, by the network's own names."""
        return {name: whole(tensor) for name, tensor in self._named().items()}

    @torch.no_grad()
    def load_state_dict(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Take over the average as it was after so many optimizer steps, which its decay does not depend on."""
        for name, tensor in self._named().items():
            fill(tensor, tensors[name])

    def _named(self) -> dict[str, Tensor]:
        reshard([self.network])
        saved = self.network.state_dict().keys()
        buffers = {name: buffer for name, buffer in self.network.named_buffers() if name in saved}
        return {**dict(self.network.named_parameters()), **buffers}


def copies_for(objective_class: type[Objective], models: Mapping[str, nn.Module], accelerator: Accelerator) -> Any:
    """Return name of an average -> component and a copy of its network, before Accelerate prepares any.

    Raises:
        HFGenError: the objective asks for the average of what is not trained.
        UsageError: DeepSpeed trains.
    """
    averages = objective_class.averages
    if averages and accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise UsageError(
            f"{objective_class.__name__} keeps averages of networks, which DeepSpeed's engine does not; train without "
            "DeepSpeed,\nor use --accelerate_config fsdp2."
        )
    for name, component in averages.items():
        if component not in models:
            raise HFGenError(
                f"{objective_class.__name__}.averages[{name!r}] is of {component!r}, which is not trained."
            )
    return {name: (component, copy.deepcopy(models[component])) for name, component in averages.items()}


def decays_of(objective: Objective) -> dict[str, float]:
    """Return the decay of each of an objective's averages in this step.

    Raises:
        HFGenError: one is not in [0, 1].
    """
    decays = {name: objective.average_decay(name) for name in objective.averages}
    for name, decay in decays.items():
        if not 0 <= decay <= 1:
            raise HFGenError(f"{type(objective).__name__}.average_decay({name!r}) is {decay}; it must be in [0, 1].")
    return decays
