"""Which of the T levels a sampler visits."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

from hfgen.errors import UsageError, did_you_mean
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
    if not 1 <= num_inference_steps <= count:
        raise UsageError(f"num_inference_steps is {num_inference_steps}; this model has {count}.")
    spacing = spacing or scheduler.config.get("timestep_spacing", "leading")
    if spacing not in SPACINGS:
        raise UsageError(f"timestep_spacing is {spacing!r}.{did_you_mean(spacing, SPACINGS)}")
    if spacing == "quadratic":
        return quadratic(count, num_inference_steps)
    listed = type(scheduler).from_config(scheduler.config, timestep_spacing=spacing)
    listed.set_timesteps(num_inference_steps)
    return check_timesteps(listed.timesteps.tolist(), count)


def quadratic(num_train_timesteps: int, num_inference_steps: int) -> list[int]:
    """τ_i = floor(c i²), up to 0.8 T, the highest first; of many steps, some near 0 are one.

    >>> quadratic(1000, 10)
    [800, 632, 483, 355, 246, 158, 88, 39, 9, 0]
    """
    top = math.sqrt(0.8 * num_train_timesteps)
    steps = range(num_inference_steps)
    found = {int((top * i / max(1, num_inference_steps - 1)) ** 2 + 1e-9) for i in steps}
    return sorted(found, reverse=True)


def check_timesteps(timesteps: Sequence[int], num_train_timesteps: int) -> list[int]:
    """Raise a UsageError unless they fall from at most T - 1 to at least 0."""
    found = list(timesteps)
    falling = all(t > following for t, following in pairwise(found))
    if not found or not falling or found[0] >= num_train_timesteps or found[-1] < 0:
        raise UsageError(f"timesteps is {found}; expected falling numbers, {num_train_timesteps - 1} to 0.")
    return found


def steps(timesteps: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(from, to) of each step, the last one to the END."""
    return pairwise([*timesteps, END])
