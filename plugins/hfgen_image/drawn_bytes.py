"""Images of seeds as bytes, from a pipeline of a family or of diffusers' own."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hfgen.errors import CheckError, UsageError
from hfgen.pipeline import HFGenPipeline


def draw_bytes(pipeline: Any, seeds: Sequence[int], options: Mapping[str, Any]) -> Tensor:
    """(B, C, H, W), uint8, on the CPU: an image in [-1, 1] is cut off there, then rounded; of any family alike.

    Raises:
        UsageError: a pipeline that does not sample images from `batch_size` and `generator` alone.
        CheckError: a pixel that is not a number, or outside [0, 1].
    """
    if isinstance(pipeline, HFGenPipeline):
        images = pipeline(seeds=seeds, output_type="pt", **options).images
    else:
        images = _of_another(pipeline, seeds, options)
    images = images.float().cpu()
    low, high = images.aminmax()
    if not (low >= 0 and high <= 1):
        raise CheckError(f"Sampled images hold pixels from {low:g} to {high:g}, outside [0, 1]; nothing was measured.")
    return (images * 255).round().to(torch.uint8)


def _of_another(pipeline: Any, seeds: Sequence[int], options: Mapping[str, Any]) -> Tensor:
    """Call a pipeline of diffusers' own, with one generator on the CPU for each image."""
    taken = inspect.signature(pipeline.__call__).parameters
    needed = [n for n, p in taken.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    if "batch_size" not in taken or "generator" not in taken or needed:
        raise UsageError(
            f"{type(pipeline).__name__} does not sample images from batch_size and generator alone"
            + (f": it wants {', '.join(needed)}." if needed else ".")
        )
    unknown = sorted(set(options) - set(taken))
    if unknown:
        raise UsageError(f"{type(pipeline).__name__} takes no {', '.join(unknown)}.")
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    images = pipeline(batch_size=len(seeds), generator=generators, output_type="np", **options).images
    return torch.from_numpy(images).permute(0, 3, 1, 2)
