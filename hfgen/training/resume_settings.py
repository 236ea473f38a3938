"""What a resumed run must share with the one that wrote its checkpoint, what may change, and what of that is told."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hfgen import __version__
from hfgen.errors import UsageError
from hfgen.settings.model_configs import component_config

Facts = Mapping[str, Any]

# Settings without which it would be another training, or another order of the data.
FIXED = (
    *("seed", "streaming", "image_column", "label_column", "resolution", "center_crop", "random_flip"),
    *("class_conditional", "use_ema"),
)
FIXED_FACTS = ("model", "global_batch_size", "images", "objective", "components")

# Settings that take effect from here on; an undisturbed run would have gone on, or been measured, otherwise.
TOLD = (
    "dataset_name",
    "dataset_config_name",
    "dataset_split",
    "learning_rate",
    "lr_scheduler",
    "lr_warmup_steps",
    "lr_step_rules",
    "adam_beta1",
    "adam_beta2",
    "adam_weight_decay",
    "adam_epsilon",
    "max_grad_norm",
    "ema_decay",
    "ema_power",
    "ema_inv_gamma",
    "mixed_precision",
    "channels_last",
    "sync_batch_norm",
    "torch_compile",
    "allow_tf32",
    "validation_split",
    "validation_metrics",
    "num_evaluation_images",
    "extractor",
    "best_metric",
)
TOLD_FACTS = ("num_processes", "scheduled_steps", "hfgen", "torch")

# Settings that change neither weights nor averages, or follow from facts above.
FREE = (
    "train_data_dir",
    "cache_dir",
    "shuffle_buffer_size",
    "data_memory_limit",
    "dataloader_num_workers",
    "output_dir",
    "train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_train_steps",
    "logging_steps",
    "validation_steps",
    "num_validation_images",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "resume_from_checkpoint",
    "time_limit",
    "validation_epochs",
    "num_inference_steps",
    "overwrite_output_dir",
    "push_to_hub",
    "hub_model_id",
    "hub_strategy",
    "hub_private_repo",
    "hub_token",
    "early_stopping_patience",
    "pretrained_model_name_or_path",
    "report_to",
    "license",
)


def settings_of(trainer: Any) -> dict[str, Any]:
    """What a checkpoint keeps of its run, to be compared when one resumes: as JSON gives it back."""
    arguments = dataclasses.asdict(trainer.arguments)
    facts = {
        "model": type(trainer.pipeline).__name__,
        "global_batch_size": trainer.layout.global_batch_size,
        "images": trainer.batches.images.count,
        "objective": trainer.objective_options,
        "components": {name: component_config(part) for name, part in trainer.pipeline.components.items()},
        "num_processes": trainer.layout.num_processes,
        "scheduled_steps": None if arguments["lr_scheduler"] == "constant" else trainer.scheduled_steps,
        "hfgen": __version__,
        "torch": torch.__version__,
    }
    return json.loads(json.dumps({**{name: arguments[name] for name in (*FIXED, *TOLD)}, **facts}))


def require_known(place: Path, then: Facts, now: Facts) -> None:
    """Raise a UsageError where a checkpoint's state lacks what this version of hfgen goes on from."""
    settings = then.get("settings", {})
    missing = [name for name in now if name not in then]
    missing += [name for name in (*FIXED_FACTS, *FIXED) if name not in settings]
    if missing:
        version = settings.get("hfgen", "of unknown version")
        raise UsageError(
            f"The checkpoint {place} was written by hfgen {version}, which kept no {', '.join(missing)}; "
            f"this is hfgen {__version__}.\n"
            f"Go on with that version, or train its model further: --pretrained_model_name_or_path {place}"
        )


def other_version(then: Facts) -> str:
    """`, written by hfgen 0.1, and this is hfgen 0.2`; nothing where they are the same."""
    version = then.get("settings", {}).get("hfgen")
    return "" if version == __version__ else f", written by hfgen {version}, and this is hfgen {__version__}"


def compare(place: Path, then: Facts, now: Facts) -> list[str]:
    """The changed settings that are told, a line each.

    Raises:
        UsageError: a setting has changed that must not; with all of these.
    """
    if then["model"] != now["model"]:
        raise UsageError(f"The checkpoint {place} is of {then['model']}; this run trains {now['model']}.")
    fixed = [
        f"{name} {before}, this run has {after}"
        for name in (*FIXED_FACTS, *FIXED)
        if then[name] != now[name]
        for before, after in [_difference(then[name], now[name])]
    ]
    if fixed:
        raise UsageError(
            f"The checkpoint {place} was written with {'; with '.join(fixed)}.\n"
            "Resume with the same settings, or start a new run."
        )
    return [
        f"{name} was {then[name]} up to the checkpoint and is {now[name]} from here on"
        for name in (*TOLD, *TOLD_FACTS)
        if name in then and then[name] != now[name]  # an older version may have known fewer
    ]


def _difference(then: Any, now: Any) -> tuple[Any, Any]:
    """Of two dictionaries, the parts that differ."""
    if not (isinstance(then, dict) and isinstance(now, dict)):
        return then, now
    differing = [name for name in sorted({*then, *now}) if then.get(name) != now.get(name)]
    parts = {name: _difference(then.get(name), now.get(name)) for name in differing}
    return {name: part[0] for name, part in parts.items()}, {name: part[1] for name, part in parts.items()}
