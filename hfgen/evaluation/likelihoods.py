"""Measuring a pipeline on data it was not trained on; the results stand in `evaluation/` of its folder."""

import inspect
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hfgen.data.images import Images
from hfgen.errors import UsageError
from hfgen.files import write_text
from hfgen.likelihood import LogLikelihood
from hfgen.pipeline import HFGenPipeline
from hfgen.results.records import FOLDER
from hfgen.settings.resolve import typed_options

BATCH = 500


def log_likelihood(
    pipeline: HFGenPipeline,
    images: Images,
    indices: Sequence[int] | None = None,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
    pixels: Tensor | None = None,
    **options: Any,
) -> LogLikelihood:
    """ln p(x), or its bound, of a dataset's images; image i has seed i, so that any part of them can be repeated.

    Args:
        images: of the pipeline's own size and channels; or of another size, and `pixels`.
        indices: which images, default all.
        progress: wraps the starts of the batches.
        pixels: all of the images, brought to the pipeline's size: (N, C, H, W), uint8.
        options: of the family's `log_likelihood`, such as `num_importance_samples`.

    Raises:
        UsageError: the family has no likelihood, or the images are not what it was trained on.
    """
    unknown = sorted(set(options) - set(inspect.signature(pipeline.log_likelihood).parameters))
    if unknown:
        raise UsageError(f"{type(pipeline).__name__}.log_likelihood takes no {', '.join(unknown)}.")
    indices = range(len(images)) if indices is None else indices
    found = []
    for start in progress(range(0, len(indices), BATCH)):
        seeds = indices[start : start + BATCH]
        labels = None if pipeline.num_classes is None or images.labels is None else images.labels[list(seeds)]
        x = images.tensor(seeds) if pixels is None else pixels[list(seeds)].float() / 127.5 - 1
        found.append(pipeline.log_likelihood(x, labels, seeds=seeds, **options))
    one = found[0]
    return LogLikelihood(
        torch.cat([part.nats for part in found]),
        one.kind,
        one.num_dimensions,
        one.num_values,
        one.num_importance_samples,
        one.method,
    )


def metric_names(pipeline: HFGenPipeline) -> list[str]:
    """Which likelihoods such a pipeline has, in the names of `hfgen.results.metrics`."""
    if type(pipeline).log_likelihood is HFGenPipeline.log_likelihood:
        return []
    return ["nats"] if pipeline.is_density else ["bits_per_dim", "nats"]


GIVEN = ("self", "images", "class_labels", "seeds")  # to `log_likelihood` by the evaluation itself


def likelihood_options(pipeline: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Check options of the family's `log_likelihood`, and convert them to the types that its signature annotates.

    Raises:
        UsageError: an option that this family's `log_likelihood` does not take, or a value of another type.
    """
    if not options:
        return {}
    parameters = inspect.signature(type(pipeline).log_likelihood, eval_str=True).parameters
    taken = {name: parameter for name, parameter in parameters.items() if name not in GIVEN}
    if not taken:
        raise UsageError(
            f"--likelihood.{next(iter(options))}: the log_likelihood of {type(pipeline).__name__} takes no options."
        )
    return typed_options(taken, options, "--likelihood")


def write_log_likelihood(
    folder: Path, result: LogLikelihood, data: str, split: str, name: str = "log_likelihood"
) -> Path:
    """`evaluation/NAME.json`: the number with all that says what number it is."""
    facts = {
        "metric": "log_likelihood",
        "data": Path(data).name,
        "split": split,
        "images": len(result.nats),
        "nats": float(result.nats.mean()),
        "standard_error": result.standard_error if len(result.nats) > 1 else None,
        "bits_per_dim": None if result.num_values is None else float(result.bits_per_dim.mean()),
        "kind": result.kind,
        "method": result.method,
        "num_importance_samples": result.num_importance_samples,
        "num_dimensions": result.num_dimensions,
        "num_values": result.num_values,
        "seeds": "image i has seed i",
    }
    return _write(folder, name, facts)


def sampling_times(
    pipeline: HFGenPipeline, num_inference_steps: Sequence[int], batch_size: int, repeats: int = 3
) -> list[dict[str, Any]]:
    """Median seconds of a call for `batch_size` images as tensors, by number of steps, after a first short call."""
    pipeline(batch_size=batch_size, num_inference_steps=min(num_inference_steps), output_type="pt")
    found = []
    for steps in num_inference_steps:
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            pipeline(batch_size=batch_size, num_inference_steps=steps, output_type="pt").images.cpu()
            seconds.append(time.perf_counter() - start)
        scheduler = type(pipeline.scheduler).__name__
        found.append({"scheduler": scheduler, "num_inference_steps": steps, "seconds": statistics.median(seconds)})
    return found


def write_sampling_times(folder: Path, rows: Sequence[dict[str, Any]], batch_size: int, how: str) -> Path:
    """`evaluation/sampling_time.json`: what `sampling_times` found, and on what."""
    return _write(
        folder, "sampling_time", {"metric": "sampling_time", "batch_size": batch_size, "how": how, "rows": list(rows)}
    )


def _write(folder: Path, name: str, facts: dict[str, Any]) -> Path:
    path = folder / FOLDER / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(facts, indent=2) + "\n")
    return path
