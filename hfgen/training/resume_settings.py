"""Compare the settings of a resumed run with its checkpoint: which must not change, which changes are reported."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hfgen import __version__
from hfgen.components import components
from hfgen.data.layout import Layout
from hfgen.data.sources import PLACES, located
from hfgen.errors import UsageError
from hfgen.pipeline import HFGenPipeline
from hfgen.settings.arguments import FIELDS, TrainingArguments, shown
from hfgen.settings.model_configs import component_config
from hfgen.settings.options import FROM_PRETRAINED

Facts = Mapping[str, Any]

# Options by their rule in `TrainingArguments`. With another value of a fixed one it would be another training, or
# another order of the data; one of a reported one takes effect from here on; the others change no weights.
FIXED, REPORTED = (
    [name for name, f in FIELDS.items() if f.metadata["resume"] == rule] for rule in ("fixed", "reported")
)
FIXED_FACTS = ("model", "global_batch_size", "images", "objective", "components")
REPORTED_FACTS = ("num_processes", "scheduled_steps", "hfgen", "torch")
# Older versions did not keep these, and trained by the defaults that they have now.
NEWER: tuple[str, ...] = ("component_steps", "ema_profiles", "pending", "unlabeled", "validation_fraction")
NEWER += ("image_mode", "value_range", "all_frames", "on_error")


def settings_of(
    arguments: TrainingArguments,
    pipeline: HFGenPipeline,
    objective: Facts,
    layout: Layout,
    num_images: int | None,
    scheduled_steps: int,
) -> dict[str, Any]:
    """Return the settings that a checkpoint keeps, to be compared when a run resumes, as JSON gives them back.

    Args:
        objective: options of the objective.
        num_images: size of the dataset; None for a stream.
        scheduled_steps: the last step as planned, with which schedules end.
    """
    options = dataclasses.asdict(arguments)
    facts = {
        "model": type(pipeline).__name__,
        "global_batch_size": layout.global_batch_size,
        "images": num_images,
        "objective": objective,
        "components": {name: component_config(part) for name, part in components(pipeline).items()},
        "num_processes": layout.num_processes,
        "scheduled_steps": scheduled_steps,
        "hfgen": __version__,
        "torch": torch.__version__,
    }
    if pipeline.sources:
        facts["sources"] = {name: source.sha256[:16] for name, source in pipeline.sources.items()}
    return json.loads(json.dumps({**{name: options[name] for name in (*FIXED, *REPORTED)}, **facts}))


def require_known(place: Path, then: Facts, now: Facts) -> None:
    """Raise a UsageError if a checkpoint's state lacks what this version of hfgen resumes from."""
    settings = then.get("settings", {})
    missing = [name for name in now if name not in then and name not in NEWER]
    missing += [name for name in (*FIXED_FACTS, *FIXED) if name not in settings and name not in NEWER]
    if missing:
        version = settings.get("hfgen", "of unknown version")
        raise UsageError(
            f"The checkpoint {place} was written by hfgen {version}, which did not keep {', '.join(missing)}; "
            f"this is hfgen {__version__}.\n"
            f"Go on with that version, or train its model further: --pretrained_model_name_or_path {place}"
        )


def other_version(then: Facts) -> str:
    """Return `, written by hfgen 0.1, and this is hfgen 0.2`, or nothing if they are the same."""
    version = then.get("settings", {}).get("hfgen")
    return "" if version == __version__ else f", written by hfgen {version}, and this is hfgen {__version__}"


def compare(place: Path, then: Facts, now: Facts) -> list[str]:
    """Return one line per setting that changed and is reported.

    Raises:
        UsageError: settings have changed that must not; it names all of them.
    """
    then = {**{name: FIELDS[name].default for name in NEWER if name in FIELDS}, **then}
    if then["model"] != now["model"]:
        raise UsageError(f"The checkpoint {place} is of {then['model']}; this run trains {now['model']}.")
    fixed = [
        f"{shown(name)} {before}, this run has {after}"
        for name in (*FIXED_FACTS, *FIXED)
        if then[name] != now[name]
        for before, after in [_difference(then[name], now[name])]
    ]
    before, after = _difference(then.get("sources", {}), now.get("sources", {}))
    fixed += [f"other weights of --{name}.{FROM_PRETRAINED}" for name in sorted({*before, *after})]
    if fixed:
        raise UsageError(
            f"The checkpoint {place} was written with {'; with '.join(fixed)}.\n"
            "Resume with the same settings, or start a new run."
        )
    return [
        f"{shown(name)} was {then[name]} up to the checkpoint and is {now[name]} from here on"
        for name in (*REPORTED, *REPORTED_FACTS)
        if name in then
        and then[name] != now[name]  # an older version may have known fewer
        and not (name in PLACES and located(then[name]) == located(now[name]))
        and (name != "scheduled_steps" or _matters(then, now))
    ]


def _matters(then: Facts, now: Facts) -> bool:
    """Return True if another number of steps changes the training: a schedule or the objective follows it."""
    known = then["scheduled_steps"] is not None  # older versions kept none for a constant schedule
    return known and (then.get("follows_last_step", True) or now.get("follows_last_step", False))


def _difference(then: Any, now: Any) -> tuple[Any, Any]:
    """Return the parts in which two dictionaries differ; other values as they are."""
    if not (isinstance(then, dict) and isinstance(now, dict)):
        return then, now
    differing = [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]
    parts = {name: _difference(then.get(name), now.get(name)) for name in differing}
    return {name: part[0] for name, part in parts.items()}, {name: part[1] for name, part in parts.items()}
