"""The training loop. It knows no family: an objective yields losses, and this steps optimizers."""

import contextlib
import shlex
import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from safetensors import SafetensorError
from torch import Tensor, nn

from hfgen import checkpoint
from hfgen.arguments import TrainingArguments
from hfgen.batches import Layout
from hfgen.data import ImageFacts
from hfgen.ema import ModelEMA
from hfgen.errors import CheckError, HFGenError, Interrupted, UsageError
from hfgen.launch import make_accelerator, without_autocast
from hfgen.noise import StepNoise, key, seed_device
from hfgen.objective import Objective, Update, build_objective
from hfgen.optimizers import make_lr_scheduler, make_optimizer, step_together, unwrapped
from hfgen.pipeline import HFGenPipeline
from hfgen.progress import Progress
from hfgen.run_folder import Metrics
from hfgen.running_means import RunningMeans
from hfgen.stop_signal import StopSignal
from hfgen.streaming import make_batches
from hfgen.validation import EXAMPLES, validate


class Trainer:
    """Trains a pipeline's components on images, in one process or many.

    Args:
        pipeline: as `HFGenPipeline.build` makes it; trained in place.
        images: the data, as `load_images` found them.
        arguments: the training arguments.
        folder: the run folder; None trains without writing anything.
        objective_options: options of the family's objective.

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
        objective_options: Mapping[str, Any] | None = None,
    ) -> None:
        self.pipeline, self.arguments, self.folder = pipeline, arguments, folder
        self.accelerator = make_accelerator(arguments, folder)
        self.progress = Progress(self.accelerator.is_main_process)
        self.layout = self._layout()
        self.batches = make_batches(images, self.layout, arguments, self.accelerator.device, self.progress)
        self.last_step = arguments.max_train_steps or arguments.num_train_epochs * self.batches.steps_per_epoch
        self.step = 0
        self._prepare_models(objective_options or {})
        self.emas = {
            name: ModelEMA(pipeline.models()[name], arguments.ema_decay)
            for name in pipeline.ema_components
            if arguments.use_ema and name in self.models
        }
        self.metrics: Metrics | None = None
        self.saved_step = -1
        self.means = RunningMeans()
        self.summed_steps, self.clock, self.seconds = 0, time.perf_counter(), 0.0

    def _layout(self) -> Layout:
        accelerator, a = self.accelerator, self.arguments
        accumulation = a.gradient_accumulation_steps
        return Layout(a.train_batch_size, accelerator.num_processes, accelerator.process_index, accumulation)

    def _prepare_models(self, objective_options: Mapping[str, Any]) -> None:
        """Each network is prepared on its own: one DDP wrapper round two would expect both to step together."""
        components = dict(self.pipeline.components)
        self.models: dict[str, nn.Module] = {}
        self.optimizers: dict[str, Any] = {}
        self.lr_schedulers: list[Any] = []
        for name, model in self.pipeline.models().items():
            if not any(parameter.requires_grad for parameter in model.parameters()):
                model.to(self.accelerator.device)  # a network that is used as it is
                continue
            if self.arguments.channels_last:
                model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            model.train()
            optimizer = make_optimizer(model, self.arguments)
            self.lr_schedulers.append(make_lr_scheduler(optimizer, self.arguments, self.last_step))
            prepared, wrapped = self.accelerator.prepare(model, optimizer)
            self.models[name] = components[name] = prepared
            self.optimizers[name] = unwrapped(wrapped)
        self.objective = build_objective(self.pipeline.objective_class, components, objective_options)

    # --- the loop -----------------------------------------------------------------------------------------------

    def train(self) -> None:
        """Train to the last step; then draw the final grid and save the pipeline.

        Raises:
            CheckError: a loss is not finite.
            Interrupted: SIGINT or SIGTERM, after a checkpoint.
        """
        with self.progress.training(self.step, self.last_step):
            for _ in self.steps():
                pass
        with StopSignal():  # what is finished is saved whole, signal or not
            self._save_pipeline()
            self._leave()

    def steps(self) -> Generator[int, None, None]:
        """The loop itself: yields the number of each optimizer step after it was taken and accounted for."""
        self.clock = time.perf_counter()
        if self.folder is not None and self.accelerator.is_main_process:
            self.metrics = Metrics(self.folder, resumed_step=self.step)
        if self.accelerator.log_with:
            self.accelerator.init_trackers("hfgen")
        with StopSignal() as stop:
            # Of several processes none may leave alone.
            stopped = (lambda: stop.number is not None) if self.accelerator.num_processes == 1 else lambda: False
            for micro_batches in self.batches.steps(self.step, self.last_step, stopped):
                self.train_step(micro_batches)
                self.step += 1
                self._account()
                self._stop_if_asked(stop)
                yield self.step
            self._stop_if_asked(stop)

    def train_step(self, micro_batches: list[dict[str, Tensor]]) -> None:
        """One step of every optimizer that the objective yields.

        The micro-batches advance together: each optimizer steps on the mean gradient of all of them before any goes
        on to its next loss. So k accumulated micro-batches equal one batch, for alternating objectives too.
        """
        # Of Accelerate's accumulation only the division of the loss is used; its state is one for the whole process.
        self.accelerator.gradient_accumulation_steps = len(micro_batches)
        if self.step == 0:
            self._initialize(micro_batches)
        noises = [self._noise(micro) for micro in range(len(micro_batches))]
        seed = key(self.arguments.seed, "dropout", self.step, self.accelerator.process_index)
        seed_device(self.accelerator.device, seed)
        self.objective.step = self.step
        running = [self.objective.training_step(batch) for batch in micro_batches]
        while components := self._backward(running, noises):
            self._optimize(components)
        self.means.add(self.objective.finish_step())
        for lr_scheduler in self.lr_schedulers if self.arguments.lr_scheduler != "constant" else ():
            lr_scheduler.step()
        for ema in self.emas.values():
            ema.step()

    def _noise(self, micro: int) -> StepNoise:
        layout = self.layout
        rows, size = layout.rows(micro), layout.global_batch_size
        return StepNoise(self.arguments.seed, self.step, rows, size, self.accelerator.device)

    def _initialize(self, micro_batches: list[dict[str, Tensor]]) -> None:
        """What depends on data before the first step; averages start from there."""
        device, size = self.accelerator.device, self.layout.global_batch_size
        batch = {name: torch.cat([micro[name] for micro in micro_batches]) for name in micro_batches[0]}
        everything = torch.arange(size, device=device)
        rows = torch.cat([everything[self.layout.rows(micro)] for micro in range(len(micro_batches))])
        with contextlib.ExitStack() as stack, torch.no_grad():
            for model in self.pipeline.models().values():
                stack.enter_context(without_autocast(model))
            noise = StepNoise(self.arguments.seed, 0, rows, size, device)
            self.pipeline.objective_class.initialize(self.pipeline, batch, noise)
        for ema in self.emas.values():
            ema.restart()

    def _backward(self, running: list[Iterator[Update]], noises: list[StepNoise]) -> tuple[str, ...]:
        """Advance each micro-batch to its next loss, accumulate gradients; the components to step, none at the end."""
        components: tuple[str, ...] = ()
        for micro, training_step in enumerate(running):
            self.objective.noise = noises[micro]
            with contextlib.ExitStack() as stack:
                for model in self.models.values() if len(running) > 1 else ():
                    stack.enter_context(self.accelerator.no_sync(model))
                update = next(training_step, None)
                if update is None:
                    continue
                self._require_components(update.components)
                # DDP would decide at the forward pass, which may lie before an earlier update.
                for name in update.components if len(running) > 1 and micro == len(running) - 1 else ():
                    stack.enter_context(self.accelerator.trigger_sync_in_backward(self.models[name]))
                self._accumulate(update.loss)
            components = update.components
            self.means.add({update.loss_name: update.loss, **update.metrics})
        return components

    def _accumulate(self, loss: Tensor) -> None:
        """Accelerate divides by the number of micro-batches; where it would only call `backward`, it costs 60 us."""
        plain = self.accelerator.distributed_type in (DistributedType.NO, DistributedType.MULTI_CPU)
        if plain and self.accelerator.scaler is None and self.accelerator.gradient_accumulation_steps == 1:
            loss.backward()
        else:
            self.accelerator.backward(loss)

    def _require_components(self, components: tuple[str, ...]) -> None:
        for name in components:
            if name not in self.optimizers:
                raise HFGenError(f"The objective updates {name!r}; the networks are {', '.join(self.optimizers)}.")

    def _optimize(self, components: tuple[str, ...]) -> None:
        scaler, limit = self.accelerator.scaler, self.arguments.max_grad_norm
        if scaler is not None and len(components) > 1:
            step_together([self.optimizers[name] for name in components], scaler, limit)
        else:
            for name in components:
                if limit:
                    self.accelerator.clip_grad_norm_(self.models[name].parameters(), limit)
                self.optimizers[name].step()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()

    # --- what is due after a step -------------------------------------------------------------------------------

    def _account(self) -> None:
        """Metrics, sample grid, checkpoint, each when it is due; nothing is written of a loss that is not finite."""
        a = self.arguments
        self.summed_steps += 1
        last = self.step == self.last_step
        checkpoint_due = a.checkpointing_steps and (last or self.step % a.checkpointing_steps == 0)
        grid_due = last or (a.validation_steps and self.step % a.validation_steps == 0)
        if last or checkpoint_due or grid_due or self.step % a.logging_steps == 0:
            self._write_metrics(validating=bool(grid_due))
        if checkpoint_due:
            self._require_finite_weights()
            self._save_checkpoint()
        self.progress.advance(self.step)

    def _write_metrics(self, validating: bool = False) -> None:
        values = self.means.read(lambda means: self.accelerator.reduce(means, "mean"))
        if not values:
            return
        self._require_finite(values)
        now = time.perf_counter()
        diagnosis = self._validate() if validating else {}
        self.seconds += now - self.clock
        speed = self.summed_steps * self.layout.global_batch_size / (now - self.clock)
        line = {
            "step": self.step,
            "epoch": round(self.batches.epochs(self.step), 4),
            **values,
            "learning_rate": self.lr_schedulers[0].get_last_lr()[0],
            "images_per_second": round(speed, 2),
            "seconds": round(self.seconds, 3),
            **({"diagnosis": diagnosis} if diagnosis else {}),
        }
        if self.metrics is not None:
            with self._saving("metrics"):
                self.metrics.write(line)
        self.accelerator.log(values, step=self.step)
        self.progress.report(line)
        self.summed_steps, self.clock = 0, now

    def _require_finite(self, values: Mapping[str, float]) -> None:
        broken = [name for name, value in values.items() if not torch.isfinite(torch.tensor(value))]
        if not broken:
            return
        kept = checkpoint.list_checkpoints(self.folder)[-1:] if self.folder else []
        where = f"The last good checkpoint is {kept[0]}." if kept else "No checkpoint was written yet."
        raise CheckError(
            f"{broken[0]} is {values[broken[0]]} within the {self.summed_steps} steps up to {self.step}; "
            f"the training stopped. {where}\nTry a lower --learning_rate, --max_grad_norm 1, or --mixed_precision no."
        )

    def _require_finite_weights(self) -> None:
        """A finite loss may have had a gradient that was not; such weights never become the last good checkpoint."""
        for name, model in self.pipeline.models().items():
            if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
                self._require_finite({f"a weight of the {name}": float("nan")})

    def _validate(self) -> dict[str, Any]:
        """Pictures and diagnosis, on the main process; the others wait."""
        diagnosis: dict[str, Any] = {}
        if self.folder is not None and self.accelerator.is_main_process:
            examples = self.batches.examples(EXAMPLES)
            count = self.arguments.num_validation_images
            with self._saving("sample grid"), torch.no_grad(), self.averaged() as pipeline:
                try:
                    diagnosis = validate(pipeline, examples, self.folder, self.step, count)
                except CheckError as error:  # of a picture; losses and weights are checked elsewhere
                    diagnosis = {"warnings": [str(error)]}
            for warning in diagnosis.get("warnings", ()):
                self.progress.note(warning)
        self.accelerator.wait_for_everyone()
        return diagnosis

    @contextlib.contextmanager
    def averaged(self) -> Iterator[HFGenPipeline]:
        """Within, the pipeline is the one to sample from: averaged weights, their statistics, full precision."""
        with contextlib.ExitStack() as stack:
            for model in self.pipeline.models().values():
                stack.enter_context(without_autocast(model))
            for ema in self.emas.values():
                stack.enter_context(ema.applied())
            if self.emas:
                self.pipeline.objective_class.refresh_statistics(self.pipeline)
            yield self.pipeline

    # --- saving and resuming ------------------------------------------------------------------------------------

    def _save_checkpoint(self) -> None:
        if self.folder is None or self.saved_step == self.step:
            return
        self.saved_step = self.step
        self._equalise_buffers()
        if self.accelerator.is_main_process:
            with self._saving("checkpoint"):
                checkpoint.save_checkpoint(self.folder, self.step, self)
            checkpoint.delete_old(self.folder, self.arguments.checkpoints_total_limit)
        self.accelerator.wait_for_everyone()

    def _equalise_buffers(self) -> None:
        """Each process has its own BatchNorm statistics; the main one's are saved, so all go on from those."""
        if self.accelerator.num_processes > 1:
            for model in self.pipeline.models().values():
                for buffer in model.buffers():
                    torch.distributed.broadcast(buffer, src=0)

    def _save_pipeline(self) -> None:
        self._equalise_buffers()
        if self.folder is not None and self.accelerator.is_main_process:
            with self._saving("model"), self.averaged() as pipeline:
                pipeline.save_pretrained(self.folder)
        self.accelerator.wait_for_everyone()

    def _leave(self) -> None:
        """Let go of DDP's wrappers before the process group is destroyed: what still holds it can hang at exit."""
        self.models, self.objective = {}, Objective()
        self.accelerator.free_memory()
        self.accelerator.end_training()

    @contextlib.contextmanager
    def _saving(self, what: str) -> Iterator[None]:
        assert self.folder is not None
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as error:
            kept = checkpoint.list_checkpoints(self.folder)[-1:]
            where = f"The last complete checkpoint is {kept[0]}." if kept else "There is no complete checkpoint yet."
            raise HFGenError(
                f"The {what} of step {self.step} could not be saved in {self.folder}: {error}\n"
                f"{where} Nothing half-written was left. Make room, then resume:\n  {self._resume_command()}"
            ) from error

    def resume(self, place: Path) -> None:
        """Go on from a checkpoint: weights, averages, optimizers, step. Data order and noise follow from the step."""
        self.step = checkpoint.load_checkpoint(place, self)
        if self.step > self.last_step:
            raise UsageError(f"The checkpoint {place} is beyond the last step, {self.last_step}.")

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside tensors."""
        scaler = self.accelerator.scaler
        return {
            "step": self.step,
            "seconds": self.seconds,
            "seed": self.arguments.seed,
            "global_batch_size": self.layout.global_batch_size,
            "images": self.batches.images.count,
            "class_conditional": self.arguments.class_conditional,
            "use_ema": self.arguments.use_ema,
            "networks": {name: checkpoint.public_config(model) for name, model in self.pipeline.models().items()},
            "scaler": scaler.state_dict() if scaler is not None else None,
            "data": self.batches.state_dict(),
        }

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """The rest of a checkpoint's `state()`."""
        self.seconds = state["seconds"]
        self.batches.load_state_dict(state.get("data"))
        for lr_scheduler in self.lr_schedulers:
            lr_scheduler.last_epoch = state["step"]
            groups = lr_scheduler.optimizer.param_groups
            for group, base, factor in zip(groups, lr_scheduler.base_lrs, lr_scheduler.lr_lambdas, strict=True):
                group["lr"] = base * factor(state["step"])  # all of get_scheduler's are a factor of the step
            lr_scheduler._last_lr = [group["lr"] for group in groups]
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _stop_if_asked(self, stop: StopSignal) -> None:
        if self.accelerator.num_processes > 1:
            asked = torch.tensor([stop.number or 0], device=self.accelerator.device)
            torch.distributed.all_reduce(asked, op=torch.distributed.ReduceOp.MAX)
            stop.number = int(asked) or None
        if stop.number is None:
            return
        self._write_metrics()
        self._save_checkpoint()
        if self.folder is None:
            raise Interrupted(f"Stopped at step {self.step}.", stop.number)
        raise Interrupted(
            f"Stopped at step {self.step} of {self.last_step}; a checkpoint was saved. Go on with:\n"
            f"  {self._resume_command()}",
            stop.number,
        )

    def _resume_command(self) -> str:
        processes, folder = self.accelerator.num_processes, shlex.quote(str(self.folder))
        start = "hfgen train" if processes == 1 else f"torchrun --nproc_per_node {processes} hfgen/train.py"
        return f"{start} --config {folder}/config.yaml --output_dir {folder} --resume_from_checkpoint latest"
