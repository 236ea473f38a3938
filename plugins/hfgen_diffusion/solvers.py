"""diffusers' solvers that can take the place of a DDPM's scheduler."""

import copy
import inspect
import math
from typing import Any

import torch
from diffusers import PNDMScheduler
from torch import Tensor

from hfgen import SeededNoise, UsageError
from hfgen_diffusion.course import Course
from hfgen_diffusion.process import betas_of
from hfgen_diffusion.sampling import Denoiser, solver_step
from hfgen_diffusion.timesteps import level_of

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
    name, count = type(scheduler).__name__, checked_count(scheduler, num_inference_steps, default)
    try:
        scheduler.set_timesteps(count, device)
    except ValueError as error:
        raise UsageError(f"num_inference_steps is {count}, which {name} cannot take: {error}") from error


def checked_count(scheduler: Any, num_inference_steps: int | None, default: int) -> int:
    """Return the number of steps; raise a UsageError unless it is at most half of the levels."""
    most = max(1, scheduler.config.num_train_timesteps // 2)
    count = min(default, most) if num_inference_steps is None else num_inference_steps
    if not 1 <= count <= most:
        name = type(scheduler).__name__
        raise UsageError(f"num_inference_steps is {count}; {name} takes 1 to {most} of this model's levels.")
    return count


def scales_input(scheduler: Any) -> bool:
    """Return True for a solver whose noise is not N(0, I): the network's input is scaled from it."""
    return float(scheduler.init_noise_sigma) != 1.0


def step_options(scheduler: Any, noise: SeededNoise) -> dict[str, Any]:
    """Return the options of `step`: each image's own generator, if the solver draws noise."""
    takes = inspect.signature(scheduler.step).parameters
    return {"generator": noise.generators} if "generator" in takes else {}


# --- from given images ----------------------------------------------------------------------------------------------


def shortened(scheduler: Any, strength: float, num_inference_steps: int | None, default: int) -> tuple[Any, int]:
    """Return the scheduler of the lowest levels alone, `strength` of all, and the number of steps through them.

    So a solver begins there without a history of the steps before."""
    num_levels = 1 + level_of(strength, scheduler.config.num_train_timesteps)
    count = round(strength * checked_count(scheduler, num_inference_steps, default))
    betas = betas_of(scheduler)[:num_levels].tolist()
    config = {**scheduler.config, "num_train_timesteps": num_levels, "trained_betas": betas}
    config |= {"rescale_betas_zero_snr": False} if "rescale_betas_zero_snr" in config else {}
    config |= {"lower_order_final": True} if "lower_order_final" in config else {}  # of one step, where that fails
    first_is_listed = {"timestep_spacing": "trailing"}
    config |= {"skip_prk_steps": True} if isinstance(scheduler, PNDMScheduler) else first_is_listed
    config.pop("_use_default_values", None)  # with which `from_config` would leave out what is as its default
    return type(scheduler).from_config(config), min(max(1, count), max(1, num_levels // 2))


def scales_at(scheduler: Any, index: int) -> tuple[float, float]:
    """Return α and σ of the state x = α image + σ ε at a listed step: of some solvers α is 1 throughout."""
    if isinstance(scheduler, PNDMScheduler):
        alpha_bar = float(scheduler.alphas_cumprod[scheduler.timesteps[index]])
        return math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    sigma = float(scheduler.sigmas[index])
    alpha = 1 / math.sqrt(1 + sigma**2) if hasattr(scheduler, "_sigma_to_alpha_sigma_t") else 1.0
    return alpha, alpha * sigma


def solver_course(denoise: Denoiser, scheduler: Any, options: dict[str, Any]) -> Course:
    """Return the course of a solver, which begins without a history wherever it is sent back.

    Args:
        scheduler: with its timesteps set.
        options: of `step`.

    Raises:
        UsageError: a scheduler that cannot be sent back.
    """
    if isinstance(scheduler, PNDMScheduler):
        raise UsageError(
            "A PNDMScheduler counts its steps and cannot take some of them again, as filling in does; use another\n"
            "scheduler, such as ddim or dpmsolver."
        )
    calls = len(scheduler.timesteps)
    starts = range(0, calls, scheduler.order)  # those of the second order list two calls for each step but the last
    going: dict[int, Any] = {}  # the step that is next -> the scheduler with the history of those before

    def step(x: Tensor, i: int) -> Tensor:
        own = going.pop(i, None)
        going.clear()
        if own is None:
            own = copy.deepcopy(scheduler)
            own.set_begin_index(starts[i])
        for t in scheduler.timesteps[starts[i] : starts[i] + scheduler.order]:
            known = {"order": min(4, len(own.derivatives) + 1)} if hasattr(own, "derivatives") else {}  # LMS's
            x = solver_step(denoise, own, x, t, {**options, **known})
        going[i + 1] = own
        return x

    return Course([*(scales_at(scheduler, start) for start in starts), (1.0, 0.0)], step)
