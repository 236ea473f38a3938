"""diffusers' solvers that can take the place of a DDPM's scheduler."""

import copy
import inspect
from typing import Any

import torch
from diffusers import PNDMScheduler

from hfgen import SeededNoise, UsageError

SOLVERS = (  # each gives the right spread on Gaussian data: tests/families/test_diffusion_samplers.py
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
    """Return a copy of the scheduler, since `step` keeps state.

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
    takes = inspect.signature(type(scheduler).__init__).parameters
    if scheduler.config.get("rescale_betas_zero_snr", False) and "rescale_betas_zero_snr" not in takes:
        raise UsageError(f"{type(scheduler).__name__} knows nothing of rescale_betas_zero_snr; use DDIMScheduler.")
    own = copy.deepcopy(scheduler)
    if own.config.get("variance_type"):
        own.register_to_config(variance_type=None)  # it is split off before; some would cut what is left to 3 channels
    return own


def set_timesteps(scheduler: Any, num_inference_steps: int | None, default: int, device: torch.device) -> None:
    """Set the number of steps, at most half of the levels: with more, some solvers fail without an error.

    Raises:
        UsageError: more or fewer than the solver can take.
    """
    name, most = type(scheduler).__name__, max(1, scheduler.config.num_train_timesteps // 2)
    count = min(default, most) if num_inference_steps is None else num_inference_steps
    if not 1 <= count <= most:
        raise UsageError(f"num_inference_steps is {count}; {name} takes 1 to {most} of this model's levels.")
    try:
        scheduler.set_timesteps(count, device)
    except ValueError as error:
        raise UsageError(f"num_inference_steps is {count}, which {name} cannot take: {error}") from error


def scales_input(scheduler: Any) -> bool:
    """Return True for a solver whose noise is not N(0, I): the network's input is scaled from it."""
    return float(scheduler.init_noise_sigma) != 1.0


def step_options(scheduler: Any, noise: SeededNoise) -> dict[str, Any]:
    """Return the options of `step`: each image's own generator, if the solver draws noise."""
    takes = inspect.signature(scheduler.step).parameters
    return {"generator": noise.generators} if "generator" in takes else {}
