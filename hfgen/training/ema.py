"""EMA, the exponential moving average of a network's weights, with its buffers."""

import contextlib
from collections.abc import Iterator

from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from hfgen.processes.shards import fill, whole


class PowerFunctionEMA(EMAModel):
    """An average whose width grows with the training: step t has weight ~ t^gamma (Karras et al. 2024, equation 3)."""

    def __init__(self, parameters: list[Tensor], gamma: float) -> None:
        super().__init__(parameters, foreach=True)
        self.gamma = gamma

    def get_decay(self, optimization_step: int) -> float:
        """Return beta(t) = (1 - 1/t)^(gamma + 1) of the t-th step, counted from 1; equation 4."""
        return (1 - 1 / optimization_step) ** (self.gamma + 1)


class ModelEMA:
    """EMA of a network's whole state by diffusers' `EMAModel`: parameters are averaged, buffers copied.

    `EMAModel` by itself follows parameters only; BatchNorm's statistics, masks and flags would be lost. A buffer that
    is not saved stays as the network has it.
    """

    def __init__(
        self,
        model: nn.Module,
        decay: float,
        power: float | None = None,
        inv_gamma: float = 1.0,
        gamma: float | None = None,
    ) -> None:
        """Make the EMA; its decay grows to `decay` as (1 + n) / (10 + n), or as 1 - (1 + n / inv_gamma)^-power.

        Args:
            gamma: exponent of a power function, which takes the place of `decay`.
        """
        self.model = model
        self.saved = set(model.state_dict())
        if gamma is not None:
            self.average: EMAModel = PowerFunctionEMA(self._state(), gamma)
            return
        warm_up = {} if power is None else {"use_ema_warmup": True, "power": power, "inv_gamma": inv_gamma}
        self.average = EMAModel(self._state(), decay=decay, foreach=True, **warm_up)

    def restart(self) -> None:
        """Start again from the weights as they are now."""
        for average, tensor in zip(self.average.shadow_params, self._state(), strict=True):
            average.copy_(tensor.detach())

    def _state(self) -> list[Tensor]:
        buffers = (buffer for name, buffer in self.model.named_buffers() if name in self.saved)
        return [*self.model.parameters(), *buffers]

    def step(self) -> None:
        """Average in the weights after an optimizer step."""
        self.average.step(self._state())

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Give the network its EMA weights inside the context."""
        self.average.store(self._state())
        self.average.copy_to(self._state())
        try:
            yield
        finally:
            self.average.restore(self._state())

    def state_dict(self) -> dict[str, Tensor]:
        """Return the EMA as whole tensors, by the network's own names."""
        return {name: whole(average) for name, average in self._named().items()}

    def load_state_dict(self, tensors: dict[str, Tensor], steps: int) -> None:
        """Take over the EMA as it was after so many optimizer steps."""
        for name, average in self._named().items():
            fill(average, tensors[name])
        self.average.optimization_step = steps

    def _named(self) -> dict[str, Tensor]:
        names = [n for n, _ in self.model.named_parameters()]
        names += [n for n, _ in self.model.named_buffers() if n in self.saved]
        return dict(zip(names, self.average.shadow_params, strict=True))
