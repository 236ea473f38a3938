"""The loss of a flow at times from the image to noise, which shows where along the path the network errs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hfgen import SeededNoise

EXAMPLES = 64  # training images
PERCENT = (10, 30, 50, 70, 90)  # of the way to noise


def losses_by_time(pipeline: Any, examples: Mapping[str, Tensor]) -> dict[str, float]:
    """Return E || v̂ - v ||² over some images, with noise that is always the same, at each of a few times."""
    x, labels = examples["pixel_values"][:EXAMPLES].float(), examples.get("class_labels")
    velocity = pipeline.velocity(None if labels is None else labels[:EXAMPLES])
    epsilon = SeededNoise.from_seeds(range(len(x)), x.device).normal(*x.shape[1:])
    found: dict[str, float] = {"images": len(x)}
    for percent in PERCENT:
        t = torch.tensor(percent / 100, dtype=torch.float64, device=x.device)
        error = velocity(pipeline.interpolant.noised(x, epsilon, t), t) - pipeline.interpolant.velocity(x, epsilon, t)
        found[f"velocity_loss_t{percent}"] = float(error.square().mean())
    return found
