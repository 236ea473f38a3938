"""Settings of optimizers that change during a training: learning rate schedules, and what an objective sets."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from diffusers.optimization import SchedulerType, get_scheduler

from hfgen.errors import HFGenError, UsageError, did_you_mean
from hfgen.settings.optimizers import OptimizerOptions

OF_TORCH = ("params", "numbers", "initial_lr")  # entries of a parameter group that nobody sets


def make_lr_scheduler(optimizer: torch.optim.Optimizer, options: OptimizerOptions, last_step: int) -> Any:
    """Make the schedule; it counts optimizer steps, whatever the number of processes.

    Raises:
        UsageError: `--lr_scheduler` or `--lr_step_rules` is invalid.
    """
    name = options.lr_scheduler or "constant"
    names = {kind.value for kind in SchedulerType}
    if name not in names:
        raise UsageError(f"--lr_scheduler is {name!r}.{did_you_mean(name, names)}")
    try:
        return get_scheduler(
            name,
            optimizer,
            step_rules=options.lr_step_rules,
            num_warmup_steps=options.lr_warmup_steps,
            num_training_steps=last_step,
        )
    except ValueError as error:
        raise UsageError(
            f"--lr_step_rules is {options.lr_step_rules!r}; expected factor:step, ..., last factor: 1:1000,0.1"
        ) from error


def set_step(lr_scheduler: Any, step: int) -> None:
    """Set a schedule to where it is after `step` steps, with this run's learning rate."""
    lr_scheduler.last_epoch = step
    groups = lr_scheduler.optimizer.param_groups
    for group, base, factor in zip(groups, lr_scheduler.base_lrs, lr_scheduler.lr_lambdas, strict=True):
        group["lr"] = base * factor(step)  # all of get_scheduler's are a factor of the step
    lr_scheduler._last_lr = [group["lr"] for group in groups]


class Schedules:
    """The schedule of each trained component, which advances in the steps in which the component is stepped.

    Several updates of a component in one step of the training advance it once, so that the planned number of steps
    means the same for all components; a component that no update names in a step stays where it is. An update that a
    loss scaler skipped counts.

    Attributes:
        given: component -> settings of its optimizer, as the user chose them.
        counts: component -> steps of the training in which it was stepped.
    """

    def __init__(self) -> None:
        self.given: dict[str, dict[str, Any]] = {}
        self.counts: dict[str, int] = {}
        self._lr_schedulers: dict[str, Any] = {}
        self._constant: set[str] = set()
        self._stepped: set[str] = set()
        self._before: list[tuple[dict[str, Any], str, Any]] = []

    def add(self, name: str, optimizer: torch.optim.Optimizer, options: OptimizerOptions, last_step: int) -> None:
        """Take in a component's optimizer, before Accelerate prepares it."""
        groups = reversed(optimizer.param_groups)  # so that the first group that has a setting wins
        self.given[name] = {k: v for group in groups for k, v in group.items() if k not in OF_TORCH}
        self._lr_schedulers[name] = make_lr_scheduler(optimizer, options, last_step)
        if options.lr_scheduler == "constant":
            self._constant.add(name)
        self.counts[name] = 0

    def stepped(self, names: Iterable[str]) -> None:
        """Note that the optimizers of these components were stepped in this step of the training."""
        self._stepped.update(names)

    def finish_step(self) -> None:
        """Advance the schedules of the components that were stepped."""
        for name in self._stepped:
            self.counts[name] += 1
            if name not in self._constant:
                self._lr_schedulers[name].step()
        self._stepped = set()

    def apply(self, settings: Mapping[str, Mapping[str, Any]]) -> None:
        """Give the optimizers the settings of this step; what an earlier step set beside these is undone.

        Raises:
            HFGenError: there is no such component, or its optimizer has no such setting.
            UsageError: the learning rate would have two schedules.
        """
        for group, key, value in self._before:
            group[key] = value
        self._before = []
        for name, wanted in settings.items():
            if name not in self.given:
                raise HFGenError(f"optimizer_settings names {name!r}.{did_you_mean(name, self.given)}")
            for key, value in wanted.items():
                self._set(name, key, value)

    def _set(self, name: str, key: str, value: Any) -> None:
        if key not in self.given[name]:
            known = did_you_mean(key, self.given[name])
            raise HFGenError(f"optimizer_settings sets {key!r} of {name}, which its optimizer does not have.{known}")
        if key == "lr" and name not in self._constant:
            raise UsageError(
                f"The objective sets the learning rate of {name} in each step; leave its --lr_scheduler constant."
            )
        for group in self._lr_schedulers[name].optimizer.param_groups:
            if key in group and not (key == "weight_decay" and not group[key]):  # some groups have none
                self._before.append((group, key, group[key]))
                group[key] = value

    @property
    def move(self) -> bool:
        """True if a learning rate follows a schedule, which ends with the planned last step."""
        return len(self._constant) < len(self._lr_schedulers)

    def rates(self) -> dict[str, float]:
        """Return the learning rates by their names in metrics: one for all, or of each component where they differ."""
        found = {name: it.optimizer.param_groups[0]["lr"] for name, it in self._lr_schedulers.items()}
        if len({*found.values()}) == 1:
            return {"learning_rate": next(iter(found.values()))}
        return {f"{name}_learning_rate": rate for name, rate in found.items()}

    def load(self, counts: Mapping[str, int], step: int) -> None:
        """Go on after so many steps; a component that `counts` lacks was stepped in each of them."""
        for name, lr_scheduler in self._lr_schedulers.items():
            self.counts[name] = counts.get(name, step)
            set_step(lr_scheduler, self.counts[name])
