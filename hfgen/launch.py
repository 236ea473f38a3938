"""The processes that train together: whether as many came as were asked for, and their Accelerator."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from torch import nn

from hfgen.arguments import TrainingArguments
from hfgen.errors import HFGenError, UsageError
from hfgen.trackers import tracker_names


def join_processes() -> PartialState:
    """This process's place among those that train together; on a CPU two form one world only if told it is a CPU."""
    state = PartialState(cpu=not torch.accelerator.is_available())
    check_world_size(state.num_processes)
    return state


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
        f"On a CPU, start them with: torchrun --nproc_per_node {wanted} hfgen/train.py ...\n"
        "On GPUs: accelerate launch --multi_gpu --num_processes N hfgen/train.py ..."
    )


def requested_processes() -> int | None:
    """What the launcher was told: WORLD_SIZE, else the `--num_processes` of the `accelerate launch` above us."""
    if "WORLD_SIZE" in os.environ:
        return int(os.environ["WORLD_SIZE"])
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


def make_accelerator(arguments: TrainingArguments, folder: Path | None) -> Accelerator:
    """Accelerate's view of this machine."""
    join_processes()
    AcceleratorState._reset_state()  # a process may train twice, with another precision
    if arguments.mixed_precision == "fp16" and not torch.accelerator.is_available():
        raise UsageError("fp16 needs an accelerator; on a CPU use --mixed_precision bf16.")
    trackers = tracker_names(arguments.report_to) if folder is not None else []
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),
        mixed_precision=arguments.mixed_precision,
        step_scheduler_with_optimizer=False,
        log_with=trackers or None,
        project_dir=None if folder is None else str(folder / "logs"),
    )
    return accelerator


@contextlib.contextmanager
def without_autocast(model: nn.Module) -> Iterator[None]:
    """Accelerate puts mixed precision into an instance attribute `forward`; without it the class's own is called."""
    wrapped = model.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if wrapped is not None:
            model.__dict__["forward"] = wrapped
