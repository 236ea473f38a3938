"""diffusers' solvers that can take the place of a DDPM's scheduler."""

import copy
import inspect
from typing import Any

from diffusers import PNDMScheduler

from hfgen.errors import UsageError
from hfgen.noise import SeededNoise

SOLVERS = (  # each gives the right spread on Gaussian data: tests/test_diffusion_samplers.py
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)


def usable(scheduler: Any) -> Any:
    """A scheduler of its own, since `step` remembers.

    Raises:
        UsageError: one, or a setting, that would draw something else than what the model has learned.
    """
    if type(scheduler).__name__ not in SOLVERS:
        raise UsageError(
            f"{type(scheduler).__name__} does not draw from a model such as this one. Those that do: DDPMScheduler,\n"
            f"DDIMScheduler, {', '.join(SOLVERS)}."
        )
    spacing = scheduler.config.get("timestep_spacing", "leading")
    if isinstance(scheduler, PNDMScheduler) and spacing != "leading":
        raise UsageError(
            f"diffusers' PNDMScheduler steps past the level that is listed next with timestep_spacing {spacing}, and\n"
            "leaves noise in the images. Use leading, or another scheduler."
        )
    return copy.deepcopy(scheduler)


def scales_input(scheduler: Any) -> bool:
    """Whether its noise is not N(0, I), which the network's input is then made of."""
    return float(scheduler.init_noise_sigma) != 1.0


def step_options(scheduler: Any, noise: SeededNoise) -> dict[str, Any]:
    """Each image's own generator, where the solver draws."""
    takes = inspect.signature(scheduler.step).parameters
    return {"generator": noise.generators} if "generator" in takes else {}
