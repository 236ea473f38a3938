"""Training of a network by DeepSpeed, ZeRO stages 0 to 2.

Each process holds the weights, in float32, and a part of the optimizer's state (stage 1) and gradients (stage 2).
DeepSpeed's engine averages and clips gradients and steps; the trainer decides when, and on which loss. Optimizer
states are saved and loaded whole, as torch's own are, so a checkpoint does not depend on how it was trained.
"""

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import (
    DeepSpeedPlugin,
    DistributedType,
    convert_outputs_to_fp32,
    is_deepspeed_available,
    parse_flag_from_env,
)
from torch import Tensor, nn

from hfgen.errors import UsageError
from hfgen.settings.arguments import TrainingArguments
from hfgen.settings.optimizers import OptimizerOptions

INSTEAD = "use hfgen's --accelerate_config fsdp2, which shards weights too."


def is_wanted() -> bool:
    """Return True if Accelerate's configuration asks for DeepSpeed.

    Raises:
        UsageError: it does, and DeepSpeed is not installed.
    """
    wanted = parse_flag_from_env("ACCELERATE_USE_DEEPSPEED")
    if wanted and not is_deepspeed_available():
        raise UsageError(
            "DeepSpeed is not installed. For families with one trained network: pip install 'hfgen[deepspeed]'\n"
            f"For all families {INSTEAD}"
        )
    return wanted


def make_plugin(arguments: TrainingArguments) -> DeepSpeedPlugin:
    """Make the plugin of Accelerate's configuration; batches, accumulation and clipping come from `arguments`.

    Raises:
        UsageError: the configuration asks for what hfgen cannot do, or sets what hfgen's options set.
    """
    if arguments.mixed_precision == "fp16":
        raise UsageError("fp16 is not available with DeepSpeed; use --mixed_precision bf16.")
    try:
        plugin = DeepSpeedPlugin(zero3_init_flag=False)
    except (ValueError, OSError) as error:
        raise UsageError(f"DeepSpeed's configuration: {error}") from error
    config = plugin.deepspeed_config
    _require_possible(config)
    config["gradient_accumulation_steps"] = arguments.gradient_accumulation_steps
    config["gradient_clipping"] = arguments.max_grad_norm or 0.0
    config["train_micro_batch_size_per_gpu"], config["train_batch_size"] = arguments.train_batch_size, "auto"
    config.setdefault("zero_force_ds_cpu_optimizer", False)  # the same optimizer, wherever its state lies
    zero = config["zero_optimization"]
    config["zero_optimization"] = {key: value for key, value in zero.items() if value != "auto"}
    return plugin


def _require_possible(config: Mapping[str, Any]) -> None:
    if config["zero_optimization"].get("stage", 0) not in (0, 1, 2):
        raise UsageError(f"hfgen supports DeepSpeed's ZeRO stages 0 to 2. For stage 3 {INSTEAD}")
    for name in ("optimizer", "scheduler"):
        if name in config:
            raise UsageError(f"DeepSpeed's configuration has an {name}; remove it: hfgen's options set it.")
    for name in ("bf16", "fp16"):
        if config.get(name, {}).get("enabled", False) not in (False, "auto"):
            raise UsageError(
                f"DeepSpeed's configuration enables {name}, half-precision weights; hfgen keeps them in float32.\n"
                f'Set "enabled": "auto" there, and --mixed_precision bf16 to compute in half precision.'
            )


def require_one_network(accelerator: Accelerator, trained: Sequence[str]) -> None:
    """Raise a UsageError if DeepSpeed would train several networks."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED and len(trained) > 1:
        raise UsageError(
            f"DeepSpeed trains one network, and this family has {len(trained)}: {', '.join(trained)}.\n"
            "Accelerate keeps one DeepSpeed engine, which does backward and step of one network only.\n"
            f"Train without DeepSpeed, or {INSTEAD}"
        )


def require_possible_optimizer(accelerator: Accelerator, name: str, options: OptimizerOptions) -> None:
    """Raise a UsageError if DeepSpeed would train by an optimizer that hfgen does not resume exactly under it."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED and (
        options.chosen not in ("AdamW", "Adam") or options.no_decay
    ):
        what = f"class_name {options.chosen}" if options.chosen not in ("AdamW", "Adam") else "no_decay"
        raise UsageError(
            f"--optimizer.{name}.{what} is not available with DeepSpeed: ZeRO divides one group of parameters of Adam "
            f"or AdamW.\nTrain without DeepSpeed, or {INSTEAD}"
        )


