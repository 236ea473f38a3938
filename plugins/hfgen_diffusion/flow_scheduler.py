"""The times that a flow is asked at: diffusers' schedulers of flow matching, and one of the other paths.

Saved models name this module.
"""

import math
from typing import Any, Literal

import torch
from diffusers import ConfigMixin, FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler, SchedulerMixin
from diffusers.configuration_utils import register_to_config

from hfgen import UsageError, did_you_mean
from hfgen_diffusion.interpolant import Interpolant, Path, Prediction, interpolant_of

Spacing = Literal["scheduler", "uniform", "log_snr"]
SPACINGS = ("scheduler", "uniform", "log_snr")
RATIOS = 99.0, 1e-3  # σ/α between which times that are uniform in ln SNR lie, beside the two ends
OTHERWISE = ("use_dynamic_shifting", "invert_sigmas", "stochastic_sampling")  # settings that draw something else


class InterpolantScheduler(SchedulerMixin, ConfigMixin):
    """The path of a flow and the times at which it is sampled, equally far apart but for the shift.

    Args:
        num_train_timesteps: the network is given t times this.
        shift: above 1, more of the steps lie near the noise: t becomes s t / (1 + (s - 1) t) (Esser et al. 2024,
            arXiv:2403.03206, eq. 23), as larger images want.
        prediction_type: what the network predicts: the `"velocity"`, or the image, `"sample"` (Li & He 2025,
            arXiv:2511.13720), where it has too few channels for noise. The loss is the velocity's in both cases.
        interpolant: the path between image and noise: `"linear"`, `"trigonometric"` or `"variance_preserving"`.

    Raises:
        UsageError: a value outside its range.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        shift: float = 1.0,
        prediction_type: Prediction = "velocity",
        interpolant: Path = "linear",
    ) -> None:
        if not (shift > 0 and math.isfinite(shift)):
            raise UsageError(f"--scheduler.shift is {shift}; it must be above 0.")
        if num_train_timesteps < 1:
            raise UsageError(f"--scheduler.num_train_timesteps is {num_train_timesteps}; it must be at least 1.")
        self.end = Interpolant(interpolant, prediction_type).end
        self.set_timesteps(1)

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Set `sigmas`, the times between which the steps lead, and `timesteps`, what the network is given."""
        t = torch.linspace(1, 0, num_inference_steps + 1, dtype=torch.float64)
        t = self.config.shift * t / (1 + (self.config.shift - 1) * t)
        self.sigmas = t.clamp(min=self.end).float().to(device)
        self.timesteps = self.sigmas[:-1] * self.config.num_train_timesteps


def as_plain_as_can_be(scheduler: Any) -> Any:
    """Return diffusers' own scheduler in place of an `InterpolantScheduler` that describes the same flow.

    Raises:
        UsageError: a scheduler that is none of flow matching, or with a setting that samples otherwise.
    """
    config = scheduler.config
    if has_a_path(scheduler):
        if (config.prediction_type, config.interpolant) != ("velocity", "linear"):
            return scheduler
        # by keyword: diffusers takes what is given by position for a default, which `from_config` would drop
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=config.num_train_timesteps, shift=config.shift)
    if not isinstance(scheduler, (FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler)):
        raise UsageError(
            f"{type(scheduler).__name__} does not sample from flow matching. Those that do: InterpolantScheduler,\n"
            "FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler."
        )
    for name in OTHERWISE:
        if config.get(name, False):
            raise UsageError(f"--scheduler.{name} is true, which no model of flow_matching samples with.")
    return scheduler


def has_a_path(scheduler: Any) -> bool:
    """Return True for an `InterpolantScheduler`; a bundle has copies of that class, so an attribute tells."""
    return "interpolant" in scheduler.config


def solver_of(scheduler: Any) -> str:
    """Return the solver that a scheduler stands for: Heun's, but for diffusers' Euler."""
    return "euler" if isinstance(scheduler, FlowMatchEulerDiscreteScheduler) else "heun"


def times_of(scheduler: Any, num_inference_steps: int, spacing: str = "scheduler") -> list[float]:
    """The times from noise, 1, to images, one more than there are steps.

    Args:
        spacing: `"scheduler"` as its class has them: diffusers' step from 1 to 0.001 equally, and from there to 0;
            `"uniform"`; `"log_snr"`: equally far apart in ln(α/σ), close together near the image, as the flow of
            images with constant parts, which is tight there, wants.

    Raises:
        UsageError: no whole number of at least 1, or an unknown spacing.
    """
    count = num_inference_steps
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UsageError(f"num_inference_steps is {count!r}; expected a whole number, at least 1.")
    if spacing not in SPACINGS:
        raise UsageError(f"timestep_spacing is {spacing!r}.{did_you_mean(str(spacing), SPACINGS)}")
    interpolant = interpolant_of(scheduler)
    if spacing == "uniform":
        return torch.linspace(1, interpolant.end, count + 1, dtype=torch.float64).tolist()
    if spacing == "log_snr":
        first, last = map(math.log, RATIOS)
        inner = interpolant.time_of(torch.linspace(first, last, count + 1, dtype=torch.float64)[1:-1].exp())
        return [1.0, *(t for t in inner.tolist() if interpolant.least < t < 1), interpolant.least]
    listed = type(scheduler).from_config(scheduler.config)
    if isinstance(listed, FlowMatchHeunDiscreteScheduler):  # lists each time twice
        config = listed.config
        listed = FlowMatchEulerDiscreteScheduler(num_train_timesteps=config.num_train_timesteps, shift=config.shift)
    listed.set_timesteps(count)
    return listed.sigmas.tolist()
