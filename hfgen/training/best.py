"""The best value of a validation's metric, and when to give up."""

from collections.abc import Mapping
from typing import Any

from hfgen.errors import UsageError
from hfgen.results.metrics import METRICS
from hfgen.settings.arguments import TrainingArguments


class Best:
    """The best value of one metric so far, and the number of validations since.

    Args:
        metric: a name of `hfgen.results.metrics`; None if there is none to follow.
        patience: validations without a better value after which the training `is_hopeless`; None for no limit.
        measured: how it is measured, as JSON; values that were measured differently are not compared.
    """

    def __init__(self, metric: str | None, patience: int | None, measured: Mapping[str, Any] = {}) -> None:
        self.metric, self.patience, self.measured = metric, patience, dict(measured)
        self.value: float | None = None
        self.step, self.waited = 0, 0

    @classmethod
    def of(cls, arguments: TrainingArguments) -> "Best":
        """Make it for a run's arguments."""
        metric, names = arguments.best_metric, ["validation_split", "num_evaluation_images"]
        names += ["extractor", "num_inference_steps"] if metric and METRICS[metric].of_samples else []
        return cls(metric, arguments.early_stopping_patience, {name: getattr(arguments, name) for name in names})

    def would_be(self, found: Mapping[str, Any]) -> bool:
        """Return True if this is better than all before; raise a UsageError if the metric is missing."""
        if self.metric is None:
            return False
        if f"validation_{self.metric}" not in found:
            raise UsageError(
                f"--best_metric {self.metric} was not measured for this model, although its family has it."
            )
        sign = -1 if METRICS[self.metric].better == "higher" else 1
        return self.value is None or sign * found[f"validation_{self.metric}"] < sign * self.value

    def take(self, step: int, found: Mapping[str, Any]) -> None:
        """Update with the measurements of a step."""
        if self.would_be(found):
            assert self.metric is not None
            self.value, self.step, self.waited = found[f"validation_{self.metric}"], step, 0
        else:
            self.waited += 1

    @property
    def is_hopeless(self) -> bool:
        return self.metric is not None and self.patience is not None and self.waited >= self.patience

    @property
    def why_hopeless(self) -> str:
        return f"{self.metric} has not become better in {self.patience} validations"

    @property
    def words(self) -> str:
        """Return `best fid 12.3400 at step 500`; nothing before a first value."""
        return "" if self.value is None else f"best {self.metric} {self.value:.4f} at step {self.step}"

    def state_dict(self) -> dict[str, Any]:
        of = {"metric": self.metric, "measured": self.measured}
        return {"value": self.value, "step": self.step, "waited": self.waited, **of}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state of the same metric, measured in the same way; ignore any other."""
        if (state.get("metric"), state.get("measured")) == (self.metric, self.measured):
            self.value, self.step, self.waited = state["value"], state["step"], state["waited"]
