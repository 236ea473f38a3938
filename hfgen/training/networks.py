"""The networks of a training, with their optimizers, schedules and EMA, the same under DDP, FSDP2 and ZeRO.

Each network is prepared on its own: one DDP wrapper around several would expect them all to step together.
"""

import contextlib
import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from hfgen.building import require_complete
from hfgen.components import declared, with_networks
from hfgen.data.layout import Layout
from hfgen.errors import UsageError
from hfgen.noise import Noise
from hfgen.objective import Batch, Objective
from hfgen.pipeline import HFGenPipeline
from hfgen.processes import batch_norm, replicas, zero
from hfgen.processes.shards import fill_state, gathered, local, refuse_second_derivatives, reshard
from hfgen.processes.world import without_autocast
from hfgen.settings.arguments import TrainingArguments
from hfgen.settings.ema_profiles import EMAProfile
from hfgen.settings.optimizers import refuse_unknown_components
from hfgen.training.averages import FrozenAverage, copies_for, decays_of, make_profiles
from hfgen.training.ema import ModelEMA
from hfgen.training.optimizers import load_optimizer, make_optimizer, optimizer_tensors, prepare, step_together
from hfgen.training.schedules import Schedules
from hfgen.wrappers import WHOLE

Read = Callable[[str], dict[str, Tensor]]


