"""The path from data to noise that flow matching learns, x_t = α(t) x + σ(t) ε, and what a network says of it.

t = 1 is noise and t = 0 is data, as in diffusers; v = dx_t/dt = α'(t) x + σ'(t) ε. Papers with t = 1 for data, such as
Lipman et al. 2023 (arXiv:2210.02747), have -v.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from hfgen import UsageError, did_you_mean

Path = Literal["linear", "trigonometric", "variance_preserving"]
Prediction = Literal["velocity", "sample"]
PREDICTIONS = ("velocity", "sample")
LEAST_SIGMA = 0.05  # what a predicted image is divided by, at least, in the loss and in the sampler
BETA = 0.1, 20.0  # of the variance-preserving path: β(t) rises from the one to the other


class Scales(NamedTuple):
    """α, σ and their derivatives by t, shaped for images."""

    alpha: Tensor
    sigma: Tensor
    d_alpha: Tensor
    d_sigma: Tensor

    @property
    def turn(self) -> Tensor:
        """α σ' - α' σ: 1 on the linear path, π/2 on the trigonometric one."""
        return self.alpha * self.d_sigma - self.d_alpha * self.sigma


class Interpolant:
    """x_t = α(t) x + σ(t) ε (Albergo, Boffi & Vanden-Eijnden 2023, arXiv:2303.08797, section 3).

    Args:
        path: `"linear"`: 1 - t, t (Liu et al. 2023, arXiv:2209.03003); `"trigonometric"`: cos and sin of πt/2;
            `"variance_preserving"`: α² = exp(-∫β), the diffusion of Song et al. 2021 (arXiv:2011.13456, appendix B).
        prediction: what a network says at (x_t, t): v, or the image x.

    Attributes:
        end: t at which sampling ends and images begin; above 0 where v is infinite at 0.
        least: the same of steps that become small there: of the adaptive solver in a likelihood, and of log-SNR steps.
    """

    def __init__(self, path: str = "linear", prediction: str = "velocity") -> None:
        if path not in PATHS:
            raise UsageError(f"--scheduler.interpolant is {path!r}.{did_you_mean(path, PATHS)}")
        if prediction not in PREDICTIONS:
            raise UsageError(f"--scheduler.prediction_type is {prediction!r}.{did_you_mean(prediction, PREDICTIONS)}")
        self.path, self.prediction = path, prediction
        self.end, self.least = (1e-3, 1e-5) if path == "variance_preserving" else (0.0, 0.0)  # σ: 0.0105, 0.0010

    def scales(self, t: Tensor, like: Tensor) -> Scales:
        """α, σ, α' and σ' at times t, () or (B,), computed in float64, in the type of `like`, (B, ...)."""
        found = PATHS[self.path](t.double().clamp(min=self.least))
        shape = (-1, *[1] * (like.ndim - 1)) if t.ndim else ()
        return Scales(*(value.reshape(shape).to(like) for value in found))

    def noised(self, x: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
        """x_t, (B, ...)."""
        at = self.scales(t, x)
        return at.alpha * x + at.sigma * epsilon

    def velocity(self, x: Tensor, epsilon: Tensor, t: Tensor) -> Tensor:
        """dx_t/dt, (B, ...)."""
        at = self.scales(t, x)
        return at.d_alpha * x + at.d_sigma * epsilon

    def velocity_of(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """v that a network's output stands for: of an image, (σ' x_t - (α σ' - α' σ) x̂) / max(σ, 0.05).

        On the linear path that is (x_t - x̂) / max(t, 0.05), as in Li & He 2025 (arXiv:2511.13720, section 4)."""
        if self.prediction == "velocity":
            return output
        at = self.scales(t, x_t)
        return (at.d_sigma * x_t - at.turn * output) / at.sigma.clamp(min=LEAST_SIGMA)

    def image(self, v: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """x̂ of a velocity at x_t: (σ' x_t - σ v) / (α σ' - α' σ); x_t - t v on the linear path."""
        at = self.scales(t, x_t)
        return (at.d_sigma * x_t - at.sigma * v) / at.turn

    def score(self, v: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """∇ ln p_t(x_t) = -ε̂ / σ; -(x_t + (1 - t) v) / t on the linear path. t is above 0."""
        at = self.scales(t, x_t)
        return -(at.alpha * v - at.d_alpha * x_t) / (at.turn * at.sigma)

    def time_of(self, noise_to_signal: Tensor) -> Tensor:
        """t at which σ/α has this value, float64."""
        ratio = noise_to_signal.double()
        if self.path == "linear":
            return ratio / (1 + ratio)
        if self.path == "trigonometric":
            return torch.arctan(ratio) * 2 / math.pi
        low, high = BETA
        integral = torch.log1p(ratio.square())  # of β
        return 2 * integral / (low + (low**2 + 2 * (high - low) * integral).sqrt())


def linear(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """α, σ, α', σ' of the straight line."""
    return 1 - t, t, -torch.ones_like(t), torch.ones_like(t)


def trigonometric(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """α, σ, α', σ' of a quarter of a circle."""
    angle = t * math.pi / 2
    return angle.cos(), angle.sin(), -angle.sin() * math.pi / 2, angle.cos() * math.pi / 2


def variance_preserving(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """α, σ, α', σ' of a diffusion with β(t) = 0.1 + 19.9 t; of noise alone there is 0.9999 at t = 1."""
    low, high = BETA
    integral, beta = low * t + (high - low) * t.square() / 2, low + (high - low) * t
    alpha, sigma = (-integral / 2).exp(), (-torch.expm1(-integral)).sqrt()
    return alpha, sigma, -beta * alpha / 2, beta * alpha.square() / (2 * sigma)


PATHS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor, Tensor, Tensor]]] = {
    "linear": linear,
    "trigonometric": trigonometric,
    "variance_preserving": variance_preserving,
}


def interpolant_of(scheduler: Any) -> Interpolant:
    """Return the path and prediction of a scheduler's config; diffusers' own are linear, and of the velocity."""
    config = scheduler.config
    return Interpolant(config.get("interpolant", "linear"), config.get("prediction_type", "velocity"))