def prepare(
    accelerator: Accelerator, network: nn.Module, optimizer: torch.optim.Optimizer, arguments: TrainingArguments
) -> tuple[nn.Module, "ZeroOptimizer"]:
    """Return the engine, which is called like the network, and the optimizer to step."""
    import deepspeed  # noqa: F401  # its logger is made here

    for handler in logging.getLogger("DeepSpeed").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setStream(sys.stderr)  # standard output is for hfgen's results
    if arguments.mixed_precision == "bf16":  # as Accelerate does without DeepSpeed
        autocast = torch.autocast(accelerator.device.type, torch.bfloat16)
        network.forward = convert_outputs_to_fp32(autocast(network.forward))
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    accelerator.gradient_accumulation_steps = arguments.gradient_accumulation_steps  # else it warns of a difference
    engine, _ = accelerator.prepare(network, optimizer)
    return engine, ZeroOptimizer(engine, parameters)


def backward(loss: Tensor, engine: Any, last: bool) -> None:
    """Accumulate gradients, divided by the number of micro-batches; average them over processes after the `last`."""
    engine.set_gradient_accumulation_boundary(last)
    engine.backward(loss)


class ZeroOptimizer:
    """DeepSpeed's optimizer, with the state of a plain one.

    Args:
        engine: DeepSpeed's engine.
        parameters: the parameters that it trains, in the order of the plain optimizer.
    """

    def __init__(self, engine: Any, parameters: list[nn.Parameter]) -> None:
        self.engine, self.parameters = engine, parameters
        self.param_groups = [{"params": parameters}]
        self.divided = engine.zero_optimization()
        self.plain = engine.optimizer.optimizer if self.divided else engine.optimizer

    def step(self) -> None:
        """Clip the averaged gradients, step and clear them."""
        if self.divided:
            from deepspeed.utils import safe_set_full_fp32_param

            # DeepSpeed steps a copy; a checkpoint or an initialization has changed the weights themselves.
            for parameter in self.parameters:
                safe_set_full_fp32_param(parameter, parameter.detach())
        self.engine.step()

    def zero_grad(self) -> None:
        """Do nothing: the engine has cleared the gradients in its step."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state in the form of torch's optimizers, with whole tensors; every process must call it."""
        if not self.divided:
            return self.plain.state_dict()
        from deepspeed.utils import safe_get_full_optimizer_state

        keys: dict[str, Any] = next(iter(self.plain.state.values()), {})
        state = {
            number: {
                key: safe_get_full_optimizer_state(parameter, key) if value.dim() else value.clone()
                for key, value in keys.items()
            }
            for number, parameter in enumerate(self.parameters if keys else ())
        }
        return {"state": state, "param_groups": self.param_groups}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load this process's part of whole tensors."""
        if not self.divided:
            self.plain.load_state_dict({**state_dict, "param_groups": self.plain.state_dict()["param_groups"]})
            return
        from deepspeed.utils import safe_set_full_optimizer_state

        state = state_dict["state"]
        for part in (part for group in self.plain.param_groups for part in group["params"] if state):
            self.plain.state[part] = {
                key: torch.zeros_like(part) if value.dim() else value.to(part.device, copy=True)
                for key, value in state[0].items()
            }
        self.engine.optimizer._lazy_init_hp_params_optimizer_state()
        for number, entry in state.items():
            for key, value in entry.items():
                if value.dim():
                    safe_set_full_optimizer_state(self.parameters[number], value, key)
