"""Metrics between two lines of the log, and the check that ends a training when one of them is not finite."""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hfgen.errors import CheckError
from hfgen.training.checkpoint import list_checkpoints


def require_finite(values: Mapping[str, float], step: int, steps: int, folder: Path | None) -> None:
    """Raise a CheckError for the first NaN or infinite value among those of the `steps` steps up to `step`."""
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    if not broken:
        return
    kept = list_checkpoints(folder)[-1:] if folder else []
    where = f"The last good checkpoint is {kept[0]}." if kept else "No checkpoint was written yet."
    raise CheckError(
        f"{broken[0]} is {values[broken[0]]} within the {steps} steps up to {step}; "
        f"the training stopped. {where}\nTry a lower --learning_rate, --max_grad_norm 1, or --mixed_precision no."
    )


class Window:
    """Sums of metrics on the device, which are read only when a line of the log is due.

    Args:
        mean_of_processes: averages a tensor over all processes.

    Attributes:
        steps: optimizer steps since the last line.
        seconds: training time up to the last line, without the time between an interruption and its resume.
    """

    def __init__(self, mean_of_processes: Callable[[Tensor], Tensor]) -> None:
        self.mean_of_processes = mean_of_processes
        self.sums: dict[str, Tensor] = {}
        self.counts: Counter[str] = Counter()
        self.steps, self.seconds = 0, 0.0
        self.start()

    def start(self) -> None:
        self.clock = time.perf_counter()

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Add scalars; an objective may yield one name many times in a step."""
        for name, value in metrics.items():
            self.counts[name] += 1
            if name in self.sums:
                self.sums[name] += value.detach()
            else:
                self.sums[name] = value.detach().to(torch.float32, copy=True)

    def means(self) -> dict[str, float]:
        """Return the mean of each name since the last line, over all processes; collective."""
        return {name: total / self.counts[name] for name, total in self._totals().items()}

    def steps_per_second(self) -> float:
        return self.steps / (time.perf_counter() - self.clock)

    def restart(self) -> None:
        """Start the next line."""
        self.seconds += time.perf_counter() - self.clock
        self.sums, self.counts, self.steps = {}, Counter(), 0
        self.start()

    def state_dict(self) -> dict[str, Any]:
        """Return the sums, averaged over the processes; collective."""
        sums = {name: (total, self.counts[name]) for name, total in self._totals().items()}
        return {"sums": sums, "steps": self.steps, "seconds": self.seconds + time.perf_counter() - self.clock}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        self.steps, self.seconds = state["steps"], state["seconds"]
        self.sums = {name: torch.tensor(total, device=device) for name, (total, _) in state["sums"].items()}
        self.counts = Counter({name: count for name, (_, count) in state["sums"].items()})

    def _totals(self) -> dict[str, float]:
        names = sorted(self.sums)
        if not names:
            return {}
        totals = self.mean_of_processes(torch.stack([self.sums[name] for name in names]))
        return dict(zip(names, totals.tolist(), strict=True))
