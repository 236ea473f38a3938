"""The optimizer of each network: made, stepped, saved and loaded."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType
from torch import Tensor, nn

from hfgen.errors import UsageError
from hfgen.processes import zero
from hfgen.processes.shards import fill, whole
from hfgen.settings.arguments import TrainingArguments
from hfgen.settings.optimizers import ADAMS, OptimizerOptions
from hfgen.training.muon import MuonWithAdamW

FUSED = ("AdamW", "Adam")  # one kernel updates all tensors
STATES = {  # class -> what it keeps of each parameter; without momentum the others keep no momentum_buffer
    **{name: {"step", "exp_avg", "exp_avg_sq"} for name in ADAMS},
    "RMSprop": {"step", "square_avg", "momentum_buffer"},
    "SGD": {"momentum_buffer"},
    "Muon": {"momentum_buffer"},
}


def make_optimizer(model: nn.Module, options: OptimizerOptions, name: str = "") -> torch.optim.Optimizer:
    """Make the optimizer of a network; AdamW without weight decay is Adam.

    Its groups are: all parameters; with `no_decay` those that decay and those that do not; with Muon the matrices
    (two dimensions, no embeddings), whose steps have the size of AdamW's, so that one learning rate serves both.

    Raises:
        UsageError: Muon has no matrix to step.
    """
    matrices, others = _groups(model, options)
    given = {"betas": options.betas, "eps": options.eps, "alpha": options.alpha, "momentum": options.momentum}
    settings = {key: value for key, value in given.items() if value is not None}
    if options.chosen != "Muon":
        fused = {"fused": True} if options.chosen in FUSED else {}
        made: torch.optim.Optimizer = getattr(torch.optim, options.chosen)(others, **settings, **fused)
        return made
    if not matrices:
        raise UsageError(f"--optimizer.{name}.class_name Muon: {name} has no weights of two dimensions; use AdamW.")
    muon = {"adjust_lr_fn": "match_rms_adamw", "momentum": settings.pop("momentum", 0.95)}
    return MuonWithAdamW([{**group, **muon} for group in matrices], [{**group, **settings} for group in others])


def _groups(model: nn.Module, options: OptimizerOptions) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the groups of Muon and of another class, each with the `numbers` of its parameters in the network."""
    found: dict[tuple[bool, bool], dict[str, Any]] = {}
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for number, parameter in enumerate(p for p in model.parameters() if p.requires_grad):
        matrix = parameter.dim() >= 2 and id(parameter) not in embeddings
        muon = options.chosen == "Muon" and matrix and parameter.dim() == 2
        decays = matrix or not options.no_decay
        new: dict[str, Any] = {"params": [], "numbers": [], "lr": options.learning_rate}
        group = found.setdefault((muon, decays), {**new, "weight_decay": options.weight_decay if decays else 0.0})
        group["params"].append(parameter)
        group["numbers"].append(number)
    of_muon = [group for (muon, _), group in found.items() if muon]
    return of_muon, [group for (muon, _), group in found.items() if not muon]


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


def optimizer_tensors(optimizer: Any) -> dict[str, Tensor]:
    """Return an optimizer's state as whole tensors named `<number of the parameter in its network>.<key>`; collective.

    The names do not depend on how the parameters are grouped.
    """
    numbers = _numbers(optimizer)
    return {
        f"{numbers[index]}.{key}": whole(torch.as_tensor(value))
        for index, entry in optimizer.state_dict()["state"].items()
        for key, value in entry.items()
    }


def load_optimizer(optimizer: Any, tensors: Mapping[str, Tensor]) -> None:
    """Take over what `optimizer_tensors` gave; learning rate and other settings stay those of this run.

    What another class kept of a parameter is left out: its moments start anew.
    """
    saved: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        number, _, key = name.partition(".")
        saved.setdefault(int(number), {})[key] = value
    state: dict[int, dict[str, Any]] = {}
    numbers = _numbers(optimizer)
    parameters = [(p, group) for group in optimizer.param_groups for p in group["params"]]
    for index, (parameter, group) in enumerate(parameters):
        entry, needed = saved.get(numbers[index], {}), _kept(optimizer, group)
        if entry and needed <= entry.keys():
            state[index] = {key: _laid_out_like(parameter, entry[key]) for key in entry if key in needed}
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _numbers(optimizer: Any) -> list[int]:
    """Return the number in its network of each parameter, in the order of the groups."""
    numbers = [number for group in optimizer.param_groups for number in group.get("numbers", ())]
    return numbers or list(range(sum(len(group["params"]) for group in optimizer.param_groups)))


def _kept(optimizer: Any, group: Mapping[str, Any]) -> set[str]:
    """Return the keys of the state that an optimizer keeps of each parameter of a group."""
    if isinstance(optimizer, zero.ZeroOptimizer):
        return STATES["AdamW"]
    muon = isinstance(optimizer, MuonWithAdamW)
    kept = STATES[("Muon" if "ns_steps" in group else "AdamW") if muon else type(optimizer).__name__]
    return kept if group.get("momentum") else kept - {"momentum_buffer"}


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """Give a moment its parameter's strides, because fused optimizers walk through memory, and its shards."""
    if value.shape != parameter.shape:
        return value
    moment = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False)
    fill(moment, value)
    return moment
