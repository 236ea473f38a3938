"""The processes that train together: their number is checked, and their Accelerator is made."""

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

from hfgen.cores import usable_cores
from hfgen.errors import HFGenError, UsageError
from hfgen.processes import zero
from hfgen.settings.arguments import TrainingArguments

T = TypeVar("T")
PATIENCE = timedelta(hours=6)  # other processes wait so long while the main one draws, measures or saves


def join_processes() -> PartialState:
    """Join this process to those that train together.

    Accelerate must know that it is on a CPU, else two processes there do not find each other.

    Raises:
        HFGenError: fewer processes came than were launched.
    """
    keep_to_quota()
    zero.is_wanted()  # raises a clearer error than Accelerate where DeepSpeed is missing
    state = PartialState(cpu=on_cpu(), timeout=PATIENCE)
    check_world_size(state.num_processes)
    return state


def keep_to_quota() -> None:
    """Give torch no more threads than this process may have cores: those above a container's quota only wait.

    Where OMP_NUM_THREADS is set, it decides.
    """
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > usable_cores():
        torch.set_num_threads(usable_cores())


def on_cpu() -> bool:
    """Return True if there is no accelerator, or Accelerate must not use it."""
    return not torch.accelerator.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")


def check_world_size(num_processes: int) -> None:
    """Check that as many processes train together as were launched.

    On a CPU `accelerate launch --num_processes 2` starts one process without a warning.

    Raises:
        HFGenError: they are fewer; it names the command that starts them.
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
    """Return WORLD_SIZE, else the `--num_processes` of the `accelerate launch` that started this process."""
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
    return launched_processes()


def launched_processes() -> int | None:
    """Return the `--num_processes` of the `accelerate launch` that started this process, if one did."""
    return num_processes_of(_parent_command())


def num_processes_of(command: list[str]) -> int | None:
    """Return the `--num_processes` of an `accelerate launch` command line; None for any other.

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
    """Make the Accelerator for this machine and these arguments.

    Raises:
        UsageError: fp16 without an accelerator, or an invalid configuration of DeepSpeed or FSDP.
    """
    state = join_processes()
    AcceleratorState._reset_state()  # a process may train twice, with another precision
    if state.distributed_type == DistributedType.FSDP and on_cpu():
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_CPU  # or without shards
    if arguments.mixed_precision == "fp16" and on_cpu():
        raise UsageError("fp16 needs an accelerator; on a CPU use --mixed_precision bf16.")
    plugin = zero.make_plugin(arguments) if zero.is_wanted() else None
    if arguments.allow_tf32:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    accelerator = Accelerator(
        cpu=on_cpu(),
        mixed_precision=arguments.mixed_precision if plugin is None else "no",  # DeepSpeed would convert the weights
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
    """Shard on a CPU too, as torch's FSDP2 can; there Accelerate ignores FSDP without a warning."""
    plugin = FullyShardedDataParallelPlugin()
    if plugin.fsdp_version != 2:
        raise UsageError("On a CPU weights are sharded by FSDP2 only: set fsdp_version to 2 in Accelerate's config.")
    plugin.cpu_ram_efficient_loading = False
    accelerator.state.distributed_type = DistributedType.FSDP
    # As Accelerate does it on GPUs: each new wrapper of an optimizer reads the type here again, and the networks that
    # are prepared after the first would else be replicas.
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin


def _divide_on_cpu(accelerator: Accelerator, plugin: DeepSpeedPlugin) -> None:
    """Use DeepSpeed on a CPU too, as it can; Accelerate uses it on accelerators only."""
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = (
        False  # compiling it would take minutes; gloo does the same
    )
    plugin.set_mixed_precision("no")
    plugin.select(_from_accelerator_state=True)
    accelerator.state.distributed_type = DistributedType.DEEPSPEED
    accelerator.state.deepspeed_plugins = plugin


def from_main_process(function: Callable[[], T]) -> T:
    """Call `function` in the main process; return its result, or raise its HFGenError, in every process."""
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
    """Call the class's own `forward` inside the context: Accelerate sets one with mixed precision on the instance."""
    wrapped = model.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if wrapped is not None:
            model.__dict__["forward"] = wrapped
