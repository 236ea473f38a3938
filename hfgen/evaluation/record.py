"""One measurement of a model by a protocol: images drawn, compared, and the whole written down."""

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
from torch import Tensor, nn

from hfgen import run_folder
from hfgen.evaluation.measure import Real
from hfgen.evaluation.sample_metrics import DIMENSIONS, Estimate
from hfgen.files import looks_local
from hfgen.results.metrics import METRICS
from hfgen.results.protocol import GENERAL, Protocol, list_protocols

LIBRARIES = ("hfgen", "torch", "torchmetrics", "prdc", "diffusers")


# --- the record -------------------------------------------------------------------------------------------------
def record(
    pipeline: Any,
    real: Real,
    protocol: Protocol,
    values: Mapping[str, Estimate],
    told: Mapping[str, Any],
    options: Mapping[str, Any],
    split: str | None = None,
) -> dict[str, Any]:
    """All that says what numbers these are; plain JSON, without paths."""
    environment = run_folder.environment()
    count = protocol.num_images
    drawn = real.extractor is not None and any(METRICS[name].of_samples for name in values)
    warnings = []
    if drawn and real.extractor is not None and count < DIMENSIONS * real.extractor.num_features:
        warnings.append(f"{count} images are too few for these values; a smoke test only")
    if real.train_sha256 == real.pixels.sha256:
        warnings.append("the training split holds the same images, so there is no floor of other real ones")
    rules = protocol.to_dict()
    if rules["dataset"] is not None and looks_local(rules["dataset"]):
        rules["dataset"] = Path(rules["dataset"]).name  # a result is public
    return {
        "metric": "evaluation",
        "protocol": rules,
        "values": {name: estimate.to_dict() for name, estimate in values.items()},
        "floor": {name: estimate.to_dict() for name, estimate in real.floor.items() if name in values},
        **told,
        **({"warning": "; ".join(warnings)} if warnings else {}),
        "reference": {
            "name": real.images.dataset_id or Path(real.images.name).name,
            "split": split,
            "images": len(real.pixels.pixels),
            "sha256": real.pixels.sha256,
            "train_sha256": real.train_sha256,
        },
        "extractor": real.extractor.declaration() if real.extractor is not None else None,
        "model": {"pipeline": type(pipeline).__name__, "weights_sha256": weights_sha256(pipeline)},
        "sampler": sampler(pipeline, options),
        "versions": {name: version(name) for name in LIBRARIES},
        "hardware": {name: environment[name] for name in ("processor", "threads", "accelerators", "platform")},
        "python": platform.python_version(),
    }


def weights_sha256(pipeline: Any) -> str:
    """Of all networks' tensors, by their names; the same whether they were just trained or loaded."""
    digest = hashlib.sha256()
    for component, part in sorted(pipeline.components.items()):
        for name, tensor in sorted(part.state_dict().items()) if isinstance(part, nn.Module) else ():
            data = tensor.detach().cpu().contiguous()
            digest.update(f"{component}.{name} {data.dtype} {tuple(data.shape)}".encode())
            digest.update(data.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def identity(pipeline: Any, protocol: Protocol, options: Mapping[str, Any], extractor_sha256: str | None) -> str:
    """Of everything that what is drawn depends on."""
    versions = [version("hfgen"), torch.__version__]
    what = [weights_sha256(pipeline), protocol.to_dict(), sampler(pipeline, options), extractor_sha256, versions]
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()


def sampler(pipeline: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """How images are drawn: the scheduler with its settings, and the options of the call."""
    scheduler = getattr(pipeline, "scheduler", None)
    config = {} if scheduler is None else {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
    plain = {key: _plain(value) for key, value in config.items()}
    dtype = str(pipeline.dtype).removeprefix("torch.")
    return {"scheduler": type(scheduler).__name__, "config": plain, "options": dict(options), "dtype": dtype}


def _plain(value: Any) -> Any:
    """As JSON takes it: some of diffusers' schedulers hold infinite settings."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Tensor | np.ndarray | tuple | list):
        return [_plain(part) for part in value]
    return value if isinstance(value, int | float | str | bool | None) else str(value)


def result_name(protocol: Protocol, options: Mapping[str, Any], of_protocol: Protocol, real: Real) -> str:
    """`mnist-v1-digitnet-mnist-seed0`, and what departs from the protocol and the model's own sampler.

    Where that cannot be told in words, some digits of a hash stand for the rules."""
    parts = [protocol.name, *([protocol.extractor] if protocol.extractor else []), f"seed{protocol.seed}"]
    parts += [f"n{protocol.num_images}"] if protocol.num_images != of_protocol.num_images else []
    parts += [f"{name}{value}" for name, value in sorted(options.items())]
    plain = replace(protocol, num_images=of_protocol.num_images, seed=of_protocol.seed)
    if plain != of_protocol or of_protocol.name not in list_protocols() or of_protocol.name == GENERAL:
        rules = [plain.to_dict(), real.pixels.sha256, real.extractor and real.extractor.weights_sha256]
        parts.append(hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:8])
    return "-".join(parts)
