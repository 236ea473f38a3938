"""The training loop. It knows no family: an objective yields losses, and this steps optimizers."""

import contextlib
import copy
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, broadcast_object_list
from torch import Tensor, nn

from hfgen.data.images import ImageFacts
from hfgen.data.layout import Layout
from hfgen.data.training_batches import make_batches
from hfgen.errors import Interrupted, UsageError
from hfgen.evaluation.held_out import HeldOut
from hfgen.noise import StepNoise, key, seed_device
from hfgen.objective import Objective, Update
from hfgen.pipeline import HFGenPipeline, drawing_options
from hfgen.processes import replicas, zero
from hfgen.processes.batch_norm import batch_norms, synchronized
from hfgen.processes.child import resume_command, tell_now
from hfgen.processes.shards import fill_state, gathered
from hfgen.processes.world import make_accelerator, without_autocast
from hfgen.run_folder import Metrics
from hfgen.settings.arguments import TrainingArguments
from hfgen.settings.options import build_objective, objective_options
from hfgen.training import checkpoint, resume_settings
from hfgen.training.ema import ModelEMA
from hfgen.training.metrics import Window, finite, require_finite
from hfgen.training.optimizers import backward, make_lr_scheduler, make_optimizer, prepare, set_step, step_together
from hfgen.training.progress import Progress
from hfgen.training.stop_signal import StopSignal
from hfgen.training.trackers import Trackers, start_trackers, tracker_names
from hfgen.training.validation import EXAMPLES, Best, pictures, validate

STEPS_TO_AGREE = 10  # on accelerators, between two looks at whether another process was told to stop


