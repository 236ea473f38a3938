"""The processes that train together: whether as many came as were asked for, and their Accelerator."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DeepSpeedPlugin,
    DistributedType,
    FullyShardedDataParallelPlugin,
    broadcast_object_list,
    parse_flag_from_env,
)
from torch import nn

from hfgen.errors import HFGenError, UsageError
from hfgen.processes import zero
from hfgen.settings.arguments import TrainingArguments

T = TypeVar("T")
PATIENCE = timedelta(hours=6)  # of processes that wait while the main one draws, measures or saves


def join_processes() -> PartialState:
    """This process's place among those that train together; on a CPU two form one world only if told it is a CPU."""
    zero.is_wanted()  # of which Accelerate would say less
    state = PartialState(cpu=on_cpu(), timeout=PATIENCE)
    check_world_size(state.num_processes)
    return state


def on_cpu() -> bool:
    """Whether there is no accelerator, or Accelerate was told not to use it."""
    return not torch.accelerator.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")


def check_world_size(num_processes: int) -> None:
    """Stop where fewer processes train together than were launched.

    On a CPU `accelerate launch --num_processes 2` starts one process without a word.

    Raises:
        HFGenError: with the command that does start them.
    """
    wanted = requested_processes()
    if wanted is None or wanted == num_processes:
        return
    raise HFGenError(
        f"{wanted} processes were asked for, but {num_processes} trains here; stopped rather than train alone.\n"
        f"Start them with: hfgen train ... --num_processes {wanted}\n"
        f"On a CPU also: torchrun --nproc_per_node {wanted} hfgen/train.py ...; on GPUs: accelerate launch --multi_gpu"
    )


def requested_processes() -> int | None:
    """What the launcher was told: WORLD_SIZE, else the `--num_processes` of the `accelerate launch` above us."""
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    return launched_processes()


def launched_processes() -> int | None:
    """The `--num_processes` of the `accelerate launch` that started this process, if one did."""
    return num_processes_of(_parent_command())


def num_processes_of(command: list[str]) -> int | None:
    """The `--num_processes` of an `accelerate launch` command line; None for any other.

    >>> num_processes_of(["python", "/bin/accelerate", "launch", "--num_processes", "2", "train.py"])
    2
    >>> num_processes_of(["bash"]) is None
    True
    """
    text = "\0".join(command)
    if "launch" not in command or "accelerate" not in text:
        return None
    found = re.search(r"--num[_-]processes[=\0](\d+)", text)
    return int(found[1]) if found else None


def _parent_command() -> list[str]:
    import psutil  # a dependency of accelerate

    try:
        parent = psutil.Process().parent()
        return parent.cmdline() if parent is not None else []
    except psutil.Error:
        return []


def make_accelerator(arguments: TrainingArguments) -> Accelerator:
    """Accelerate's view of this machine."""
    state = join_processes()
    AcceleratorState._reset_state()  # a process may train twice, with another precision
    if arguments.mixed_precision == "fp16" and on_cpu():
        raise UsageError("fp16 needs an accelerator; on a CPU use --mixed_precision bf16.")
    plugin = zero.make_plugin(arguments) if zero.is_wanted() else None
    if arguments.allow_tf32:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    accelerator = Accelerator(
        cpu=on_cpu(),
        mixed_precision=arguments.mixed_precision if plugin is None else "no",  # there it would be of the weights
        deepspeed_plugin=plugin,
        dynamo_backend="inductor" if arguments.torch_compile else None,
        step_scheduler_with_optimizer=False,
    )
    if state.distributed_type == DistributedType.MULTI_CPU and parse_flag_from_env("ACCELERATE_USE_FSDP"):
        _shard_on_cpu(accelerator)
    if plugin is not None and on_cpu():
        _divide_on_cpu(accelerator, plugin)
    return accelerator


def _shard_on_cpu(accelerator: Accelerator) -> None:
    """Accelerate shards on accelerators only and goes by without a word; torch's FSDP2 takes a CPU as well."""
    plugin = FullyShardedDataParallelPlugin()
    if plugin.fsdp_version != 2:
        raise UsageError("On a CPU only FSDP2 shards: fsdp_version 2 in Accelerate's config.")
    plugin.cpu_ram_efficient_loading = False
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin


def _divide_on_cpu(accelerator: Accelerator, plugin: DeepSpeedPlugin) -> None:
    """As with FSDP: Accelerate gives it accelerators only; DeepSpeed itself, where there are none, takes a CPU."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # which it would compile, for minutes; gloo does
    plugin.set_mixed_precision("no")
    plugin.select(_from_accelerator_state=True)
    accelerator.state.distributed_type = DistributedType.DEEPSPEED
    accelerator.state.deepspeed_plugins = plugin


def from_main_process(function: Callable[[], T]) -> T:
    """What `function` returns, or the error that it raises, in the main process: in every process."""
    state, found = PartialState(), list[Any]([None, None])
    if state.is_main_process:
        try:
            found = [function(), None]
        except HFGenError as error:
            found = [None, error]
    if state.num_processes > 1:
        broadcast_object_list(found)
    if found[1] is not None:
        raise found[1]
    return found[0]


@contextlib.contextmanager
def without_autocast(model: nn.Module) -> Iterator[None]:
    """Accelerate puts mixed precision into an instance attribute `forward`; without it the class's own is called."""
    wrapped = model.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if wrapped is not None:
            model.__dict__["forward"] = wrapped
