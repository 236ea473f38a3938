"""The record of a measurement: its values with everything that says how they were found."""

import hashlib
import json
import math
import platform
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import SchedulerMixin
from torch import Tensor

from hfgen import run_folder
from hfgen.components import components, published_networks, weights_sha256
from hfgen.evaluation.real import Estimate, Real
from hfgen.files import looks_local
from hfgen.registry import modality_of
from hfgen.results.protocol import GENERAL, Protocol, list_protocols
from hfgen.results.records import Result

LIBRARIES = ("hfgen", "torch", "torchmetrics", "prdc", "diffusers")


def record(
    pipeline: Any,
    real: Real,
    protocol: Protocol,
    values: Mapping[str, Estimate],
    likelihood: Mapping[str, Any] | None,
    *,
    name: str,
    split: str | None,
    options: Mapping[str, Any],
    changed: Mapping[str, Any],
    command: str,
) -> Result:
    """The values with everything that says how they were found, without paths of this machine.

    Args:
        likelihood: how `bits_per_dim` and `nats` were found; None where they were not.
        name: of the model.
        split: of the real items.
        options: of the pipeline's call.
        changed: options of the command line that changed the pipeline.
        command: repeats the measurement.
    """
    environment, modality = run_folder.environment(), modality_of(pipeline)
    return Result(
        protocol=_public(protocol),
        values={metric: estimate.to_dict() for metric, estimate in values.items()},
        floor={metric: estimate.to_dict() for metric, estimate in real.floor.items() if metric in values},
        likelihood=likelihood,
        warning=_warning(real, modality.warnings(real, protocol, values)),
        reference={
            "name": real.items.dataset_id or Path(real.items.name).name,
            "split": split,
            "images": len(real.stored),
            "sha256": real.sha256,
            "train_sha256": real.train_sha256,
        },
        extractor=modality.declaration(real),
        model={"pipeline": type(pipeline).__name__, "weights_sha256": weights_sha256(published_networks(pipeline))},
        sampler=sampler(pipeline, options),
        versions={library: version(library) for library in LIBRARIES},
        hardware={fact: environment[fact] for fact in ("processor", "threads", "accelerators", "platform")},
        python=platform.python_version(),
        name=name,
        changed=dict(changed),
        command=command,
    )


def _public(protocol: Protocol) -> dict[str, Any]:
    """The protocol, of a local folder the last name only: a result is public."""
    rules = protocol.to_dict()
    if rules["dataset"] is not None and looks_local(rules["dataset"]):
        rules["dataset"] = Path(rules["dataset"]).name
    return rules


def _warning(real: Real, warnings: list[str]) -> str | None:
    if real.train_sha256 == real.sha256:
        noun = real.items.noun[1]
        warnings = [*warnings, f"the training split holds the same {noun}, so there is no floor of other real ones"]
    return "; ".join(warnings) or None


def identity(pipeline: Any, protocol: Protocol, options: Mapping[str, Any], extractor_sha256: str | None) -> str:
    """Hash everything that sampled images depend on."""
    versions = [version("hfgen"), torch.__version__]
    what = [
        weights_sha256(published_networks(pipeline)),
        protocol.to_dict(),
        sampler(pipeline, options),
        extractor_sha256,
        versions,
    ]
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()


def sampler(pipeline: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Describe how images are sampled: the scheduler with its settings, and the options of the call."""
    scheduler = getattr(pipeline, "scheduler", None)
    config = {} if scheduler is None else {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
    for name, part in components(pipeline).items():
        if "." in name and isinstance(part, SchedulerMixin):  # of a pipeline inside
            config |= {f"{name}.{k}": v for k, v in part.config.items() if not k.startswith("_")}
    plain = {key: _plain(value) for key, value in config.items()}
    dtype = str(pipeline.dtype).removeprefix("torch.")
    return {"scheduler": type(scheduler).__name__, "config": plain, "options": dict(options), "dtype": dtype}


def _plain(value: Any) -> Any:
    """Convert a setting to JSON: some of diffusers' schedulers hold infinite ones."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Tensor | np.ndarray | tuple | list):
        return [_plain(part) for part in value]
    return value if isinstance(value, int | float | str | bool | None) else str(value)


def result_name(protocol: Protocol, options: Mapping[str, Any], of_protocol: Protocol, real: Real) -> str:
    """Name the file: `mnist-v1-digitnet-mnist-seed0`, and what departs from the protocol and the model's own sampler.

    Changes of the protocol that have no words are eight digits of a hash.
    """
    parts = [protocol.name, *([protocol.extractor] if protocol.extractor else []), f"seed{protocol.seed}"]
    parts += [f"n{protocol.num_images}"] if protocol.num_images != of_protocol.num_images else []
    parts += [f"{name}{value}" for name, value in sorted(options.items())]
    plain = replace(protocol, num_images=of_protocol.num_images, seed=of_protocol.seed)
    if plain != of_protocol or of_protocol.name not in list_protocols() or of_protocol.name == GENERAL:
        rules = [plain.to_dict(), real.sha256, real.extractor and real.extractor.weights_sha256]
        parts.append(hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:8])
    return "-".join(parts)
