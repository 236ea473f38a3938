"""hfgen sample TARGET"""

import re
from typing import Any

from hfgen.errors import UsageError, did_you_mean


def load(target: str, o: dict[str, Any], any_pipeline: bool = False) -> Any:
    """The pipeline, on the device; with `any_pipeline` of diffusers' own, too, which no family draws from."""
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
        return load_from(target, **kwargs).to(o["device"] or accelerator)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {o['device']}: {str(error).splitlines()[0]}") from error


def swap_scheduler(pipeline: Any, name: str) -> None:
    """Sample by another of the schedulers that can take this one's place, by its class's name or the start of it."""
    current = pipeline.scheduler
    choices = {_short(c.__name__): c for c in (type(current), *current.compatibles)}
    chosen = choices.get(_short(name))
    if chosen is None:
        known = {key: choice.__name__ for key, choice in choices.items()}
        raise UsageError(f"--scheduler {name}: no such scheduler for this model.{did_you_mean(_short(name), known)}")
    if chosen is not type(current):
        # with it, `from_config` drops what is a default here, and another's default may be another noise
        config = {key: value for key, value in current.config.items() if key != "_use_default_values"}
        try:
            pipeline.register_modules(scheduler=chosen.from_config(config))
        except (ImportError, NotImplementedError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UsageError(f"--scheduler {name}: {chosen.__name__} cannot be used here: {reason}") from error


def _short(name: str) -> str:
    """
    >>> _short("EulerDiscreteScheduler"), _short("dpm-solver_multistep"), _short("unipc")
    ('euler', 'dpmsolver', 'unipc')
    """
    short = re.sub(r"[-_ ]", "", name).lower()
    return re.sub(r"(multistep|discrete)?(scheduler)?$", "", short)


def set_prior(pipeline: Any, options: dict[str, float]) -> None:
    """Sample from the prior at this temperature or truncation."""
    if not options:
        return
    scheduler = pipeline.scheduler
    for name in options:
        if name not in scheduler.config:
            raise UsageError(f"--{name}: the {type(scheduler).__name__} of this model has none.")
    pipeline.register_modules(scheduler=scheduler.from_config(scheduler.config, **options))
