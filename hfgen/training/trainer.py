"""The training loop. It knows no family: an objective yields losses, and this steps optimizers."""

import contextlib
import itertools
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from hfgen.data.facts import Facts
from hfgen.data.layout import Layout
from hfgen.errors import Interrupted, UsageError
from hfgen.evaluation.held_out import HeldOut
from hfgen.noise import StepNoise, key, seed_device
from hfgen.objective import Objective, Update
from hfgen.pipeline import HFGenPipeline
from hfgen.processes.child import resume_command, tell_now
from hfgen.processes.world import make_accelerator
from hfgen.registry import modality_of
from hfgen.repository.tied_weights import require_untied
from hfgen.run_folder import Metrics
from hfgen.settings.arguments import TrainingArguments
from hfgen.settings.options import build_objective, objective_options
from hfgen.training import checkpoint, resume_settings
from hfgen.training.averages import decays_of
from hfgen.training.best import Best
from hfgen.training.metrics import Window, require_finite
from hfgen.training.networks import Networks
from hfgen.training.optimizers import backward
from hfgen.training.progress import Progress
from hfgen.training.stop_signal import StopSignal
from hfgen.training.suited import explained, require_suited
from hfgen.training.trackers import Trackers, start_trackers, tracker_names
from hfgen.training.validation import EXAMPLES, Validation

OnStep = Callable[[int, Mapping[str, Any] | None], Any]