class Trainer:
    """Trains a pipeline's components on images, in one process or many.

    Args:
        pipeline: as `HFGenPipeline.build` makes it; trained in place.
        images: the data, as `load_images` found them.
        arguments: the training arguments.
        folder: the run folder; None trains without writing anything.
        options: of the family's objective.
        held_out: what is measured, at each validation, on images that are not trained on.

    Attributes:
        networks: what is trained: the pipeline's own components, or their shards.
        models: the same as Accelerate prepared them; the objective calls these.

    Raises:
        UsageError: the arguments contradict the data or the machine.
        HFGenError: another number of processes than was asked for.
    """

    def __init__(
        self,
        pipeline: HFGenPipeline,
        images: ImageFacts,
        arguments: TrainingArguments,
        folder: Path | None = None,
        options: Mapping[str, Any] | None = None,
        held_out: HeldOut | None = None,
    ) -> None:
        self.pipeline, self.arguments, self.folder, self.held_out = pipeline, arguments, folder, held_out
        self.objective_options = objective_options(type(pipeline), options or {})
        tracker_names(arguments.report_to)  # an unknown one is refused before anything is trained
        self.accelerator = make_accelerator(arguments)
        self.sharded = self.accelerator.distributed_type == DistributedType.FSDP
        self.replicated = not self.sharded and self.accelerator.distributed_type != DistributedType.DEEPSPEED
        self.progress = Progress(self.accelerator.is_main_process)
        self.layout = Layout.of(self.accelerator, arguments)
        self.batches = make_batches(
            images, self.layout, arguments, self.accelerator.device, self.progress.note, self.progress.decoding
        )
        self.last_step = arguments.max_train_steps or arguments.num_train_epochs * self.batches.steps_per_epoch
        self.step, self.scheduled_steps, epochs = 0, self.last_step, arguments.validation_epochs
        self.validation_steps = epochs * self.batches.steps_per_epoch if epochs else arguments.validation_steps
        self._prepare_models()
        self.emas = {
            name: ModelEMA(self.networks[name], arguments.ema_decay, arguments.ema_power, arguments.ema_inv_gamma)
            for name in pipeline.ema_components
            if arguments.use_ema and name in self.networks
        }
        self.metrics: Metrics | None = None
        self.trackers, self.best = Trackers(), Best.of(arguments)
        self.window = Window(lambda tensor: self.accelerator.reduce(tensor, "mean"))
        self.saved_step, self.skipped_steps, self.checked = -1, 0, set[str]()
        self.stopped_by: int | None = None

    def _prepare_models(self) -> None:
        """Each network is prepared on its own: one DDP wrapper round two would expect both to step together."""
        components = dict(self.pipeline.components)
        self.networks: dict[str, nn.Module] = {}
        self.models: dict[str, nn.Module] = {}
        self.optimizers: dict[str, Any] = {}
        self.lr_schedulers: list[Any] = []
        models = self.pipeline.models()
        trained = [name for name, model in models.items() if any(p.requires_grad for p in model.parameters())]
        zero.require_one_network(self.accelerator, trained)
        for name, model in models.items():
            if name not in trained:
                model.to(self.accelerator.device)  # a network that is used as it is
                continue
            # Shards change a network's class, which saved files name: the pipeline keeps a whole one.
            network: nn.Module = copy.deepcopy(model) if self.sharded else model
            last = self.arguments.channels_last and self.replicated
            network.to(memory_format=torch.channels_last if last else torch.contiguous_format)  # type: ignore[call-overload]
            network.train()
            optimizer = make_optimizer(network, self.arguments)
            self.lr_schedulers.append(make_lr_scheduler(optimizer, self.arguments, self.scheduled_steps))
            self.networks[name] = network
            prepared, self.optimizers[name] = prepare(self.accelerator, network, optimizer, self.arguments)
            self.models[name] = components[name] = prepared
        synchronize = self.arguments.sync_batch_norm and self.layout.num_processes > 1
        self.synchronized = batch_norms(self.networks.values()) if synchronize else []
        self.objective = build_objective(self.pipeline.objective_class, components, self.objective_options)

    # --- the loop -----------------------------------------------------------------------------------------------

    def train(self, on_step: Callable[[], None] = lambda: None) -> None:
        """Train to the last step, with a call after each; then draw the final grid and save the pipeline.

        Raises:
            CheckError: a loss is not finite.
            Interrupted: SIGINT or SIGTERM, after a checkpoint.
        """
        try:
            with self.progress.training(self.step, self.last_step):
                for _ in self.steps():
                    on_step()
            with StopSignal():  # what is finished is saved whole, signal or not
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
        """The loop itself: yields the number of each optimizer step after it was taken and accounted for."""
        self.window.start()
        if self.folder is not None and self.accelerator.is_main_process:
            self.metrics = Metrics(self.folder, resumed_step=self.step)
            self.trackers = start_trackers(self.arguments.report_to, self.folder, self.step, self.progress.note)
        with StopSignal(self.arguments.seconds_limit) as stop:
            alone = self.layout.num_processes == 1  # then it may leave at a signal while data keep it waiting
            for micro_batches in self.batches.steps(self.step, self.last_step, lambda: alone and bool(stop.number)):
                with synchronized(self.synchronized):
                    self.train_step(micro_batches)
                self.step += 1
                self._look_at(stop)
                self._account()
                self._stop_if_asked()
                yield self.step
                if self.step == self.last_step:  # reached, or moved here by a limit
                    return
            self._look_at(stop)  # the data ended, at a signal
            self._stop_if_asked()

    def train_step(self, micro_batches: list[dict[str, Tensor]]) -> None:
        """One step of every optimizer that the objective yields.

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
        self.objective.step = self.step
        running = [self.objective.training_step(batch) for batch in micro_batches]
        while components := self._backward(running, noises):
            self._optimize(components)
        self.window.add(self.objective.finish_step())
        for lr_scheduler in self.lr_schedulers if self.arguments.lr_scheduler != "constant" else ():
            lr_scheduler.step()
        for ema in self.emas.values():
            ema.step()

    def _initialize(self, micro_batches: list[dict[str, Tensor]]) -> None:
        """What depends on data before the first step; averages start from there."""
        device = self.accelerator.device
        batch = {name: torch.cat([micro[name] for micro in micro_batches]) for name in micro_batches[0]}
        noise = StepNoise(self.arguments.seed, 0, self.layout.all_rows(device), self.layout.global_batch_size, device)
        with contextlib.ExitStack() as stack, torch.no_grad():
            for model in self.pipeline.models().values():
                stack.enter_context(without_autocast(model.to(device)))
            self.pipeline.objective_class.initialize(self.pipeline, batch, noise)
        for name, network in self.networks.items() if self.sharded else ():
            fill_state(network, self.pipeline.models()[name].state_dict())
        for ema in self.emas.values():
            ema.restart()

    def _backward(self, running: list[Iterator[Update]], noises: list[StepNoise]) -> tuple[str, ...]:
        """Advance each micro-batch to its next loss, accumulate gradients; the components to step, none at the end."""
        components: tuple[str, ...] = ()
        delayed = len(running) > 1 and self.replicated  # the reduction of DDP, up to the last micro-batch
        for micro, training_step in enumerate(running):
            self.objective.noise = noises[micro]
            with contextlib.ExitStack() as stack:
                stack.enter_context(replicas.unreduced(self.accelerator, self.models.values() if delayed else ()))
                update = next(training_step, None)
                if update is None:
                    continue
                update.require_known(self.optimizers)
                names = update.components if delayed and micro == len(running) - 1 else ()
                stack.enter_context(replicas.reduced(self.accelerator, [self.models[name] for name in names]))
                backward(update.loss, self.accelerator, last=micro == len(running) - 1)
            components = update.components
            self.window.add({update.loss_name: update.loss, **update.metrics})
        return components

    def _optimize(self, components: tuple[str, ...]) -> None:
        if self.layout.num_processes > 1 and self.replicated:
            for name in (name for name in components if name not in self.checked):  # once: at the start
                replicas.require_equal_gradients(name, self.networks[name], self.accelerator.device)
                self.checked.add(name)
        optimizers = [self.optimizers[name] for name in components]
        stepped = step_together(optimizers, self.accelerator.scaler, self.arguments.max_grad_norm)
        self.skipped_steps += not stepped
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()

    # --- what is due after a step -------------------------------------------------------------------------------

    def _account(self) -> None:
        """Metrics, sample grid, checkpoint, each when it is due; nothing is written of a loss that is not finite."""
        a = self.arguments
        self.window.steps += 1
        last = self.step == self.last_step
        grid_due = last or (self.validation_steps and self.step % self.validation_steps == 0)
        checkpoint_due = a.checkpointing_steps and (last or self.step % a.checkpointing_steps == 0)
        if last or checkpoint_due or grid_due or self.step % a.logging_steps == 0:
            self._write_metrics(validating=bool(grid_due))
        if grid_due and self.best.is_hopeless and not last:
            self._end_here(self.best.why_hopeless)
        if checkpoint_due or (a.checkpointing_steps and self.step == self.last_step):
            self._require_finite_weights()
            self._save_checkpoint()
        self.progress.advance(self.step)

    def _end_here(self, why: str) -> None:
        self.last_step = self.step
        self.progress.note(f"the training ends with step {self.step} of {self.scheduled_steps}: {why}")

    def _write_metrics(self, validating: bool = False) -> None:
        values = self.window.means()
        if not values:
            return
        require_finite(values, self.step, self.window.steps, self.folder)
        speed = self.window.steps_per_second() * self.layout.global_batch_size
        shown = self._validate() if validating else {}
        self.window.restart()
        line = {
            "step": self.step,
            "epoch": round(self.batches.epochs(self.step), 4),
            **values,
            "learning_rate": self.lr_schedulers[0].get_last_lr()[0],
            "images_per_second": round(speed, 2),
            "seconds": round(self.window.seconds, 3),
            **({} if self.accelerator.scaler is None else {"skipped_steps": self.skipped_steps}),
            **shown,
        }
        if self.metrics is not None:
            with self._saving("metrics"):
                self.metrics.write(line)
        self.trackers.log(line)
        self.progress.report(line)

    def _require_finite_weights(self) -> None:
        for name, network in self.networks.items():
            if not finite(network, self.accelerator.device if self.sharded else None):
                require_finite({f"a weight of the {name}": float("nan")}, self.step, self.window.steps, self.folder)

    def _validate(self) -> dict[str, Any]:
        """Pictures, diagnosis and measurements, on the main process; the others wait for what it found."""
        found: list[dict[str, Any]] = [{}]
        with self.averaged() as pipeline:
            if self.folder is not None and self.accelerator.is_main_process:
                found = [self._look(pipeline, self.folder)]
        if self.layout.num_processes > 1:
            broadcast_object_list(found)
        self.best.take(self.step, found[0])
        return found[0]

    @torch.no_grad()
    def _look(self, pipeline: HFGenPipeline, folder: Path) -> dict[str, Any]:
        with self._saving("sample grid"):
            diagnosis = validate(pipeline, self.batches.examples(EXAMPLES), folder, self.step, self.arguments)
        self.trackers.log_images(pictures(folder, self.step), self.step)
        for warning in diagnosis.get("warnings", ()):
            self.progress.note(warning)
        found: dict[str, Any] = {"diagnosis": diagnosis} if diagnosis else {}
        if self.held_out is not None:
            found |= self.held_out.measure(pipeline, drawing_options(pipeline, self.arguments.num_inference_steps))
        if self.best.would_be(found):
            with self._saving("best model"):
                pipeline.save_pretrained(folder / "best")
        return found

    @contextlib.contextmanager
    def averaged(self) -> Iterator[HFGenPipeline]:
        """Within, the pipeline is the one to sample from: averaged weights, their statistics, full precision.

        Every process must enter it: shards are gathered. The statistics are the main process's.
        """
        with contextlib.ExitStack() as stack:
            for model in self.pipeline.models().values():
                stack.enter_context(without_autocast(model))
            stack.enter_context(gathered(self.networks if self.sharded else {}, self.pipeline.models(), self.emas))
            for ema in () if self.sharded else self.emas.values():
                stack.enter_context(ema.applied())
            if self.emas and self.accelerator.is_main_process:
                self.pipeline.objective_class.refresh_statistics(self.pipeline)
            yield self.pipeline

    # --- saving and resuming ------------------------------------------------------------------------------------

    def _save_checkpoint(self) -> None:
        if self.folder is None or self.saved_step == self.step:
            return
        self.saved_step = self.step
        replicas.share_buffers(self.networks.values(), self.layout.num_processes)
        with gathered(self.networks if self.sharded else {}, self.pipeline.models()):
            tensors, state = checkpoint.tensors_of(self), self.state()
            if self.accelerator.is_main_process:
                with self._saving("checkpoint"):
                    written = checkpoint.save_checkpoint(self.folder, self.pipeline, tensors, state)
                checkpoint.delete_old(written, self.arguments.checkpoints_total_limit)
        self.accelerator.wait_for_everyone()

    def _save_pipeline(self) -> None:
        self._require_finite_weights()
        replicas.share_buffers(self.networks.values(), self.layout.num_processes)
        with self.averaged() as pipeline:
            if self.folder is not None and self.accelerator.is_main_process:
                with self._saving("model"):
                    pipeline.save_pretrained(self.folder)
        self.accelerator.wait_for_everyone()

    def _leave(self) -> None:
        """Let go of DDP's wrappers before the process group is destroyed: what still holds it can hang at exit."""
        self.models, self.objective = {}, Objective()
        self.accelerator.free_memory()
        self.accelerator.end_training()

    def resume(self, place: Path) -> None:
        """Go on from a checkpoint: weights, averages, optimizers, step. Data order and noise follow from the step."""
        for line in checkpoint.load_checkpoint(place, self):
            self.progress.note(line)
        if self.best.is_hopeless and self.step < self.last_step:
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
        """What a checkpoint keeps beside tensors; every process must call it."""
        scaler = self.accelerator.scaler
        return {
            "step": self.step,
            "settings": resume_settings.settings_of(self),
            "window": self.window.state_dict(),
            "skipped_steps": self.skipped_steps,
            "best": self.best.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "data": self.batches.state_dict(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over a checkpoint's `state()`."""
        self.step, self.skipped_steps = state["step"], state["skipped_steps"]
        self.window.load_state_dict(state["window"], self.accelerator.device)
        self.best.load_state_dict(state["best"])
        self.batches.load_state_dict(state["data"])
        for lr_scheduler in self.lr_schedulers:
            set_step(lr_scheduler, self.step)
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    # --- stopping early -----------------------------------------------------------------------------------------

    def _look_at(self, stop: StopSignal) -> None:
        """Whether a signal came or the time is up, in any process: all must stop after the same step."""
        number, time_is_up = stop.number or 0, int(stop.time_is_up)
        if self.layout.num_processes > 1:
            device = self.accelerator.device
            if device.type != "cpu" and self.step % STEPS_TO_AGREE:
                return  # to agree waits for the device
            number, time_is_up = replicas.highest([number, time_is_up], device)
        self.stopped_by = number or None
        if time_is_up and self.step < self.last_step:
            self._end_here(f"--time_limit {self.arguments.time_limit}")

    def _stop_if_asked(self) -> None:
        if self.stopped_by is None or self.step == self.last_step:
            return
        require_finite(self.window.means(), self.step, self.window.steps, self.folder)
        self._require_finite_weights()
        self._save_checkpoint()
        go_on = f"a checkpoint was saved. Go on with:\n  {self._resume_command}"
        saved = go_on if self.folder else "nothing was saved."
        raise Interrupted(f"Stopped at step {self.step} of {self.last_step}; {saved}", self.stopped_by)
