"""The optimizer and the learning rate schedule of each network: made, stepped, saved and loaded."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType
from diffusers.optimization import SchedulerType, get_scheduler
from torch import Tensor, nn

from hfgen.errors import UsageError, did_you_mean
from hfgen.processes import zero
from hfgen.processes.shards import fill, whole
from hfgen.settings.arguments import TrainingArguments


def make_optimizer(model: nn.Module, arguments: TrainingArguments) -> torch.optim.Optimizer:
    """Make AdamW, which without weight decay is Adam; fused, so that one kernel updates all tensors."""
    return torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=arguments.learning_rate,
        betas=(arguments.adam_beta1, arguments.adam_beta2),
        eps=arguments.adam_epsilon,
        weight_decay=arguments.adam_weight_decay,
        fused=True,
    )


def unwrapped(optimizer: Any) -> Any:
    """Return the optimizer inside Accelerate's wrapper; the trainer itself does what the wrapper would do.

    In each step the wrapper searches the import path for `lomo_optim`, twice: 0.2 ms. And with a loss scaler each
    wrapper's `step` ends the scaler's round, so that a second optimizer would step by another scale.
    """
    return optimizer.optimizer if type(optimizer) is AcceleratedOptimizer else optimizer


def prepare(
    accelerator: Accelerator, network: nn.Module, optimizer: torch.optim.Optimizer, arguments: TrainingArguments
) -> tuple[Any, Any]:
    """Return the network as Accelerate prepares it, called like the network, and the optimizer that is stepped."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return zero.prepare(accelerator, network, optimizer, arguments)
    prepared, wrapped = accelerator.prepare(network, optimizer)
    return prepared, unwrapped(wrapped)


def backward(loss: Tensor, accelerator: Accelerator, last: bool = True) -> None:
    """Add the gradients of a loss, divided by the number of micro-batches, as Accelerate does it.

    Its `backward` is skipped where it would only call the loss's own: that saves 60 us.

    Args:
        last: whether this is the last micro-batch, which DeepSpeed must know.
    """
    engine = getattr(accelerator, "deepspeed_engine_wrapped", None)
    if engine is not None:
        zero.backward(loss, engine.engine, last)
        return
    plain = accelerator.distributed_type in (DistributedType.NO, DistributedType.MULTI_CPU)
    if plain and accelerator.scaler is None and accelerator.gradient_accumulation_steps == 1:
        loss.backward()
    else:
        accelerator.backward(loss)


class _Together:
    """Several optimizers in the form of one, which a loss scaler steps or skips as a whole."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.optimizers, self.stepped = optimizers, False
        self.param_groups = [group for optimizer in optimizers for group in optimizer.param_groups]

    def step(self) -> None:
        self.stepped = True
        for optimizer in self.optimizers:
            optimizer.step()


def step_together(optimizers: Sequence[Any], scaler: Any, max_grad_norm: float | None) -> bool:
    """Step each optimizer, after clipping the norm of its own gradients to `max_grad_norm`.

    Args:
        scaler: the loss scaler with fp16; None otherwise.

    Returns:
        whether they stepped: one gradient that overflowed skips all of them and lowers the scale.
    """
    together: Any = _Together(optimizers)
    if scaler is not None:
        scaler.unscale_(together)
    for optimizer in optimizers:
        if max_grad_norm and not isinstance(optimizer, zero.ZeroOptimizer):  # which clips by itself
            torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], max_grad_norm)
    if scaler is None:
        together.step()
    else:
        scaler.step(together)
        scaler.update()
    return together.stepped


def make_lr_scheduler(optimizer: torch.optim.Optimizer, arguments: TrainingArguments, last_step: int) -> Any:
    """Make the schedule; it counts optimizer steps, whatever the number of processes.

    Raises:
        UsageError: `--lr_scheduler` or `--lr_step_rules` is invalid.
    """
    name = arguments.lr_scheduler
    names = {kind.value for kind in SchedulerType}
    if name not in names:
        raise UsageError(f"--lr_scheduler is {name!r}.{did_you_mean(name, names)}")
    try:
        return get_scheduler(
            name,
            optimizer,
            step_rules=arguments.lr_step_rules,
            num_warmup_steps=arguments.lr_warmup_steps,
            num_training_steps=last_step,
        )
    except ValueError as error:
        raise UsageError(
            f"--lr_step_rules is {arguments.lr_step_rules!r}; expected factor:step, ..., last factor: 1:1000,0.1"
        ) from error


def optimizer_tensors(optimizer: Any) -> dict[str, Tensor]:
    """Return an optimizer's state as whole tensors named `<index of the parameter>.<key>`; collective."""
    return {
        f"{index}.{key}": whole(torch.as_tensor(value))
        for index, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
    }


def load_optimizer(optimizer: Any, tensors: Mapping[str, Tensor]) -> None:
    """Take over what `optimizer_tensors` gave; learning rate and other settings stay those of this run."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, entry in state.items():
        entry.update({key: _laid_out_like(parameters[number], value) for key, value in entry.items()})
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """Give a moment its parameter's strides, because fused optimizers walk through memory, and its shards."""
    if value.shape != parameter.shape:
        return value
    moment = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False)
    fill(moment, value)
    return moment


def set_step(lr_scheduler: Any, step: int) -> None:
    """Set a schedule to where it is after `step` steps, with this run's learning rate."""
    lr_scheduler.last_epoch = step
    groups = lr_scheduler.optimizer.param_groups
    for group, base, factor in zip(groups, lr_scheduler.base_lrs, lr_scheduler.lr_lambdas, strict=True):
        group["lr"] = base * factor(step)  # all of get_scheduler's are a factor of the step
    lr_scheduler._last_lr = [group["lr"] for group in groups]
