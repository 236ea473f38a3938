"""Flow matching's training: the network learns the velocity of the path from images to noise."""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hfgen import Batch, Diagnosis, Objective, Update, UsageError
from hfgen_diffusion.coupling import own_rows, transported
from hfgen_diffusion.flow_diagnosis import losses_by_time
from hfgen_diffusion.interpolant import interpolant_of
from hfgen_diffusion.label_dropout import LabelDropout


class FlowMatchingObjective(Objective):
    """E || v̂(x_t, t) - v ||² (Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2023, arXiv:2209.03003, eq. 1).

    Args:
        time_distribution: of t: `"logit_normal"` is sigmoid(m + s n) with n from N(0, 1) (Esser et al. 2024,
            arXiv:2403.03206, section 3.1); `"uniform"` is U(0, 1).
        logit_mean: m; above 0 there is more noise. Default 0.8 where the image is predicted (Li & He 2025,
            arXiv:2511.13720, table 9), else 0.
        logit_std: s; default 0.8 where the image is predicted, else 1.
        coupling: which noise each image is paired with: `"independent"`, or `"optimal_transport"`: that of the
            batch with which the squared distances are least in all (Tong et al. 2024, arXiv:2302.00482,
            section 3.2), which straightens the flow, the less the more dimensions the images have.
        conditioning_dropout_prob: of a class-conditional model, how often it learns without the label, which
            classifier-free guidance asks for (Ho & Salimans 2022, arXiv:2207.12598): of 0, guidance is worth nothing.
    """

    def __init__(
        self,
        unet: nn.Module,
        scheduler: Any,
        time_distribution: Literal["logit_normal", "uniform"] = "logit_normal",
        logit_mean: float | None = None,
        logit_std: float | None = None,
        coupling: Literal["independent", "optimal_transport"] = "independent",
        conditioning_dropout_prob: float = 0.1,
    ) -> None:
        _check_choice("time_distribution", time_distribution, ("logit_normal", "uniform"))
        _check_choice("coupling", coupling, ("independent", "optimal_transport"))
        self.unet, self.interpolant = unet, interpolant_of(scheduler)
        usual = (0.8, 0.8) if self.interpolant.prediction == "sample" else (0.0, 1.0)
        logit_mean = usual[0] if logit_mean is None else logit_mean
        logit_std = usual[1] if logit_std is None else logit_std
        if not math.isfinite(logit_mean):
            raise UsageError(f"--objective.logit_mean is {logit_mean}; it must be a number.")
        if not (logit_std > 0 and math.isfinite(logit_std)):
            raise UsageError(f"--objective.logit_std is {logit_std}; it must be above 0.")
        self.time_scale = scheduler.config.num_train_timesteps
        self.time_distribution, self.logit_mean, self.logit_std = time_distribution, logit_mean, logit_std
        self.coupled = coupling == "optimal_transport"
        self.labels = LabelDropout(unet, conditioning_dropout_prob)

    def training_step(self, batch: Batch) -> Iterator[Update]:
        """E || v̂ - v ||² over images, times t and noise ε, in float32."""
        x = batch["pixel_values"].float()
        t = self.times()
        x, epsilon = self.pairs(x)
        x_t = self.interpolant.noised(x, epsilon, t)
        labels = self.labels(batch, self.noise)
        output = self.unet(x_t, (self.time_scale * t).float(), labels, return_dict=False)[0].float()
        yield Update("unet", (self._wanted(x, epsilon, x_t, t) - self._said(output, x_t, t)).square().mean())

    def pairs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return images and the noise that each is paired with, (B, C, H, W)."""
        epsilon = self.noise.normal(*x.shape[1:])
        if self.coupled:
            epsilon = own_rows(transported(self.gather(x), self.gather(epsilon)), len(x))
        return x, epsilon

    def times(self) -> Tensor:
        """Draw t of each image, (B,), float64, in (0, 1)."""
        if self.time_distribution == "uniform":
            return self.noise.uniform().double()
        return torch.sigmoid(self.logit_mean + self.logit_std * self.noise.normal().double())

    def _said(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return self.interpolant.velocity_of(output, x_t, t)

    def _wanted(self, x: Tensor, epsilon: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """v, or what stands for it where a predicted image is divided by no less than 0.05."""
        if self.interpolant.prediction == "velocity":
            return self.interpolant.velocity(x, epsilon, t)
        return self.interpolant.velocity_of(x, x_t, t)

    @classmethod
    @torch.no_grad()
    def diagnose(cls, pipeline: Any, examples: Batch) -> Diagnosis:
        """The loss of some training images at times from image to noise: where along the path the network errs."""
        return Diagnosis(losses_by_time(pipeline, examples))


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"--objective.{name} is {value!r}; it is {' or '.join(map(repr, choices))}.")
