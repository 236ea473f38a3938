"""A rehearsal of a training run, which reports its time, memory and disk space and writes nothing."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from hfgen.pipeline import HFGenPipeline
from hfgen.processes.world import from_main_process
from hfgen.registry import modality_of
from hfgen.settings.resolve import RunConfig
from hfgen.training import checkpoint
from hfgen.training.pushing import require_place
from hfgen.training.room import describe_data, disk_bytes, megabytes
from hfgen.training.start import build, describe, find_data, find_held_out, full_config
from hfgen.training.trainer import Trainer


def dry_run(config: RunConfig, pipeline_class: type[HFGenPipeline], folder: Path, say: Callable[[str], Any]) -> str:
    """Build everything and take two steps, writing nothing; return the resolved config as YAML.

    Args:
        say: called with each line for the user.

    Raises:
        UsageError: the run itself would fail with it.
    """
    from_main_process(lambda: require_place(config.arguments, folder, say))
    data = find_data(config, modality_of(pipeline_class))
    pipeline = build(config, pipeline_class, data)
    for line in describe(config, pipeline, data):
        say(line)
    resolved = yaml.safe_dump(full_config(config, pipeline, data), sort_keys=False)
    find_held_out(config, pipeline, data)
    trainer = Trainer(pipeline, data, config.arguments, None, config.components.get("objective"))
    resume_from = config.arguments.resume_from_checkpoint
    place = from_main_process(lambda: checkpoint.find_checkpoint(resume_from, folder, say)) if resume_from else None
    if place is not None:
        trainer.resume(place)
        say(f"it would go on from {place}, step {trainer.step} of {trainer.last_step}")
    micro_batches = next(trainer.batches.steps(0, 1))
    trainer.train_step(micro_batches)
    trainer.step += 1
    start = time.perf_counter()
    trainer.train_step(micro_batches)
    _wait(trainer.accelerator.device)
    seconds = time.perf_counter() - start
    say(
        f"{trainer.last_step:,} steps of {trainer.layout.global_batch_size} {trainer.modality.noun[1]}; one took "
        f"{seconds:.3f} s "
        f"just now, so about {seconds * trainer.last_step / 60:.1f} min in all."
    )
    memory = _peak_memory(trainer.accelerator.device)
    if memory is not None:
        say(f"memory: {memory} at most up to here, in each process")
    whole, _ = disk_bytes(trainer)
    say(f"disk: {megabytes(whole)} for the model and its checkpoints{describe_data(trainer)}. Nothing was written.")
    return resolved


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def _peak_memory(device: torch.device) -> str | None:
    if device.type != "cpu":
        return megabytes(torch.get_device_module(device).max_memory_allocated())
    try:
        import resource
    except ImportError:  # on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return megabytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