class Networks:
    """A pipeline's networks as a training holds them.

    Methods marked "collective" exchange tensors between processes, so every process must call them.

    Args:
        pipeline: networks with a parameter that requires a gradient are trained, the others are used as they are;
            `frozen_components` are set to eval mode and require none.
        accelerator: as `make_accelerator` makes it.
        arguments: the training arguments.
        scheduled_steps: optimizer steps over which the learning rate schedules run.

    Attributes:
        trained: name -> network: the pipeline's own or, with FSDP2, a copy of it in shards.
        models: the same networks as Accelerate prepared them; the objective calls these.
        optimizers: name -> optimizer of that network.
        schedules: learning rates, and settings of optimizers that an objective changes.
        profiles: name of a profile -> the EMAs of the pipeline's `ema_components` by their names.
        emas: those of the first profile, which is sampled and saved.
        frozen_averages: name -> average that the objective asks for.

    Raises:
        UsageError: DeepSpeed would have to train several networks, no trained network has the name of an optimizer, or
            a loaded pipeline lacks what training needs.
    """

    def __init__(
        self, pipeline: HFGenPipeline, accelerator: Accelerator, arguments: TrainingArguments, scheduled_steps: int
    ) -> None:
        self.pipeline, self.accelerator, self.arguments = pipeline, accelerator, arguments
        self.sharded = accelerator.distributed_type == DistributedType.FSDP
        self.replicated = not self.sharded and accelerator.distributed_type != DistributedType.DEEPSPEED
        self.trained: dict[str, nn.Module] = {}
        self.models: dict[str, nn.Module] = {}
        self.optimizers: dict[str, Any] = {}
        self.schedules = Schedules()
        require_complete(pipeline)
        models, self.training_only = pipeline.models(), declared(pipeline, "training_only_components")
        for name in declared(pipeline, "frozen_components"):
            models[name].requires_grad_(False).eval()
        trained = [name for name, model in models.items() if any(p.requires_grad for p in model.parameters())]
        zero.require_one_network(accelerator, trained)
        refuse_unknown_components(arguments.optimizer or {}, trained)
        averaged = {name: model for name, model in models.items() if name in trained}
        copies = copies_for(pipeline.objective_class, averaged, accelerator)
        for name, model in models.items():
            if name in trained:
                self._prepare(name, model, scheduled_steps)
            else:
                model.to(accelerator.device)
        synchronize = arguments.sync_batch_norm and accelerator.num_processes > 1
        self.batch_norms = batch_norm.batch_norms(self.trained.values()) if synchronize else []
        self.frozen_averages = {
            name: FrozenAverage(self.trained[component], copied, accelerator)
            for name, (component, copied) in copies.items()
        }
        self.global_batch_size = Layout.of(accelerator, arguments).global_batch_size
        self.profiles = self._make_profiles()
        self.first_profile = next(iter(self.profiles), "")
        self.emas: dict[str, ModelEMA] = self.profiles.get(self.first_profile, {})
        self._compared: set[tuple[str, int]] = set()

    def _make_profiles(self) -> dict[str, dict[str, ModelEMA]]:
        a = self.arguments
        averaged = declared(self.pipeline, "ema_components")
        networks = {name: self.trained[name] for name in averaged if name in self.trained}
        if a.ema_profiles and not networks:
            raise UsageError(f"--ema_profiles: {type(self.pipeline).__name__} has no component with an EMA.")
        warm_up = {"power": a.ema_power, "inv_gamma": a.ema_inv_gamma}
        return make_profiles(a.averages if a.use_ema else [], networks, self.global_batch_size, **warm_up)

    def _prepare(self, name: str, model: nn.Module, scheduled_steps: int) -> None:
        # Shards change a network's class, which saved files name: the pipeline keeps a whole one.
        network: nn.Module = copy.deepcopy(model) if self.sharded else model
        last = self.arguments.channels_last and self.replicated
        network.to(memory_format=torch.channels_last if last else torch.contiguous_format)  # type: ignore[call-overload]
        network.train()
        options = self.arguments.optimizer_of(name)
        zero.require_possible_optimizer(self.accelerator, name, options)
        optimizer = make_optimizer(network, options, name)
        self.schedules.add(name, optimizer, options, scheduled_steps)
        self.trained[name] = network
        self.models[name], self.optimizers[name] = prepare(self.accelerator, network, optimizer, self.arguments)
        if self.sharded:
            refuse_second_derivatives(network)
            object.__setattr__(network, WHOLE, model)  # as a module's own attribute it would be a part of the network

    def components(self) -> dict[str, Any]:
        """Return the components, networks as Accelerate prepared them, and the objective's averages."""
        averages = {name: average.model for name, average in self.frozen_averages.items()}
        return {**with_networks(self.pipeline, self.models), **averages}

    def release(self) -> None:
        """Let go of what Accelerate prepared; DDP's wrappers must be gone before the process group is destroyed."""
        self.models = {}

    # --- a step -------------------------------------------------------------------------------------------------

    def initialize(self, batch: Batch, noise: Noise) -> None:
        """Run the objective's data-dependent initialization on the whole networks; EMA starts from the result."""
        models = self.pipeline.models()
        with contextlib.ExitStack() as stack, torch.no_grad():
            for model in models.values():
                stack.enter_context(without_autocast(model.to(self.accelerator.device)))
            self.pipeline.objective_class.initialize(self.pipeline, batch, noise)
        for name, network in self.trained.items() if self.sharded else ():
            fill_state(network, models[name].state_dict())
        for average in self.averages().values():
            average.restart()

    def synchronized(self) -> contextlib.AbstractContextManager[None]:
        """Share BatchNorm's statistics between processes inside the context, with `--sync_batch_norm`."""
        return batch_norm.synchronized(self.batch_norms)

    def unreduced(self, accumulating: bool) -> contextlib.AbstractContextManager[None]:
        """Keep DDP from reducing gradients inside the context, if there are several micro-batches to accumulate."""
        models = self.models.values() if accumulating and self.replicated else ()
        return replicas.unreduced(self.accelerator, models)

    def reduced(self, names: Iterable[str]) -> contextlib.AbstractContextManager[None]:
        """Have DDP reduce the gradients of these networks in the next backward pass, inside `unreduced`."""
        models = [self.models[name] for name in names] if self.replicated else []
        return replicas.reduced(self.accelerator, models)

    def step(self, names: tuple[str, ...], update: int = 0) -> bool:
        """Step the optimizers of these networks and clear all gradients; collective.

        Args:
            update: the number of this update within the training step.

        Returns:
            False if a gradient overflowed in fp16 and the step was skipped.

        Raises:
            HFGenError: the gradients of a network differ between processes; checked once for each `update`.
        """
        if self.accelerator.num_processes > 1 and self.replicated:
            for name in (name for name in names if (name, update) not in self._compared):
                replicas.require_equal_gradients(name, self.trained[name], self.accelerator.device)
                self._compared.add((name, update))
        optimizers = [self.optimizers[name] for name in names]
        self.schedules.stepped(names)
        stepped = step_together(optimizers, self.accelerator.scaler, self.arguments.max_grad_norm)
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()
        if self.sharded:
            reshard(self.trained[name] for name in names)  # the next call gathers the new weights
        return stepped

    def finish_step(self, objective: Objective) -> None:
        """Advance the schedules and average in the new weights, once after each optimizer step of the training.

        EMAs follow the training, not their network: one that was not stepped is averaged in again as it is.
        """
        self.schedules.finish_step()
        if self.sharded:
            reshard(self.trained.values())
        half_life = None if self.arguments.ema_profiles else objective.ema_half_life()
        for emas in self.profiles.values():
            for ema in emas.values():
                if half_life is not None:
                    ema.average.decay = EMAProfile("half_life", half_life).decay(self.global_batch_size)
                ema.step()
        for name, decay in decays_of(objective).items():
            self.frozen_averages[name].step(decay)

    # --- what is sampled, saved and loaded ----------------------------------------------------------------------

    def not_finite(self) -> str | None:
        """Return the name of the first network with a weight that is NaN or infinite; collective."""
        for name, network in self.trained.items():
            broken = not all(bool(local(parameter).isfinite().all()) for parameter in network.parameters())
            if replicas.highest([broken], self.accelerator.device)[0] if self.sharded else broken:
                return name
        return None

    @contextlib.contextmanager
    def averaged(self, profile: str | None = None) -> Iterator[HFGenPipeline]:
        """Yield the pipeline to sample from: EMA weights, their statistics, full precision; collective.

        The statistics are the main process's.

        Args:
            profile: name of a further profile; default the first.
        """
        emas = self.emas if profile is None else self.profiles[profile]
        with contextlib.ExitStack() as stack:
            for model in self.pipeline.models().values():
                stack.enter_context(without_autocast(model))
            stack.enter_context(gathered(self._shards(), self.pipeline.models(), emas))
            for ema in () if self.sharded else emas.values():
                stack.enter_context(ema.applied())
            if emas and self.accelerator.is_main_process:
                self.pipeline.objective_class.refresh_statistics(self.pipeline)
            yield self.pipeline

    def gathered(self) -> contextlib.AbstractContextManager[None]:
        """Fill the pipeline's own networks from their shards inside the context; collective."""
        return gathered(self._shards(), self.pipeline.models())

    def _shards(self) -> dict[str, nn.Module]:
        return self.trained if self.sharded else {}

    def share_buffers(self) -> None:
        """Give every process the main process's buffers; collective."""
        frozen = [average.network for average in self.frozen_averages.values()]
        replicas.share_buffers([*self.trained.values(), *frozen], self.accelerator.num_processes)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return file name -> whole tensors, of optimizer states, EMA and what only training uses; collective.

        Called inside `gathered()`."""
        states = {f"{name}.optimizer.safetensors": optimizer_tensors(it) for name, it in self.optimizers.items()}
        states |= {f"{n}.weights.safetensors": self.pipeline.models()[n].state_dict() for n in self.training_only}
        return states | {f"{name}.safetensors": average.state_dict() for name, average in self.averages().items()}

    def averages(self) -> dict[str, ModelEMA | FrozenAverage]:
        """Return name of a checkpoint's file -> average; an EMA of the first profile has no profile in its name."""
        emas = {
            f"{name}.ema" if profile == self.first_profile else f"{name}.{profile}.ema": ema
            for profile, emas in self.profiles.items()
            for name, ema in emas.items()
        }
        return emas | {f"{name}.average": average for name, average in self.frozen_averages.items()}

    def load(self, weights: Read, tensors: Read, step: int, component_steps: Mapping[str, int] = {}) -> None:
        """Take over what was saved after `step` optimizer steps; schedules go on from there.

        Args:
            weights: name of a network -> its `state_dict`.
            tensors: file name, as in `tensors()` -> tensors.
            component_steps: component -> steps in which it was stepped; default all.
        """
        for name, model in self.pipeline.models().items():
            own = name in self.training_only
            loaded = tensors(f"{name}.weights.safetensors") if own else weights(name)
            model.load_state_dict(loaded)
            if self.trained.get(name, model) is not model:
                fill_state(self.trained[name], loaded)
        for name, optimizer in self.optimizers.items():
            load_optimizer(optimizer, tensors(f"{name}.optimizer.safetensors"))
        for name, average in self.averages().items():
            average.load_state_dict(tensors(f"{name}.safetensors"), step)
        self.schedules.load(component_steps, step)
