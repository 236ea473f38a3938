"""A whole training run, from a resolved config to a finished run folder."""

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hfgen import run_folder
from hfgen.cards.card import write_card
from hfgen.data.sources import PLACES, located
from hfgen.errors import clear
from hfgen.pipeline import HFGenPipeline
from hfgen.processes.world import from_main_process, join_processes
from hfgen.registry import modality_of
from hfgen.settings.resolve import RunConfig
from hfgen.training import checkpoint
from hfgen.training.plots import plot_run
from hfgen.training.pushing import push, push_on_the_way, require_place
from hfgen.training.room import disk_bytes, require_room
from hfgen.training.run_lock import RunLock
from hfgen.training.start import Facts, build, describe, facts, find_data, find_held_out, full_config, plan
from hfgen.training.trainer import Trainer


def train(config: RunConfig, pipeline_class: type[HFGenPipeline], folder: Path, say: Callable[[str], Any]) -> Facts:
    """Train, and write a run folder that `HFGenPipeline.from_pretrained` reads.

    Args:
        say: called with each line for the user.

    Returns:
        the summary of the run: folder, steps and, on the main process, seconds and last metrics.

    Raises:
        UsageError: another process trains in the folder; or the settings contradict each other, the data or the
            machine.
    """
    join_processes()
    lock = RunLock()
    try:
        from_main_process(lambda: lock.take(folder))
        return _train(config, pipeline_class, folder, lock, say)
    finally:
        lock.release()


def _train(
    config: RunConfig, pipeline_class: type[HFGenPipeline], folder: Path, lock: RunLock, say: Callable[[str], Any]
) -> Facts:
    from_main_process(lambda: require_place(config.arguments, folder, say))
    data = find_data(config, modality_of(pipeline_class), folder)
    pipeline = build(config, pipeline_class, data)
    for line in describe(config, pipeline, data):
        say(line)
    objective, held_out = config.components.get("objective"), find_held_out(config, pipeline, data)
    trainer = Trainer(pipeline, data, config.arguments, folder, objective, held_out)
    resume_from = config.arguments.resume_from_checkpoint
    place = from_main_process(lambda: checkpoint.find_checkpoint(resume_from, folder, say)) if resume_from else None
    if place is not None:
        trainer.resume(place)
        done = "; nothing is left to train" if trainer.step == trainer.last_step else ""
        say(f"resumed from {place}, step {trainer.step} of {trainer.last_step}{done}")
    elif resume_from:
        say(f"no checkpoint in {folder} yet: starting from the first step")
    needed = disk_bytes(trainer)
    from_main_process(lambda: require_room(needed, folder, say))
    start = full_config(config, pipeline, data)
    start |= {name: located(start[name]) for name in PLACES}
    from_main_process(lambda: begin(trainer, start, lock, say))
    say(f"run folder {folder}")
    say(plan(trainer))
    trainer.train(functools.partial(push_on_the_way, trainer, folder, say))
    if trainer.accelerator.is_main_process:
        with writable(folder):
            plot_run(run_folder.read_metrics(folder), folder / "plots")
            write_card(folder)
        if config.arguments.push_to_hub:
            say(f"pushed to {push(folder, config.arguments)}")
    return summary(trainer, folder)


def begin(trainer: Trainer, config: Facts, lock: RunLock, say: Callable[[str], Any]) -> None:
    """Set aside a run that is to be overwritten, and write what a run's folder holds from the start."""
    folder, a = trainer.folder, trainer.arguments
    assert folder is not None
    with writable(folder):
        kept = run_folder.set_aside(folder) if a.overwrite_output_dir else None
        if kept is not None:
            say(f"the run that was in {folder} is now in {kept}")
        run_folder.take(folder, resumed=bool(a.resume_from_checkpoint))
        lock.take(folder)
        run_folder.write_start(folder, config, facts(trainer))


def summary(trainer: Trainer, folder: Path) -> Facts:
    """Return folder and steps and, on the main process, seconds and last metrics: others may not see its disk."""
    found = {"output_dir": str(folder), "steps": trainer.step}
    if not trainer.accelerator.is_main_process:
        return found
    last = run_folder.read_metrics(folder)[-1]
    return {**found, "seconds": last["seconds"], "metrics": last}


def writable(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Raise one error where the run folder cannot be written."""
    return clear((OSError,), lambda found: f"The run folder {folder} cannot be written: {found}")
