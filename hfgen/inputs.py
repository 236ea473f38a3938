"""Checks of what a pipeline's calls are given: latents, class labels and seeds."""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hfgen.errors import UsageError
from hfgen.noise import SeededNoise, draw_seed

CALL = ("batch_size", "generator", "seeds", "class_labels", "num_inference_steps", "output_type", "return_dict")


def check_latents(latents: Tensor, shape: Sequence[int]) -> None:
    """Raise a UsageError unless the latents are a tensor (B, *shape)."""
    if not isinstance(latents, Tensor) or tuple(latents.shape[1:]) != tuple(shape) or latents.ndim != len(shape) + 1:
        given = f"of shape {tuple(latents.shape)}" if isinstance(latents, Tensor) else type(latents).__name__
        raise UsageError(f"Latents are {given}; expected a tensor (B, {', '.join(map(str, shape))}).")


def labels_for(count: int, class_labels: Any, num_classes: int | None, device: torch.device) -> Tensor | None:
    """Return the class of each of `count` images, int64, on the device; None for a model without classes.

    Raises:
        UsageError: a model with classes is given no labels, too few or too many, or one outside its range; or a model
            without classes is given some.
    """
    if num_classes is None:
        if class_labels is not None:
            raise UsageError("This model is not class-conditional; it takes no class_labels.")
        return None
    if class_labels is None:
        raise UsageError("This model is class-conditional; give class_labels, one for each image.")
    try:
        labels = torch.as_tensor(class_labels, dtype=torch.int64, device=device)
    except (TypeError, ValueError) as error:
        raise UsageError(f"class_labels is {class_labels!r}; expected numbers, 0 to {num_classes - 1}.") from error
    labels = labels.expand(count) if labels.ndim == 0 else labels
    if len(labels) != count:
        raise UsageError(f"{len(labels)} class_labels for {count} images.")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise UsageError(f"class_labels must lie in 0..{num_classes - 1}.")
    return labels


def noise_of(
    batch_size: int,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    seeds: Sequence[int] | None,
    device: torch.device,
) -> SeededNoise:
    """Return one source of noise per image, from the arguments of `HFGenPipeline.__call__`.

    Raises:
        UsageError: they contradict each other, or one is of another type.
    """
    if not hasattr(batch_size, "__index__"):
        raise UsageError(f"batch_size is {batch_size!r}; expected the number of images. A prompt is not taken.")
    if seeds is not None and not hasattr(seeds, "__len__"):
        raise UsageError(f"seeds is {seeds!r}; expected one for each image, such as [{seeds!r}].")
    of_torch = [generator] if not isinstance(generator, Sequence) else generator
    if any(not isinstance(one, torch.Generator) for one in of_torch if generator is not None):
        raise UsageError(f"generator is {generator!r}; expected a torch.Generator, or one for each image.")
    if generator is not None and seeds is not None:
        raise UsageError("Give either generator or seeds, not both.")
    if batch_size < 1 or (seeds is not None and len(seeds) == 0):
        raise UsageError(f"batch_size is {batch_size}; at least one image must be asked for.")
    if isinstance(generator, Sequence):
        return SeededNoise(generator, device)
    drawn = [draw_seed(generator) for _ in range(batch_size)] if seeds is None else seeds
    return SeededNoise.from_seeds(checked_seeds(drawn), device)


def checked_seeds(seeds: Sequence[int]) -> list[int]:
    """Return seeds as integers of 64 bits.

    Raises:
        UsageError: one is anything else, which would give the image of another seed.
    """
    try:
        found = [operator.index(seed) for seed in seeds]
    except TypeError as error:
        raise UsageError(f"seeds must be whole numbers, one for each image; got {seeds!r}.") from error
    wrong = [seed for seed in found if not -(1 << 63) <= seed < 1 << 64]
    if wrong:
        raise UsageError(f"seeds must be of 64 bits; got {wrong[0]}.")
    return found


def noise_for(count: int, seeds: Sequence[int] | None, device: torch.device) -> SeededNoise:
    """Return one source of noise for each of `count` images; the default seeds are 0, 1, 2 ...

    Raises:
        UsageError: the seeds are not `count` integers of 64 bits.
    """
    checked = checked_seeds(range(count) if seeds is None else seeds)
    if len(checked) != count:
        raise UsageError(f"{len(checked)} seeds for {count} images.")
    return SeededNoise.from_seeds(checked, device)
