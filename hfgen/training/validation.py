"""Validation during a training: sample grid, reconstructions, the family's diagnosis, and what is measured."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from hfgen.data.facts import evenly_spaced
from hfgen.errors import CheckError
from hfgen.evaluation.drawing import draw
from hfgen.evaluation.held_out import HeldOut
from hfgen.evaluation.measure import reconstruction_options
from hfgen.modalities import image
from hfgen.modality import Modality
from hfgen.objective import Batch
from hfgen.pipeline import HFGenPipeline, reconstructs
from hfgen.registry import modality_of
from hfgen.run_folder import pictured
from hfgen.settings.arguments import TrainingArguments
from hfgen.training.best import Best
from hfgen.training.progress import Progress
from hfgen.training.shown import line_of, write_pictures
from hfgen.training.stop_signal import Stopped, StopSignal, TimeUp
from hfgen.training.trackers import Trackers
from hfgen.wrappers import eval_mode

EXAMPLES = 500  # training images of a diagnosis, as Burda et al. 2016 take for active units
SHARE, LEAST = 0.1, 30.0  # of the training's time, and seconds, for reconstructions and diagnosis
Found = TypeVar("Found")
MOST = 32  # reconstructions


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
        self.trackers.log_previews(previews(modality_of(pipeline), self.folder, step, diagnosis), step)
        self.trackers.log_tables(diagnosis.get("tables", {}), step)
        for warning in diagnosis.get("warnings", ()):
            self.progress.note(warning)
        found: dict[str, Any] = {"diagnosis": diagnosis} if diagnosis else {}
        if self.held_out is not None:
            with self._part("measuring on validation data", step):
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
            if shows_reconstructions(pipeline):
                self._bounded(
                    f"reconstructing {modality_of(pipeline).noun[1]}",
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
        seeds = range(self.arguments.num_validation_images)
        items = draw(pipeline, seeds, **options)
        modality_of(pipeline).write_preview(items, seeds, samples / f"step_{step:06d}")

    def _draw_reconstructions(self, pipeline: HFGenPipeline, examples: Batch, samples: Path, step: int) -> None:
        options, taken = drawing_options(pipeline, self.arguments.num_inference_steps), type(pipeline)
        options = {name: options[name] for name in options.keys() & reconstruction_options(taken)}
        modality, most = modality_of(pipeline), min(self.arguments.num_validation_images, MOST)
        originals, others = reconstructed(pipeline, examples, most, **options)
        modality.write_reconstructions(originals, others, pipeline, samples / f"reconstructions_{step:06d}")


def shows_reconstructions(pipeline: HFGenPipeline) -> bool:
    """Return True if the family reconstructs items, and its modality has a way to show them."""
    written = type(modality_of(pipeline)).write_reconstructions is not Modality.write_reconstructions
    return written and reconstructs(pipeline)


def drawing_options(pipeline: HFGenPipeline, num_inference_steps: int | None) -> dict[str, Any]:
    """Arguments with which sample grids are made; with them a seed gives an image of a grid again."""
    own = dict(pipeline.validation_options)
    return own if num_inference_steps is None else {**own, "num_inference_steps": num_inference_steps}


def previews(modality: Modality, folder: Path, step: int, diagnosis: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Read what was drawn at a step: kind (image, text ...) -> title -> samples, reconstructions, a diagnosis's.

    Pictures of a diagnosis are images, whatever is generated.
    """
    names, found = {"samples": "step", "reconstructions": "reconstructions"}, dict[str, dict[str, Any]]()
    for title, name in names.items():
        for kind, content in modality.previews(folder / "samples" / f"{name}_{step:06d}").items():
            found.setdefault(kind, {})[title] = content
    files = {name: folder / "samples" / f"{name}_{step:06d}.png" for name in pictured({"diagnosis": diagnosis})}
    shown = {title: image.read_image(file) for title, file in files.items() if file.is_file()}
    return found | ({"image": {**found.get("image", {}), **shown}} if shown else {})


def reconstructed(pipeline: HFGenPipeline, examples: Batch, most: int, **options: Any) -> tuple[Tensor, Tensor]:
    """Return at most `most` training items, evenly spaced, and their reconstructions.

    Args:
        options: of the family's `reconstruct`.
    """
    items = examples[modality_of(pipeline).batch_key]
    shown = list(evenly_spaced(len(items), min(most, len(items))))  # folders are sorted by class
    labels: Tensor | None = examples["class_labels"][shown] if "class_labels" in examples else None
    return items[shown], pipeline.reconstruct(items[shown], class_labels=labels, **options)
