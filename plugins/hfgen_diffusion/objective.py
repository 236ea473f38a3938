"""Diffusion's training: the network predicts noise, image or velocity; the simple loss, the bound, or both."""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hfgen import Batch, Diagnosis, Objective, SeededNoise, Update, UsageError, bits_per_dim
from hfgen_diffusion.bound import BoundTerms, bound_terms, discretized_gaussian, log_variance, posterior_kl
from hfgen_diffusion.label_dropout import LabelDropout
from hfgen_diffusion.process import ForwardProcess, snr
from hfgen_diffusion.sampling import split

EXAMPLES, LEVELS = 64, 16  # training images of a diagnosis, and levels asked of each


class DDPMObjective(Objective):
    """The simple loss (Ho et al. 2020, eq. 14), its weighted forms, and the bound.

    With `scheduler.variance_type learned_range` the network gives a variance too, and the loss is the hybrid one of
    Nichol & Dhariwal (2021, eq. 16): the mean learns from the simple loss, the variance from the bound.

    Args:
        loss_type: `"simple"`, or `"bound"`: the variational bound in bits per dimension, one level of each image.
        snr_gamma: of the simple loss, gamma of min-SNR (Hang et al. 2023, arXiv:2303.09556: 5); None weights alike.
            It gives a last level without signal (`rescale_betas_zero_snr`) no weight.
        bound_weight: of the bound in the hybrid loss.
        conditioning_dropout_prob: of a class-conditional model, how often it learns without the label, which
            classifier-free guidance asks for (Ho & Salimans 2022, arXiv:2207.12598): of 0, guidance is worth nothing.
    """

    def __init__(
        self,
        unet: nn.Module,
        scheduler: Any,
        loss_type: Literal["simple", "bound"] = "simple",
        snr_gamma: float | None = None,
        bound_weight: float = 0.001,
        conditioning_dropout_prob: float = 0.1,
    ) -> None:
        if loss_type not in ("simple", "bound"):
            raise UsageError(f"--objective.loss_type is {loss_type!r}; it is 'simple' or 'bound'.")
        if snr_gamma is not None and (not snr_gamma > 0 or loss_type == "bound"):
            raise UsageError(f"--objective.snr_gamma is {snr_gamma}; it is above 0, and weights the simple loss only.")
        if not (bound_weight >= 0 and math.isfinite(bound_weight)):
            raise UsageError(f"--objective.bound_weight is {bound_weight}; it must be at least 0.")
        self.unet, self.process = unet, ForwardProcess(scheduler)
        self.loss_type, self.snr_gamma, self.bound_weight = loss_type, snr_gamma, bound_weight
        self.labels = LabelDropout(unet, conditioning_dropout_prob)
        self.learns_variance = self.process.variance_type == "learned_range"

    def training_step(self, batch: Batch) -> Iterator[Update]:
        """E || target - output ||^2 over images, levels t and noise ε; the three in float32."""
        x0 = batch["pixel_values"].float()
        t = self.noise.integers(self.process.num_train_timesteps)
        epsilon = self.noise.normal(*x0.shape[1:])
        x_t = self.process.add_noise(x0, epsilon, t)
        output, v = split(self.unet(x_t, t, self.labels(batch, self.noise), return_dict=False)[0].float(), x0)
        if self.loss_type == "bound":
            yield Update("unet", self._bound(x0, x_t, output, v, t))
            return
        error = (self.process.target(x0, epsilon, t) - output).square().flatten(1).mean(1)
        loss = (error * self._weights(t)).mean()
        if not self.learns_variance:
            yield Update("unet", loss)
            return
        bound = self._bound(x0, x_t, output.detach(), v, t)
        metrics = {"simple_loss": loss, "bound": bound}
        yield Update("unet", loss + self.bound_weight * bound, metrics)

    def _weights(self, t: Tensor) -> Tensor | float:
        """min(SNR, γ), in units of the squared error of what is predicted."""
        if self.snr_gamma is None:
            return 1.0
        ratio = snr(self.process.alphas_cumprod.to(t.device)[t])
        least = ratio.clamp(max=self.snr_gamma)
        kind = self.process.prediction_type
        weight = least / ratio if kind == "epsilon" else least / (ratio + 1) if kind == "v_prediction" else least
        return weight.float()

    def _bound(self, x0: Tensor, x_t: Tensor, output: Tensor, v: Tensor | None, t: Tensor) -> Tensor:
        """T times the term of each image's own level, in bits per dimension: an unbiased draw of the bound but for its
        constant prior term."""
        x0_hat = self.process.predict(output, x_t, *self.process.scales(t))[0]
        first = (t == 0).view(-1, 1, 1, 1)
        nats = torch.where(
            first,
            -discretized_gaussian(x0, x0_hat, log_variance(self.process, t, v)),
            posterior_kl(self.process, x0, x0_hat, t.clamp(min=1), v),
        )
        return (self.process.num_train_timesteps * nats.flatten(1).mean(1) / math.log(2)).mean().float()

    @classmethod
    @torch.no_grad()
    def diagnose(cls, pipeline: Any, examples: Batch) -> Diagnosis:
        """The variational bound of some training images, by its terms."""
        images, labels = examples["pixel_values"][:EXAMPLES], examples.get("class_labels")
        labels = None if labels is None else labels[:EXAMPLES]
        process = ForwardProcess(pipeline.scheduler)
        noise = SeededNoise.from_seeds(range(len(images)), images.device)
        clip, dimensions = process.default_clip, images[0].numel()
        parts = [
            bound_terms(denoise, process, x0, own_noise, LEVELS, clip)
            for denoise, process, x0, own_noise in pipeline.parts(images, labels, noise, process)
        ]
        terms = {name: torch.cat([getattr(part, name) for part in parts]) for name in BoundTerms._fields}
        values = {name: float(bits_per_dim(-term.mean(), dimensions)) for name, term in terms.items()}
        total = sum(values.values())
        return Diagnosis(
            {
                "images": len(images),
                "bound_bits_per_dim": total,
                **{f"bound_{name}_bits_per_dim": value for name, value in values.items()},
            }
        )
