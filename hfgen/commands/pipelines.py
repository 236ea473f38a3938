"""Pipelines as the commands load them, with the scheduler and the prior that the options choose."""

import re
from typing import Any

from hfgen.errors import UsageError, did_you_mean, first_line, one_line


def load(target: str, o: dict[str, Any], any_pipeline: bool = False) -> Any:
    """Load a pipeline onto the device, and set its scheduler and its prior.

    Args:
        o: the options `variant`, `revision`, `dtype`, `device`, `scheduler`, `temperature` and `truncation`.
        any_pipeline: load pipelines of diffusers' own too, which belong to no family.
    """
    import torch
    from diffusers.utils import logging

    from hfgen import HFGenPipeline
    from hfgen.evaluation.any_pipeline import load_any

    logging.disable_progress_bar()
    kwargs = {name: o[name] for name in ("variant", "revision") if o[name]}
    if o["dtype"]:
        kwargs["dtype"] = getattr(torch, o["dtype"])
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    load_from = load_any if any_pipeline else HFGenPipeline.from_pretrained
    try:
        pipeline = load_from(target, **kwargs).to(o["device"] or accelerator)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {o['device']}: {first_line(error)}") from error
    asked = [name for name in ("scheduler", "temperature", "truncation") if o[name] is not None]
    if asked and not hasattr(pipeline, "scheduler"):
        raise UsageError(f"--{asked[0]}: a {type(pipeline).__name__} has no scheduler of its own.")
    if o["scheduler"]:
        swap_scheduler(pipeline, o["scheduler"])
    set_prior(pipeline, {name: o[name] for name in ("temperature", "truncation") if o[name] is not None})
    return pipeline


def swap_scheduler(pipeline: Any, name: str) -> None:
    """Replace the scheduler by a compatible one, given by its class's name or the start of that name."""
    current = pipeline.scheduler
    choices = {_short(c.__name__): c for c in (type(current), *current.compatibles)}
    chosen = choices.get(_short(name))
    if chosen is None:
        known = {key: choice.__name__ for key, choice in choices.items()}
        raise UsageError(f"--scheduler {name}: no such scheduler for this model.{did_you_mean(_short(name), known)}")
    if chosen is not type(current):
        # With that key, `from_config` drops options that have their defaults; the other class may have others.
        config = {key: value for key, value in current.config.items() if key != "_use_default_values"}
        try:
            pipeline.register_modules(scheduler=chosen.from_config(config))
        except (ImportError, NotImplementedError, ValueError) as error:
            reason = one_line(error)
            raise UsageError(f"--scheduler {name}: {chosen.__name__} cannot be used here: {reason}") from error


def _short(name: str) -> str:
    """Return the name by which a scheduler is chosen.

    >>> _short("EulerDiscreteScheduler"), _short("dpm-solver_multistep"), _short("unipc")
    ('euler', 'dpmsolver', 'unipc')
    """
    short = re.sub(r"[-_ ]", "", name).lower()
    return re.sub(r"(multistep|discrete)?(scheduler)?$", "", short)


def set_prior(pipeline: Any, options: dict[str, float]) -> None:
    """Set the temperature or truncation of the prior."""
    if not options:
        return
    scheduler = pipeline.scheduler
    for name in options:
        if name not in scheduler.config:
            raise UsageError(f"--{name}: the {type(scheduler).__name__} of this model has no such option.")
    pipeline.register_modules(scheduler=scheduler.from_config(scheduler.config, **options))
