"""The optimizer of a component: its class among torch's own, and the options of each class, as one schema.

On the command line `--optimizer.discriminator.learning_rate 4e-4`, in files `optimizer: {discriminator: {...}}`. This
module imports no torch.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hfgen.errors import UsageError, did_you_mean
from hfgen.settings.fields import check_bounds, option

ADAMS = ("AdamW", "Adam", "RAdam")
TAKEN_BY = {  # option -> the classes that take it; all others are taken by every class
    "betas": (*ADAMS, "Muon"),
    "eps": (*ADAMS, "RMSprop", "Muon"),
    "alpha": ("RMSprop",),
    "momentum": ("RMSprop", "SGD", "Muon"),
}
WITHOUT_WARM_UP = ("constant", "piecewise_constant")


@dataclass(kw_only=True, frozen=True)
class OptimizerOptions:
    """Options of one component's optimizer; what is None comes from the options of the whole training, or torch's."""

    class_name: Literal["AdamW", "Adam", "RAdam", "RMSprop", "SGD", "Muon"] | None = option(
        None,
        "Class in torch.optim (default: AdamW). Muon steps matrices; AdamW steps the component's other weights.",
        resume="reported",
    )
    learning_rate: float | None = option(
        None, "Learning rate after the warm-up (default: --learning_rate).", resume="reported", above=0
    )
    betas: tuple[float, float] | None = option(
        None,
        "Decays of the first and the second moment (default: --adam_beta1, --adam_beta2); of Muon for AdamW's part.",
        resume="reported",
    )
    eps: float | None = option(
        None, "Added to the denominator (default: --adam_epsilon); of Muon for AdamW's part.", resume="reported",
        at_least=0,
    )  # fmt: skip
    alpha: float | None = option(
        None, "Decay of the mean square (default: 0.99).", resume="reported", at_least=0, below=1
    )
    momentum: float | None = option(
        None, "Momentum (default: 0; of Muon 0.95).", resume="reported", at_least=0, below=1
    )
    weight_decay: float | None = option(
        None,
        "Weight decay (default: --adam_weight_decay): decoupled in AdamW and Muon, added to the gradient elsewhere.",
        resume="reported",
        at_least=0,
    )
    no_decay: bool | None = option(
        None,
        "Without weight decay for parameters of fewer than two dimensions (biases, norms) and embeddings.",
        resume="reported",
    )
    lr_scheduler: str | None = option(
        None, "Learning rate schedule, by diffusers' name (default: --lr_scheduler).", resume="reported"
    )
    lr_warmup_steps: int | None = option(
        None, "Steps of warm-up (default: --lr_warmup_steps).", resume="reported", at_least=0
    )
    lr_step_rules: str | None = option(
        None, "Rules of the schedule piecewise_constant (default: --lr_step_rules).", resume="reported"
    )

    @property
    def chosen(self) -> str:
        return self.class_name or "AdamW"

    def takes(self, name: str) -> bool:
        return self.chosen in TAKEN_BY.get(name, (self.chosen,))

    def given(self) -> dict[str, Any]:
        """Return the options that are not None."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def over(self, general: Mapping[str, Any]) -> "OptimizerOptions":
        """Return these options, completed by those of the whole training where the class takes them.

        A schedule of its own starts without the training's warm-up and rules, unless they can go with it.
        """
        general = {name: value for name, value in general.items() if self.takes(name)}
        if self.lr_scheduler in WITHOUT_WARM_UP:
            general["lr_warmup_steps"] = 0
        if self.lr_scheduler is not None and self.lr_scheduler != "piecewise_constant":
            general["lr_step_rules"] = None
        return OptimizerOptions(**{"class_name": "AdamW", **general, **self.given()})


OPTIONS = {f.name: f for f in dataclasses.fields(OptimizerOptions)}


def options_of(component: str, options: Mapping[str, Any]) -> OptimizerOptions:
    """Return the checked options of one component.

    Raises:
        UsageError: an option is unknown, out of its range, or not one that the class takes.
    """
    where = f"optimizer.{component}"
    for name in options:
        if name not in OPTIONS:
            raise UsageError(f"--{where}.{name} is unknown.{did_you_mean(name, OPTIONS)}")
    found = OptimizerOptions(**options)
    for name, value in found.given().items():
        for part in value if name == "betas" else [value]:
            check_bounds(f"{where}.{name}", part, _bounds(name))
        if not found.takes(name):
            own = ", ".join(key for key in OPTIONS if found.takes(key) and key in TAKEN_BY)
            raise UsageError(
                f"--{where}.{name} is an option of {', '.join(TAKEN_BY[name])}; {component} is trained by "
                f"{found.chosen}, which takes {own or 'none of its own'}."
            )
    if found.betas is not None and len(found.betas) != 2:
        raise UsageError(f"--{where}.betas is {list(found.betas)}; expected two numbers, as [0.9, 0.999].")
    return found


def _bounds(name: str) -> Mapping[str, float]:
    return {"at_least": 0, "below": 1} if name == "betas" else OPTIONS[name].metadata["bounds"]


def check_schedule(prefix: str, lr_scheduler: Any, lr_warmup_steps: Any, lr_step_rules: Any) -> None:
    """Raise a UsageError if a schedule, its warm-up and its rules contradict each other."""
    if lr_scheduler in WITHOUT_WARM_UP and lr_warmup_steps:
        raise UsageError(f"--{prefix}lr_scheduler {lr_scheduler} has no warm-up; choose constant_with_warmup.")
    if (lr_scheduler == "piecewise_constant") != (lr_step_rules is not None):
        raise UsageError(
            f"--{prefix}lr_step_rules and --{prefix}lr_scheduler piecewise_constant need each other; give both or "
            "neither."
        )


def refuse_unknown_components(given: Iterable[str], components: Iterable[str]) -> None:
    """Raise a UsageError for the optimizer of a component that is not trained, or of none."""
    for name in given:
        if name in OPTIONS:
            raise UsageError(f"--optimizer.{name} names no component: --optimizer.{next(iter(components))}.{name}")
        if name not in components:
            raise UsageError(
                f"--optimizer.{name}: there is no such trained component.{did_you_mean(name, components)}"
            )


def merge(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the options of one component over those of an earlier layer, without what another class took.

    >>> merge({"class_name": "RMSprop", "alpha": 0.9, "eps": 1e-4}, {"class_name": "SGD", "momentum": 0.9})
    {'class_name': 'SGD', 'momentum': 0.9}
    """
    chosen = OptimizerOptions(class_name=later.get("class_name", earlier.get("class_name")))
    kept = {name: value for name, value in earlier.items() if name in later or chosen.takes(name)}
    if "lr_scheduler" in later:
        kept.pop("lr_step_rules", None)
    if later.get("lr_scheduler") in WITHOUT_WARM_UP:
        kept.pop("lr_warmup_steps", None)
    return {**kept, **later}
