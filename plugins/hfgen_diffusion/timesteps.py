"""The choice of levels, among all T, that a sampler visits."""

import math
import operator
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

from hfgen import UsageError, did_you_mean
from hfgen_diffusion.process import END

Spacing = Literal["leading", "trailing", "linspace", "quadratic"]
SPACINGS = ("leading", "trailing", "linspace", "quadratic")


def timesteps_of(scheduler: Any, num_inference_steps: int, spacing: str | None = None) -> list[int]:
    """The levels from the noisiest to the last, as diffusers lists them; `quadratic` as Song et al. 2021
    (arXiv:2010.02502, appendix D.2) for CIFAR-10.

    Raises:
        UsageError: more steps than the model was trained on, or an unknown spacing.
    """
    count = scheduler.config.num_train_timesteps
    check_count(num_inference_steps, count)
    spacing = spacing or scheduler.config.get("timestep_spacing", "leading")
    if spacing not in SPACINGS:
        raise UsageError(f"timestep_spacing is {spacing!r}.{did_you_mean(spacing, SPACINGS)}")
    if num_inference_steps == count:
        return list(range(count))[::-1]
    if spacing == "quadratic":
        return quadratic(count, num_inference_steps)
    listed = type(scheduler).from_config(scheduler.config, timestep_spacing=spacing)
    listed.set_timesteps(num_inference_steps)
    # in floating point, trailing may list one more, below 0
    return check_timesteps(listed.timesteps.tolist()[:num_inference_steps], count)


def check_count(num_inference_steps: int, most: int) -> None:
    """Raise a UsageError unless the number of steps is a whole number from 1 to the most."""
    whole = isinstance(num_inference_steps, int) and not isinstance(num_inference_steps, bool)
    if not whole or not 1 <= num_inference_steps <= most:
        raise UsageError(f"num_inference_steps is {num_inference_steps!r}; this model has {most}.")


def quadratic(num_train_timesteps: int, num_inference_steps: int) -> list[int]:
    """τ_i = floor(c i²), up to 0.8 T, the highest first; of many steps, some near 0 are one.

    >>> quadratic(1000, 10)
    [800, 632, 483, 355, 246, 158, 88, 39, 9, 0]
    """
    top = math.sqrt(0.8 * num_train_timesteps)
    parts = max(1, num_inference_steps - 1)
    found = {int((top * i / parts) ** 2 + 1e-9) for i in range(parts, parts - num_inference_steps, -1)}
    return sorted(found, reverse=True)


def check_timesteps(timesteps: Sequence[int], num_train_timesteps: int) -> list[int]:
    """Raise a UsageError unless they fall from at most T - 1 to at least 0."""
    try:
        found = [operator.index(t) for t in timesteps]
    except TypeError as error:
        raise UsageError(f"timesteps is {timesteps!r}; expected a list of whole numbers.") from error
    falling = all(t > following for t, following in pairwise(found))
    if not found or not falling or found[0] >= num_train_timesteps or found[-1] < 0:
        shown = ", ".join(map(str, found[:5])) + (" ..." if len(found) > 5 else "")
        raise UsageError(f"timesteps is [{shown}]; expected falling numbers, {num_train_timesteps - 1} to 0.")
    return found


def steps(timesteps: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(from, to) of each step, the last one to the END."""
    return pairwise([*timesteps, END])


def level_of(strength: float, num_train_timesteps: int) -> int:
    """Return the level at which an edit begins: `strength` T levels, at least one, have added noise to the image.

    >>> level_of(0.3, 1000), level_of(1e-9, 1000)
    (299, 0)
    """
    return max(1, round(strength * num_train_timesteps)) - 1
