"""Metrics between two lines of the log, and the check that ends a training when one of them is not finite."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from hfgen.errors import CheckError, HFGenError
from hfgen.evaluation.held_out import PREFIX
from hfgen.objective import Update
from hfgen.results.metrics import METRICS
from hfgen.training.checkpoint import list_checkpoints

Batch = TypeVar("Batch")


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


LINE = ("step", "epoch", "learning_rate", "images_per_second", "seconds", "data_wait", "skipped_steps", "diagnosis")
OWN_NAMES = {*LINE, *(PREFIX + metric for metric in METRICS)}  # of a line of metrics, beside losses


class Window:
    """Sums of metrics on the device, which are read only when a line of the log is due.

    Args:
        mean_of_processes: averages a tensor over all processes.
        objective: its name, for messages.
        components: the trained ones, whose losses have names of their own.

    Attributes:
        steps: optimizer steps since the last line.
        seconds: training time up to the last line, without the time between an interruption and its resume.
        waited: seconds since the last line in which no step was made, for want of a batch.
    """

    def __init__(
        self, mean_of_processes: Callable[[Tensor], Tensor], objective: str, components: Iterable[str] = ()
    ) -> None:
        self.mean_of_processes, self.objective = mean_of_processes, objective
        self.of_components = frozenset(f"{component}_loss" for component in components)
        self.losses = set(self.of_components)  # and those with names of their own, so far
        self.own = OWN_NAMES | {f"{component}_learning_rate" for component in components}
        self.named: set[str] = set()  # metrics of the objective's own, so far
        self.sums: dict[str, Tensor | float] = {}
        self.counts: Counter[str] = Counter()
        self.steps, self.seconds, self.elapsed = 0, 0.0, 0.0
        self.waited, self.data_wait = 0.0, 0.0
        self.start()

    def start(self) -> None:
        """Start the clock, after what had elapsed of this window when the run was interrupted."""
        self.clock = time.perf_counter() - self.elapsed
        self.elapsed = 0.0

    def waiting_for(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches, and measure how long each is waited for."""
        following = iter(batches)
        while True:
            began = time.perf_counter()
            batch = next(following, None)
            self.waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    def add_update(self, update: Update) -> None:
        """Add the loss and the metrics of an update; the objective may yield one name many times in a step.

        Raises:
            HFGenError: a name that is the training's own, or a loss's; or a metric that is not one number.
        """
        own = {f"{component}_loss" for component in update.components}
        others = self.of_components - own if update.name else frozenset()
        if update.loss_name in self.own | others | self.named:
            raise self._taken(update.loss_name, "calls a loss")
        self.losses.add(update.loss_name)
        self.add(update.metrics, "yields a metric")
        self._sum(update.loss_name, update.loss)

    def add(self, metrics: Mapping[str, Tensor | float], what: str) -> None:
        """Add scalars of the objective's; raises as `add_update`.

        Args:
            what: a verb with its object, for messages.
        """
        for name, value in metrics.items():
            if name in self.own or name in self.losses:
                raise self._taken(name, what)
            if not isinstance(value, int | float | Tensor) or (isinstance(value, Tensor) and value.numel() != 1):
                got = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise HFGenError(f"{self.objective}: the metric {name!r} is {got}; expected one number.")
            self.named.add(name)
            self._sum(name, value)

    def _taken(self, name: str, what: str) -> HFGenError:
        return HFGenError(
            f"{self.objective} {what} {name!r}, which is a name of the training's own or of a loss.\n"
            "Choose another name: nothing is overwritten in metrics.jsonl."
        )

    def _sum(self, name: str, value: Tensor | float) -> None:
        self.counts[name] += 1
        added = value.detach().reshape(()) if isinstance(value, Tensor) else value
        if name in self.sums:
            self.sums[name] += added
        else:
            self.sums[name] = added.to(torch.float32, copy=True) if isinstance(added, Tensor) else float(added)

    def means(self) -> dict[str, float]:
        """Return the mean of each name since the last line, over all processes; collective."""
        return {name: total / self.counts[name] for name, total in self._totals().items()}

    def steps_per_second(self) -> float:
        """Return the speed since the last line, and keep for it the share of the time that was waited for data."""
        elapsed = time.perf_counter() - self.clock
        self.data_wait = self.waited / elapsed
        return self.steps / elapsed

    def times(self) -> dict[str, float]:
        """Return what the line says of time beside the speed, of this process: seconds, and the share of waiting."""
        return {"seconds": round(self.seconds, 3), "data_wait": round(self.data_wait, 4)}

    def restart(self) -> None:
        """Start the next line."""
        self.seconds += time.perf_counter() - self.clock
        self.sums, self.counts, self.steps, self.waited = {}, Counter(), 0, 0.0
        self.start()

    def state_dict(self) -> dict[str, Any]:
        """Return the sums, averaged over the processes; collective."""
        sums = {name: (total, self.counts[name]) for name, total in self._totals().items()}
        elapsed = time.perf_counter() - self.clock
        return {
            "sums": sums,
            "steps": self.steps,
            "seconds": self.seconds + elapsed,
            "elapsed": elapsed,
            "waited": self.waited,
        }

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        self.steps, self.elapsed = state["steps"], state.get("elapsed", 0.0)
        self.waited = state.get("waited", 0.0)
        self.seconds = state["seconds"] - self.elapsed
        self.sums = {name: torch.tensor(total, device=device) for name, (total, _) in state["sums"].items()}
        self.counts = Counter({name: count for name, (_, count) in state["sums"].items()})

    def _totals(self) -> dict[str, float]:
        names = sorted(self.sums)
        if not names:
            return {}
        device = next((total.device for total in self.sums.values() if isinstance(total, Tensor)), None)
        sums = [torch.as_tensor(self.sums[name], dtype=torch.float32, device=device) for name in names]
        return dict(zip(names, self.mean_of_processes(torch.stack(sums)).tolist(), strict=True))
