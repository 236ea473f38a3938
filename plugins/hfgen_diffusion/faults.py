"""Settings of diffusers' schedulers that give wrong images without an error (diffusers 0.42.1): refused, or corrected
with a warning."""

import warnings
from typing import Any

from torch import Tensor

from hfgen import UsageError, did_you_mean

VARIANCE_TYPES = {  # of a scheduler's config -> what it stands for
    "fixed_small": "fixed_small",
    "fixed_small_log": "fixed_small",
    "fixed_large": "fixed_large",
    "fixed_large_log": "fixed_large",
    "learned_range": "learned_range",
}
LOW_START = 0.05  # of the image's variance in what sampling starts from
PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")


def check_scheduler(scheduler: Any) -> None:
    """Raise a UsageError for a scheduler with an invalid config; warn where diffusers would compute otherwise."""
    config, name = scheduler.config, type(scheduler).__name__
    if not {"num_train_timesteps", "beta_start"} <= set(config) or not hasattr(scheduler, "betas"):
        raise UsageError(f"{name} says nothing of a diffusion's noise levels; it cannot stand in a diffusion model.")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in PREDICTION_TYPES:
        raise UsageError(f"--scheduler.prediction_type is {prediction!r}.{did_you_mean(prediction, PREDICTION_TYPES)}")
    variance_type_of(scheduler)
    if config.get("rescale_betas_zero_snr", False) and prediction == "epsilon":
        raise UsageError(
            "With --scheduler.rescale_betas_zero_snr the last level is noise alone, and a prediction of that noise\n"
            "says nothing of the image: x_0 would be divided by zero. Use --scheduler.prediction_type v_prediction or "
            "sample."
        )
    if config.get("variance_type") == "fixed_large_log":
        warnings.warn(
            "variance_type fixed_large_log is NaN in diffusers' DDPMScheduler; it is taken as fixed_large, which is "
            "what it stands for.",
            stacklevel=3,
        )


def check_betas(betas: Tensor, config: Any) -> None:
    """Raise a UsageError unless each level adds some noise and, but for the last, leaves some of the image."""
    count = config.num_train_timesteps
    if len(betas) != count or count < 2:
        raise UsageError(
            f"--scheduler.num_train_timesteps is {count} for {len(betas)} betas; expected as many, at least 2."
        )
    if not bool((betas > 0).all() and (betas[:-1] < 1).all() and betas[-1] <= 1):
        raise UsageError(
            f"The scheduler's betas lie in [{float(betas.min()):g}, {float(betas.max()):g}]; each must be above 0 and "
            "below 1.\nChange --scheduler.beta_start, --scheduler.beta_end or --scheduler.beta_schedule."
        )


def warn_of_a_low_start(level: int, alpha_bar: float) -> None:
    """Warn if the first level is not nearly pure noise, from which sampling starts."""
    if alpha_bar > LOW_START:
        warnings.warn(
            f"the first level, {level}, should still hold {100 * alpha_bar:.0f} % of the image's variance, and "
            "sampling starts from noise: take other numbers of steps, or timestep_spacing trailing.",
            stacklevel=4,
        )


def variance_type_of(scheduler: Any) -> str:
    """`fixed_small`, `fixed_large` or `learned_range`; without one, as in DDIM's, `fixed_small`, which is η = 1."""
    given = scheduler.config.get("variance_type") or "fixed_small"
    if given == "learned":
        raise UsageError(
            "--scheduler.variance_type is learned: diffusers takes the network's raw output for a variance, which\n"
            "may be negative. Use learned_range, the interpolation of Nichol & Dhariwal (2021)."
        )
    if given not in VARIANCE_TYPES:
        raise UsageError(f"--scheduler.variance_type is {given!r}.{did_you_mean(given, VARIANCE_TYPES)}")
    return VARIANCE_TYPES[given]


def warn_of_other_steps(name: str, timesteps: list[int], num_train_timesteps: int, adds_noise: bool) -> None:
    """Warn if plain diffusers would sample another image, since it steps to another level than the next listed one.

    Args:
        name: class of the scheduler.
        timesteps: from the first to the last.
        adds_noise: whether plain diffusers adds noise after a last step from above 0.
    """
    if name == "DDIMScheduler":
        stride = num_train_timesteps // len(timesteps)
        for t, following in zip(timesteps, [*timesteps[1:], -1], strict=True):
            taken = t - stride
            if max(taken, -1) != following:
                warnings.warn(
                    f"diffusers' DDIMScheduler would step from {t} to {max(taken, -1)}, while the next listed step is "
                    f"{following}: hfgen takes that, and plain diffusers would draw another image.",
                    stacklevel=4,
                )
                return
    elif adds_noise and timesteps[-1] > 0:
        warnings.warn(
            f"diffusers' DDPMScheduler would add noise after its last step, from {timesteps[-1]}: hfgen does not, and "
            "plain diffusers would draw another image.",
            stacklevel=4,
        )
