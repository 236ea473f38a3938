"""Validation during a training: sample grid, reconstructions, the family's diagnosis, and the best metric."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from hfgen.data.looks import evenly_spaced
from hfgen.errors import CheckError, UsageError
from hfgen.modalities import image
from hfgen.modalities.image import postprocess
from hfgen.objective import Batch
from hfgen.pipeline import HFGenPipeline, eval_mode, reconstructs
from hfgen.results.metrics import METRICS
from hfgen.run_folder import pictured
from hfgen.settings.arguments import TrainingArguments
from hfgen.training.shown import line_of, write_pictures

EXAMPLES = 500  # training images of a diagnosis, as Burda et al. 2016 take for active units
COLUMNS = 8


def validate(
    pipeline: HFGenPipeline, examples: Batch, folder: Path, step: int, arguments: TrainingArguments
) -> dict[str, Any]:
    """Draw the pictures of a step and run the family's diagnosis.

    Args:
        examples: training images, the same at every step.

    Returns:
        the diagnosis as a line of metrics holds it, or a warning that sampled images are invalid.
    """
    try:
        _draw(pipeline, examples, folder / "samples", step, arguments)
        with eval_mode(pipeline.models().values()):
            found = pipeline.objective_class.diagnose(pipeline, examples)
        objective = pipeline.objective_class.__name__
        line = line_of(found, objective)
        write_pictures(found, folder / "samples", step, objective)
    except CheckError as error:  # a sampled image is invalid; losses and weights are checked elsewhere
        return {"warnings": [str(error)]}
    return line


def _draw(pipeline: HFGenPipeline, examples: Batch, samples: Path, step: int, arguments: TrainingArguments) -> None:
    options = drawing_options(pipeline, arguments.num_inference_steps)
    images = image.draw(pipeline, range(arguments.num_validation_images), **options)
    image.save_image(image.image_grid(images), samples / f"step_{step:06d}.png")
    if reconstructs(pipeline):
        with eval_mode(pipeline.models().values()):
            reconstructions = reconstruction_grid(pipeline, examples)
        image.save_image(reconstructions, samples / f"reconstructions_{step:06d}.png")


def drawing_options(pipeline: HFGenPipeline, num_inference_steps: int | None) -> dict[str, Any]:
    """Arguments with which sample grids are made; with them a seed gives an image of a grid again."""
    own = dict(pipeline.validation_options)
    return own if num_inference_steps is None else {**own, "num_inference_steps": num_inference_steps}


def pictures(folder: Path, step: int, diagnosis: Mapping[str, Any]) -> dict[str, Image.Image]:
    """Read the pictures that were drawn at a step: sample grid, reconstructions, and what the diagnosis shows."""
    names = {"samples": "step", "reconstructions": "reconstructions"}
    names |= {name: name for name in pictured({"diagnosis": diagnosis})}
    files = {title: folder / "samples" / f"{name}_{step:06d}.png" for title, name in names.items()}
    return {title: image.read_image(file) for title, file in files.items() if file.is_file()}


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

    def state_dict(self) -> dict[str, Any]:
        of = {"metric": self.metric, "measured": self.measured}
        return {"value": self.value, "step": self.step, "waited": self.waited, **of}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state of the same metric, measured in the same way; ignore any other."""
        if (state.get("metric"), state.get("measured")) == (self.metric, self.measured):
            self.value, self.step, self.waited = state["value"], state["step"], state["waited"]


def reconstruction_grid(pipeline: HFGenPipeline, examples: Batch, rows: int = 4) -> Any:
    """Draw rows of training images, each above the row of their reconstructions."""
    count = min(rows * COLUMNS, len(examples["pixel_values"]))
    shown = list(evenly_spaced(len(examples["pixel_values"]), count))  # folders are sorted by class
    labels: Tensor | None = examples["class_labels"][shown] if "class_labels" in examples else None
    originals = examples["pixel_values"][shown]
    pairs = [postprocess(x) for x in (originals, pipeline.reconstruct(originals, class_labels=labels))]
    tiles = [tile for start in range(0, count, COLUMNS) for row in pairs for tile in row[start : start + COLUMNS]]
    return image.image_grid(tiles, min(COLUMNS, count))