class Trainer:
    """Trains a pipeline's components on a dataset, in one process or many.

    Args:
        pipeline: as `HFGenPipeline.build` makes it; trained in place.
        data: the dataset, as `load_images` or the modality found it.
        arguments: the training arguments.
        folder: the run folder; None trains without writing anything.
        options: options of the family's objective.
        held_out: validation data and what is measured on them.

    Attributes:
        networks: the trained networks, with their optimizers, schedules and EMA.
        step: optimizer steps taken so far.
        last_step: the step with which the training ends.

    Raises:
        UsageError: the arguments contradict the data or the machine.
        HFGenError: fewer processes train together than were asked for.
    """

    def __init__(
        self,
        pipeline: HFGenPipeline,
        data: Facts,
        arguments: TrainingArguments,
        folder: Path | None = None,
        options: Mapping[str, Any] | None = None,
        held_out: HeldOut | None = None,
    ) -> None:
        self.pipeline, self.arguments, self.folder, self.held_out = pipeline, arguments, folder, held_out
        self.objective_options = objective_options(type(pipeline), options or {})
        tracker_names(arguments.report_to)  # an unknown one is refused before anything is trained
        self.accelerator = make_accelerator(arguments)
        self.modality = modality_of(pipeline)
        self.progress = Progress(self.accelerator.is_main_process, self.modality.noun)
        self.layout = Layout.of(self.accelerator, arguments)
        self.progress.items_per_step = self.layout.global_batch_size
        given, show = (self.layout, arguments.options, pipeline, self.accelerator.device), self.progress
        self.batches: Any = self.modality.batches(data, *given, show.note, show.decoding)
        self.last_step = arguments.max_train_steps or arguments.num_train_epochs * self.batches.steps_per_epoch
        self.step, self.scheduled_steps, epochs = 0, self.last_step, arguments.validation_epochs
        self.validation_steps = epochs * self.batches.steps_per_epoch if epochs else arguments.validation_steps
        require_untied(pipeline.models())
        self.networks = Networks(pipeline, self.accelerator, arguments, self.scheduled_steps)
        components = self.networks.components()
        self.objective = build_objective(pipeline.objective_class, components, self.objective_options)
        require_suited(self.objective, arguments)
        self.objective.last_step = self.scheduled_steps
        decays_of(self.objective)  # an objective without them is refused before anything is trained
        self.metrics: Metrics | None = None
        self.validation: Validation | None = None  # on the main process
        self.line: Mapping[str, Any] | None = None  # of metrics, if one was written at this step
        self.trackers, self.best = Trackers(), Best.of(arguments)
        objective, trained = type(self.objective).__name__, self.networks.optimizers
        self.window = Window(lambda tensor: self.accelerator.reduce(tensor, "mean"), objective, trained)
        self.saved_step, self.model_step, self.skipped_steps = -1, -1, 0
        self.pending = False  # whether the line and the grid of this step are still to be written
        self.stop = StopSignal()
        self.stopped_by: int | None = None

    # --- the loop -----------------------------------------------------------------------------------------------

    def train(self, on_step: OnStep = lambda step, line: None) -> None:
        """Train to the last step, and save the pipeline.

        Args:
            on_step: called after each step, on every process, with its number and the line of metrics that was
                written at it, or None.

        Raises:
            CheckError: a loss is not finite.
            Interrupted: by a signal (`hfgen.signals`), after a checkpoint.
        """
        try:
            with self.progress.training(self.step, self.last_step):
                for step in self.steps():
                    on_step(step, self.line)
            with StopSignal():  # a signal does not keep what is finished from being saved
                if self.model_step != self.step:
                    self._save_pipeline()
                self._leave()
        except Interrupted as error:
            if self.trackers.running:
                tell_now(error)
            raise
        finally:
            with StopSignal():  # as torchrun sends it, once the other processes have ended
                self.trackers.close()  # last: a slow one may take a minute

    def steps(self) -> Generator[int, None, None]:
        """Run the loop; yield the number of each optimizer step when its metrics, grid and checkpoint are written."""
        self.window.start()
        a, self.stop = self.arguments, StopSignal(self.arguments.seconds_limit)
        if self.folder is not None and self.accelerator.is_main_process:
            self.metrics = Metrics(self.folder, self.step - self.pending)
            self.trackers = start_trackers(a.report_to, self.folder, self.step, self.progress.note)
            seen = self.held_out, self.trackers, self.progress
            self.validation = Validation(a, self.folder, self.stop, self.best, *seen)
        with self.stop as stop:
            if self.pending:  # the run was killed, or stopped, while it drew
                self._finish_step()
                self._stop_if_asked()
            alone = self.layout.num_processes == 1  # it may leave at a signal while data keep it waiting
            batches = self.batches.steps(self.step, self.last_step, lambda: alone and bool(stop.number))
            for micro_batches in self.window.waiting_for(batches):
                with self.networks.synchronized():
                    self.train_step(micro_batches)
                self.step += 1
                self._look_at_signals()
                self._account()
                self._stop_if_asked()
                yield self.step
                if self.step == self.last_step:  # reached, or moved here by a limit
                    return
            self._look_at_signals()  # the data ended, at a signal
            self._stop_if_asked()

    def train_step(self, micro_batches: list[dict[str, Tensor]]) -> None:
        """Step every optimizer that the objective yields.

        The micro-batches advance together: each optimizer steps on the mean gradient of all of them before any goes
        on to its next loss. So k accumulated micro-batches equal one batch, for alternating objectives too.
        """
        # Of Accelerate's accumulation only the division of the loss is used; its state is one for the whole process.
        self.accelerator.gradient_accumulation_steps = len(micro_batches)
        if self.step == 0:
            self._initialize(micro_batches)
        settings = self.arguments.seed, self.step
        where = self.layout.global_batch_size, self.accelerator.device
        noises = [StepNoise(*settings, self.layout.rows(micro), *where) for micro in range(len(micro_batches))]
        seed = key(self.arguments.seed, "dropout", self.step, self.accelerator.process_index)
        seed_device(self.accelerator.device, seed)
        self.objective.step, self.objective.num_micro_batches = self.step, len(micro_batches)
        self.networks.schedules.apply(self.objective.optimizer_settings(self.networks.schedules.given))
        running = [self.objective.training_step(batch) for batch in micro_batches]
        for self.objective.update in itertools.count():
            with explained(self.arguments):
                components = self._backward(running, noises)
            if not components:
                break
            self.skipped_steps += not self.networks.step(components, self.objective.update)
        self.window.add(self.objective.finish_step(), "returns from finish_step")
        self.networks.finish_step(self.objective)

    def _initialize(self, micro_batches: list[dict[str, Tensor]]) -> None:
        """Initialize what depends on data, from all micro-batches of the first step together."""
        device = self.accelerator.device
        batch = {name: torch.cat([micro[name] for micro in micro_batches]) for name in micro_batches[0]}
        noise = StepNoise(self.arguments.seed, 0, self.layout.all_rows(device), self.layout.global_batch_size, device)
        self.networks.initialize(batch, noise)

    def _backward(self, running: list[Iterator[Update]], noises: list[StepNoise]) -> tuple[str, ...]:
        """Advance each micro-batch to its next loss and accumulate gradients.

        Returns:
            the components to step; none when the objective has yielded its last loss.
        """
        components: tuple[str, ...] = ()
        accumulating = len(running) > 1  # DDP reduces gradients once, in the backward pass of the last micro-batch
        for micro, training_step in enumerate(running):
            self.objective.noise, self.objective.micro_batch = noises[micro], micro
            last = micro == len(running) - 1
            with self.networks.unreduced(accumulating):
                update = next(training_step, None)
                if update is None:
                    continue
                update.require_known(self.networks.optimizers)
                with self.networks.reduced(update.components if accumulating and last else ()):
                    backward(update.loss, self.accelerator, last)
            components = update.components
            self.window.add_update(update)
        return components

    # --- what is due after a step -------------------------------------------------------------------------------

    def _account(self) -> None:
        """Write metrics, sample grid and checkpoint, each when it is due."""
        self.window.steps += 1
        self.line, a = None, self.arguments
        checkpoint_due, grid_due = self._due()
        self.pending = checkpoint_due or grid_due or self.step == self.last_step or self.step % a.logging_steps == 0
        if self.pending:
            self._finish_step()
        self.progress.advance(self.step)

    def _due(self) -> tuple[bool, bool]:
        """Return whether this step ends with a checkpoint, and whether with a grid."""
        every, last = self.arguments.checkpointing_steps, self.step == self.last_step
        checkpoint_due = every > 0 and (last or self.step % every == 0)
        return checkpoint_due, last or (self.validation_steps > 0 and self.step % self.validation_steps == 0)

    def _finish_step(self) -> None:
        """Write what is pending of this step: the weights, then what is drawn of them, then the line of metrics.

        A signal ends the drawing; a run that was stopped or killed there makes up for it when it is resumed.
        """
        checkpoint_due, grid_due = self._due()
        values, speed = self.window.means(), self.window.steps_per_second() * self.layout.global_batch_size
        require_finite(values, self.step, self.window.steps, self.folder)
        if checkpoint_due:
            self._save_checkpoint()
        if self.step == self.last_step:
            self._save_pipeline()
        self.progress.report(self.step, values, speed)
        shown = self._validate() if values and grid_due else {}
        if shown is None:
            return
        self.pending = False
        self.window.restart()
        if values:
            self._write_line(values, speed, shown)
        if grid_due and self.best.is_hopeless and self.step < self.last_step:
            self._end_here(self.best.why_hopeless)
            if self.arguments.checkpointing_steps:
                self._save_checkpoint()
        self._complete_checkpoint()

    def _end_here(self, why: str) -> None:
        self.last_step = self.step
        self.progress.note(f"the training ends with step {self.step} of {self.scheduled_steps}: {why}")

    def _write_line(self, values: Mapping[str, float], speed: float, shown: Mapping[str, Any]) -> None:
        self.line = {
            "step": self.step,
            "epoch": round(self.batches.epochs(self.step), 4),
            **values,
            **self.networks.schedules.rates(),
            f"{self.modality.noun[1]}_per_second": round(speed, 2),
            **self.window.times(),
            **({} if self.accelerator.scaler is None else {"skipped_steps": self.skipped_steps}),
            **shown,
        }
        if self.metrics is not None:
            with self._saving("metrics"):
                self.metrics.write(self.line)
        self.trackers.log(self.line)
        self.progress.report_measured(self.line, self.best.words)

    def _require_finite_weights(self) -> None:
        if (name := self.networks.not_finite()) is not None:
            require_finite({f"a weight of the {name}": float("nan")}, self.step, self.window.steps, self.folder)

    def _validate(self) -> dict[str, Any] | None:
        """Draw, diagnose and measure on the main process; the others wait for what it found.

        Returns:
            None where a signal came before the end.
        """
        found: list[dict[str, Any] | int] = [{}]  # or the signal
        with self.networks.averaged() as pipeline:
            if self.validation is not None:
                with self._saving("sample grid"):
                    found = [self.validation.look(pipeline, self.batches.examples(EXAMPLES), self.step)]
        if self.layout.num_processes > 1:
            broadcast_object_list(found)
        if isinstance(found[0], int):
            self.stopped_by = found[0]
            return None
        self.best.take(self.step, found[0])
        return found[0]

    # --- saving and resuming ------------------------------------------------------------------------------------

    def _save_checkpoint(self) -> None:
        if self.folder is None or self.saved_step == self.step:
            return
        self._require_finite_weights()
        self.saved_step = self.step
        self.networks.share_buffers()
        with self.networks.gathered():
            tensors, state = self.networks.tensors(), self.state()
            if self.accelerator.is_main_process:
                with self._saving("checkpoint"):
                    written = checkpoint.save_checkpoint(self.folder, self.pipeline, tensors, state)
                checkpoint.delete_old(written, self.arguments.checkpoints_total_limit)
        self.accelerator.wait_for_everyone()

    def _complete_checkpoint(self) -> None:
        """Say in the checkpoint of this step that its line of metrics is written."""
        if self.folder is not None and self.saved_step == self.step and self.accelerator.is_main_process:
            state = {"pending": False, "window": self.window.state_dict(), "best": self.best.state_dict()}
            with self._saving("checkpoint"):
                checkpoint.complete(checkpoint.place_of(self.folder, self.step), state)

    def _save_pipeline(self) -> None:
        self._require_finite_weights()
        self.model_step = self.step
        self.networks.share_buffers()
        with self.networks.averaged() as pipeline:
            if self.folder is not None and self.accelerator.is_main_process:
                with self._saving("model"):
                    pipeline.save_pretrained(self.folder)
        for profile in list(self.networks.profiles)[1:]:
            with self.networks.averaged(profile) as pipeline:
                if self.folder is not None and self.accelerator.is_main_process:
                    with self._saving(f"average {profile}"):
                        pipeline.save_pretrained(self.folder / "ema" / profile)
        self.accelerator.wait_for_everyone()

    def _leave(self) -> None:
        """Release DDP's wrappers before the process group is destroyed: one that still holds it can hang at exit."""
        self.networks.release()
        self.objective = Objective()
        self.accelerator.free_memory()
        self.accelerator.end_training()

    def resume(self, place: Path) -> None:
        """Go on from a checkpoint: weights, EMA, optimizers, step. Data order and noise follow from the step.

        Raises:
            HFGenError: the checkpoint is damaged.
            UsageError: it is of another model, other settings, or beyond the last step.
        """
        state, changed = checkpoint.load_checkpoint(place, self.networks, self.state())
        self.load_state(state)
        if self.folder is not None and place.resolve() == checkpoint.place_of(self.folder, self.step).resolve():
            self.saved_step = self.step
        for line in changed:
            self.progress.note(line)
        if self.best.is_hopeless and self.step < self.last_step and not self.pending:
            self._end_here(self.best.why_hopeless)
        if self.step > self.last_step:
            raise UsageError(f"{place} is beyond the last step, {self.last_step}; give more --max_train_steps.")

    def _saving(self, what: str) -> contextlib.AbstractContextManager[None]:
        assert self.folder is not None
        return checkpoint.saving(f"{what} of step {self.step}", self.folder, self._resume_command)

    @property
    def _resume_command(self) -> str:
        return resume_command(self.arguments, self.folder or Path(), self.layout.num_processes)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside tensors; every process must call it."""
        scaler, count = self.accelerator.scaler, self.batches.facts.count
        return {
            "step": self.step,
            "settings": resume_settings.settings_of(
                self.arguments, self.pipeline, self.objective_options, self.layout, count, self.scheduled_steps
            )
            | {"follows_last_step": self.networks.schedules.move or self.objective.reads_last_step},
            "window": self.window.state_dict(),
            "skipped_steps": self.skipped_steps,
            "component_steps": self.networks.schedules.counts,
            "best": self.best.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "data": self.batches.state_dict(),
            "pending": self.pending,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over the `state()` of a checkpoint, whose tensors the networks hold already."""
        self.step, self.skipped_steps = state["step"], state["skipped_steps"]
        self.window.load_state_dict(state["window"], self.accelerator.device)
        self.best.load_state_dict(state["best"])
        self.batches.load_state_dict(state["data"])
        self.pending = state.get("pending", False)
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    # --- stopping early -----------------------------------------------------------------------------------------

    def _look_at_signals(self) -> None:
        """Note if a signal came or the time is up, in any process: all must stop after the same step."""
        found = self.stop.agreed(self.step, self.layout.num_processes, self.accelerator.device)
        if found is not None:
            self.stopped_by, time_is_up = found
            if time_is_up and self.step < self.last_step:
                self._end_here(f"--time_limit {self.arguments.time_limit}")

    def _stop_if_asked(self) -> None:
        if self.stopped_by is None or (self.step == self.last_step and not self.pending):
            return
        require_finite(self.window.means(), self.step, self.window.steps, self.folder)
        self._save_checkpoint()
        go_on = f"a checkpoint was saved. Go on with:\n  {self._resume_command}"
        saved = go_on if self.folder else "nothing was saved."
        raise Interrupted(f"Stopped at step {self.step} of {self.last_step}; {saved}", self.stopped_by)
