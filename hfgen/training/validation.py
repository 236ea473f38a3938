"""Validation during a training: sample grid, reconstructions, the family's diagnosis, and what is measured."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from hfgen.components import eval_mode
from hfgen.data.looks import evenly_spaced
from hfgen.errors import CheckError
from hfgen.evaluation.held_out import HeldOut
from hfgen.evaluation.measure import reconstruction_options
from hfgen.modalities import image
from hfgen.modalities.image import postprocess
from hfgen.objective import Batch
from hfgen.pipeline import HFGenPipeline, reconstructs
from hfgen.run_folder import pictured
from hfgen.settings.arguments import TrainingArguments
from hfgen.training.best import Best
from hfgen.training.progress import Progress
from hfgen.training.shown import line_of, write_pictures
from hfgen.training.stop_signal import Stopped, StopSignal, TimeUp
from hfgen.training.trackers import Trackers

EXAMPLES = 500  # training images of a diagnosis, as Burda et al. 2016 take for active units
SHARE, LEAST = 0.1, 30.0  # of the training's time, and seconds, for reconstructions and diagnosis
Found = TypeVar("Found")
ROWS, COLUMNS = 4, 8  # of a sheet of reconstructions


class Validation:
    """Draws, diagnoses and measures the model of a step, in the main process.

    Args:
        arguments: the training arguments.
        folder: the run folder.
        stop: its signal ends a validation at once.
        best: the best metric so far; the model that is better is saved.
        held_out: validation images and what is measured on them.
        trackers: they get the pictures and tables.
        progress: shows what takes long.
    """

    def __init__(
        self,
        arguments: TrainingArguments,
        folder: Path,
        stop: StopSignal,
        best: Best,
        held_out: HeldOut | None,
        trackers: Trackers,
        progress: Progress,
    ) -> None:
        self.arguments, self.folder, self.stop, self.best = arguments, folder, stop, best
        self.held_out, self.trackers, self.progress = held_out, trackers, progress
        limit = arguments.seconds_limit
        self.began, self.spent = time.monotonic(), 0.0
        self.least = LEAST if limit is None else min(LEAST, SHARE * limit)
        self.cut: dict[str, float] = {}  # part -> the seconds that were too few for it

    @torch.no_grad()
    def look(self, pipeline: HFGenPipeline, examples: Batch, step: int) -> dict[str, Any] | int:
        """Draw, diagnose and measure; keep the best model.

        Args:
            examples: training images, the same at every step.

        Returns:
            what was found, as a line of metrics holds it; or the signal that came before the end.
        """
        began = time.monotonic()
        try:
            return self._look(pipeline, examples, step)
        except Stopped as stopped:
            return stopped.number
        finally:
            self.stop.reserve = max(self.stop.reserve, time.monotonic() - began)

    def _look(self, pipeline: HFGenPipeline, examples: Batch, step: int) -> dict[str, Any]:
        with eval_mode(pipeline.models().values()):
            diagnosis = self._diagnosis(pipeline, examples, step)
        self.trackers.log_images(pictures(self.folder, step, diagnosis), step)
        self.trackers.log_tables(diagnosis.get("tables", {}), step)
        for warning in diagnosis.get("warnings", ()):
            self.progress.note(warning)
        found: dict[str, Any] = {"diagnosis": diagnosis} if diagnosis else {}
        if self.held_out is not None:
            with self._part("measuring on validation images", step):
                options = drawing_options(pipeline, self.arguments.num_inference_steps)
                found |= self.held_out.measure(pipeline, options)
        if self.best.would_be(found):
            pipeline.save_pretrained(self.folder / "best")
        return found

    def _diagnosis(self, pipeline: HFGenPipeline, examples: Batch, step: int) -> dict[str, Any]:
        """Draw the pictures, and run the family's diagnosis; a warning where sampled images are invalid."""
        objective, samples = pipeline.objective_class.__name__, self.folder / "samples"
        try:
            with self._part("sampling a grid", step):
                self._draw_grid(pipeline, samples, step)
            if reconstructs(pipeline):
                self._bounded(
                    "reconstructing images",
                    step,
                    lambda: self._draw_reconstructions(pipeline, examples, samples, step),
                )
            found = self._bounded("diagnosing", step, lambda: pipeline.objective_class.diagnose(pipeline, examples))
            line = {} if found is None else line_of(found, objective)
            if found is not None:
                write_pictures(found, samples, step, objective)
        except CheckError as error:  # a sampled image is invalid; losses and weights are checked elsewhere
            return {"warnings": [str(error)]}
        return line

    def _bounded(self, what: str, step: int, act: Callable[[], Found]) -> Found | None:
        """Do what nobody asked for in a small part of the training's time, or leave it out and say so."""
        began = time.monotonic()
        allowed = max(self.least, SHARE * (began - self.began) - self.spent)
        if allowed < 2 * self.cut.get(what, 0.0):
            return None  # it would be cut again
        try:
            with self._part(what, step), self.stop.within(allowed):
                return act()
        except TimeUp:
            self.cut[what] = allowed
            self.progress.note(
                f"{what} of step {step} took more than {allowed:.3g} s and was left out; it is tried again when a "
                "tenth of the training's time is enough for twice as long"
            )
            return None
        finally:
            self.spent += time.monotonic() - began

    @contextlib.contextmanager
    def _part(self, what: str, step: int) -> Iterator[None]:
        with self.progress.doing(f"{what} of step {step}"), self.stop.at_once():
            yield

    def _draw_grid(self, pipeline: HFGenPipeline, samples: Path, step: int) -> None:
        options = drawing_options(pipeline, self.arguments.num_inference_steps)
        images = image.draw(pipeline, range(self.arguments.num_validation_images), **options)
        image.save_image(image.image_grid(images), samples / f"step_{step:06d}.png")

    def _draw_reconstructions(self, pipeline: HFGenPipeline, examples: Batch, samples: Path, step: int) -> None:
        options, taken = drawing_options(pipeline, self.arguments.num_inference_steps), type(pipeline)
        options = {name: options[name] for name in options.keys() & reconstruction_options(taken)}
        drawn = reconstruction_grid(pipeline, examples, self.arguments.num_validation_images, **options)
        image.save_image(drawn, samples / f"reconstructions_{step:06d}.png")


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


def reconstruction_grid(pipeline: HFGenPipeline, examples: Batch, most: int, **options: Any) -> Image.Image:
    """Draw rows of training images, each above the row of their reconstructions.

    Args:
        most: images to show, if the examples are as many; at most 32 are.
        options: of the family's `reconstruct`.
    """
    count = min(most, ROWS * COLUMNS, len(examples["pixel_values"]))
    shown = list(evenly_spaced(len(examples["pixel_values"]), count))  # folders are sorted by class
    labels: Tensor | None = examples["class_labels"][shown] if "class_labels" in examples else None
    originals = examples["pixel_values"][shown]
    pairs = [postprocess(x) for x in (originals, pipeline.reconstruct(originals, class_labels=labels, **options))]
    tiles = [tile for start in range(0, count, COLUMNS) for row in pairs for tile in row[start : start + COLUMNS]]
    return image.image_grid(tiles, min(COLUMNS, count))
