"""The optimizer and the schedule of each network."""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType
from diffusers.optimization import SchedulerType, get_scheduler
from torch import nn

from hfgen.arguments import TrainingArguments
from hfgen.errors import UsageError, did_you_mean


def make_optimizer(model: nn.Module, arguments: TrainingArguments) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay, which without weight decay is Adam; fused, one kernel for all tensors."""
    return torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=arguments.learning_rate,
        betas=(arguments.adam_beta1, arguments.adam_beta2),
        eps=arguments.adam_epsilon,
        weight_decay=arguments.adam_weight_decay,
        fused=True,
    )


def unwrapped(optimizer: Any) -> Any:
    """The optimizer itself where Accelerate's wrapper only hands calls through: no loss scaler, XLA or DeepSpeed.

    In each step the wrapper searches the import path for `lomo_optim`, twice: 0.2 ms.
    """
    hands_through = (
        type(optimizer) is AcceleratedOptimizer
        and optimizer.scaler is None
        and optimizer.accelerator_state.distributed_type != DistributedType.XLA
    )
    return optimizer.optimizer if hands_through else optimizer


def step_together(optimizers: Sequence[Any], scaler: Any, max_grad_norm: float | None) -> None:
    """One round of the loss scaler for several optimizers.

    Each `step` of Accelerate's wrapper ends the scaler's round, and its clipping unscales the gradients of all: the
    second optimizer would step on gradients that were unscaled twice, or by another scale.
    """
    plain = [getattr(optimizer, "optimizer", optimizer) for optimizer in optimizers]
    for optimizer in plain:
        scaler.unscale_(optimizer)
        if max_grad_norm:
            torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], max_grad_norm)
    for optimizer in plain:
        scaler.step(optimizer)
    scaler.update()


def make_lr_scheduler(optimizer: torch.optim.Optimizer, arguments: TrainingArguments, last_step: int) -> Any:
    """Counted in optimizer steps, whatever the number of processes."""
    name = arguments.lr_scheduler
    names = {kind.value for kind in SchedulerType}
    if name not in names:
        raise UsageError(f"lr_scheduler is {name!r}.{did_you_mean(name, names)}")
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
            f"lr_step_rules is {arguments.lr_step_rules!r}; expected factor:step, ..., last factor: 1:1000,0.1"
        ) from error
