"""The moving average of a network's weights, with its buffers."""

import contextlib
from collections.abc import Iterator

from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from hfgen.processes.shards import fill, whole


class ModelEMA:
    """diffusers' `EMAModel` over a network's whole state: parameters are averaged, buffers copied.

    `EMAModel` by itself follows parameters only, and BatchNorm's statistics, masks and flags would be lost.
    """

    def __init__(self, model: nn.Module, decay: float, power: float | None = None, inv_gamma: float = 1.0) -> None:
        """With `power`, the decay grows to `decay` as 1 - (1 + n / inv_gamma)^-power, else as (1 + n) / (10 + n)."""
        self.model = model
        warm_up = {} if power is None else {"use_ema_warmup": True, "power": power, "inv_gamma": inv_gamma}
        self.average = EMAModel(self._state(), decay=decay, foreach=True, **warm_up)

    def restart(self) -> None:
        """Take the weights as they are for the average of nothing but them."""
        for average, tensor in zip(self.average.shadow_params, self._state(), strict=True):
            average.copy_(tensor.detach())

    def _state(self) -> list[Tensor]:
        return [*self.model.parameters(), *self.model.buffers()]

    def step(self) -> None:
        """Take in the weights after an optimizer step."""
        self.average.step(self._state())

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within, the network holds the averaged weights."""
        self.average.store(self._state())
        self.average.copy_to(self._state())
        try:
            yield
        finally:
            self.average.restore(self._state())

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged tensors, whole, by the network's own names."""
        return {name: whole(average) for name, average in self._named().items()}

    def load_state_dict(self, tensors: dict[str, Tensor], steps: int) -> None:
        """The averaged tensors, after so many optimizer steps."""
        for name, average in self._named().items():
            fill(average, tensors[name])
        self.average.optimization_step = steps

    def _named(self) -> dict[str, Tensor]:
        names = [name for name, _ in self.model.named_parameters()] + [n for n, _ in self.model.named_buffers()]
        return dict(zip(names, self.average.shadow_params, strict=True))
