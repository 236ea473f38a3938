"""Pipelines as the commands load them, with the scheduler and the settings of it that the options choose."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hfgen.commands.targets import check_target
from hfgen.errors import HFGenError, UsageError, did_you_mean, first_line, one_line


def load(target: str, o: Mapping[str, Any], settings: Mapping[str, Any], any_pipeline: bool = False) -> Any:
    """Load a pipeline onto the device, and choose and set its scheduler.

    Args:
        o: the options `variant`, `revision`, `dtype`, `device` and `scheduler`.
        settings: of the scheduler.
        any_pipeline: load pipelines of diffusers' own too, which belong to no family.
    """
    refuse_local_revision(target, o["revision"])
    check_target(target)
    import torch
    from diffusers.utils import logging

    from hfgen import HFGenPipeline
    from hfgen.evaluation.any_pipeline import load_any
    from hfgen.processes.world import keep_to_quota

    logging.disable_progress_bar()
    keep_to_quota()
    kwargs = {name: o[name] for name in ("variant", "revision") if o[name]}
    if o["dtype"]:
        kwargs["dtype"] = getattr(torch, o["dtype"])
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    load_from = load_any if any_pipeline else HFGenPipeline.from_pretrained
    try:
        pipeline = load_from(target, **kwargs).to(o["device"] or accelerator)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {o['device']}: {first_line(error)}") from error
    if (o["scheduler"] or settings) and not hasattr(pipeline, "scheduler"):
        option = "scheduler" if o["scheduler"] else next(iter(settings))
        raise UsageError(f"--{option}: a {type(pipeline).__name__} has no scheduler of its own.")
    if o["scheduler"]:
        swap_scheduler(pipeline, o["scheduler"])
    if settings:
        set_scheduler(pipeline, settings)
    return pipeline


def refuse_local_revision(target: str, revision: str | None) -> None:
    """Raise a UsageError for a revision of what is on this machine, which has none."""
    if revision is not None and Path(target).exists():
        raise UsageError(f"--revision {revision}: {target} is local; only a repository on the Hub has revisions.")


def swap_scheduler(pipeline: Any, name: str) -> None:
    """Replace the scheduler by a compatible one, given by its class's name or the start of that name."""
    current = pipeline.scheduler
    chosen = scheduler_named(type(current), name)
    if chosen is not type(current):
        # With that key, `from_config` drops options that have their defaults; the other class may have others.
        config = {key: value for key, value in current.config.items() if key != "_use_default_values"}
        try:
            pipeline.register_modules(scheduler=chosen.from_config(config))
        except (ImportError, NotImplementedError, ValueError) as error:
            reason = one_line(error)
            raise UsageError(f"--scheduler {name}: {chosen.__name__} cannot be used here: {reason}") from error


def scheduler_named(current: Any, name: str) -> Any:
    """Return the class of this name among a scheduler's class and those that can take its place."""
    choices = {_short(c.__name__): c for c in (current, *current._get_compatibles())}
    if _short(name) not in choices:
        known = {key: choice.__name__ for key, choice in choices.items()}
        raise UsageError(f"--scheduler {name}: no such scheduler for this model.{did_you_mean(_short(name), known)}")
    return choices[_short(name)]


def _short(name: str) -> str:
    """Return the name by which a scheduler is chosen.

    >>> _short("EulerDiscreteScheduler"), _short("dpm-solver_multistep"), _short("unipc")
    ('euler', 'dpmsolver', 'unipc')
    """
    short = re.sub(r"[-_ ]", "", name).lower()
    return re.sub(r"(multistep|discrete)?(scheduler)?$", "", short)


def set_scheduler(pipeline: Any, settings: Mapping[str, Any]) -> None:
    """Give the pipeline a scheduler with these settings."""
    scheduler = pipeline.scheduler
    try:
        pipeline.register_modules(scheduler=scheduler.from_config(scheduler.config, **settings))
    except HFGenError:
        raise
    except (ImportError, NotImplementedError, TypeError, ValueError) as error:
        given = ", ".join(f"--scheduler.{name} {value}" for name, value in settings.items())
        raise UsageError(f"{given}: {type(scheduler).__name__} cannot be set so: {one_line(error)}") from error


def refuse_steps(pipeline: Any, num_inference_steps: int) -> None:
    """Raise a UsageError for several steps of a model that samples in one, before anything else is done."""
    from hfgen.scheduler import require_steps

    require_steps(getattr(pipeline, "scheduler", None), num_inference_steps)
