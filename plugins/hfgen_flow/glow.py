"""Glow (Kingma & Dhariwal 2018, arXiv:1807.03039): actnorm, invertible 1x1 convolution, coupling; multi-scale, with
learned priors of what each level factors out."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from hfgen import PriorScheduler, UsageError
from hfgen_flow.bijections import (
    DiagonalNormal,
    NormalizedConv1x1,
    Preprocess,
    Preprocessing,
    Squeeze,
    require_initialized,
)
from hfgen_flow.couplings import AdditiveTransform, ChannelCoupling, SigmoidTransform, SplineTransform
from hfgen_flow.dequantization import UniformDequantizer, VariationalDequantizer
from hfgen_flow.flow import FlowPipeline, join_latents, split_latents
from hfgen_flow.networks import ConvNetwork, ZeroConv2d, require_at_least
from hfgen_flow.precision import FlowModel, full_precision

# --- network --------------------------------------------------------------------------------------------------------


class Glow(FlowModel):
    """Images <-> latents, all of them: what each level factors out and what the last one leaves.

    Args:
        sample_size: side of the images; each level divides it by `squeeze_factor`.
        in_channels: channels of the images.
        num_levels: L.
        num_steps: K, steps of flow in each level.
        hidden_channels: width of the coupling networks (the paper's 512).
        coupling: `"affine"`, `"additive"`, `"spline"`, or `"none"`, which leaves a linear flow: its optimum is the
            Gaussian of the data's mean and covariance.
        convolution: parametrization of the 1x1 convolutions, `"lu"` or `"plain"`.
        squeeze_factor: side of the blocks of pixels that become channels.
        preprocessing, alpha: of `Preprocess`; Glow's own has no alpha.
        num_bins, spline_bound: of spline couplings.
        num_classes: makes the top prior conditional on the class.

    Raises:
        UsageError: a value outside its range, or images that cannot be squeezed so often.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 28,
        in_channels: int = 1,
        num_levels: int = 2,
        num_steps: int = 8,
        hidden_channels: int = 64,
        coupling: Literal["affine", "additive", "spline", "none"] = "affine",
        convolution: Literal["lu", "plain"] = "lu",
        squeeze_factor: int = 2,
        preprocessing: Preprocessing = "glow",
        alpha: float = 0.05,
        num_bins: int = 8,
        spline_bound: float = 3.0,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        require_at_least(1, num_levels=num_levels, num_steps=num_steps, hidden_channels=hidden_channels)
        require_at_least(2, squeeze_factor=squeeze_factor)
        if sample_size % squeeze_factor**num_levels:
            raise UsageError(
                f"Images of {sample_size}x{sample_size} cannot be divided by {squeeze_factor} {num_levels} times.\n"
                "Give another --resolution, a smaller --flow.num_levels, or another --flow.squeeze_factor."
            )
        make_transform = {
            "affine": SigmoidTransform,
            "additive": AdditiveTransform,
            "spline": partial(SplineTransform, num_bins, spline_bound),
            "none": None,
        }
        if coupling not in make_transform:
            raise UsageError(f"--flow.coupling is {coupling!r}; it can be {', '.join(make_transform)}.")
        self.preprocess = Preprocess(preprocessing, alpha)
        channels, side = in_channels, sample_size
        self.levels, self.latent_shapes = nn.ModuleList(), []
        for number in range(num_levels):
            channels, side = channels * squeeze_factor**2, side // squeeze_factor
            last = number == num_levels - 1
            steps = [Step(channels, hidden_channels, make_transform[coupling], convolution) for _ in range(num_steps)]
            self.levels.append(Level(steps, squeeze_factor, None if last else SplitPrior(channels)))
            self.latent_shapes.append((channels if last else channels - channels // 2, side, side))
            channels = channels // 2
        self.top = TopPrior(self.latent_shapes[-1][0], num_classes)

    def forward(self, v: Tensor, class_labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) in [0, 1] -> latents (B, C H W), N(0, 1) under the model, and ln|det|, (B,)."""
        x, log_det = self.preprocess(v.to(self.computing_dtype))
        latents = []
        for level in self.levels:
            x, factored_out, term = level(x)
            latents += [] if factored_out is None else [factored_out]
            log_det = log_det + term
        z, term = self.top(x, class_labels)
        return join_latents([*latents, z]), log_det + term

    @apply_forward_hook
    def inverse(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Latents (B, C H W) -> images, in [0, 1] where the latents are of images.

        Raises:
            UsageError: before the first training step.
        """
        require_initialized(self)
        *factored_out, z = split_latents(latents.to(self.computing_dtype), self.latent_shapes)
        x = self.top.inverse(z, class_labels)
        levels: Iterable[Any] = reversed(self.levels)
        for level, eps in zip(levels, [None, *reversed(factored_out)], strict=True):
            x = level.inverse(x, eps)
        return self.preprocess.inverse(x)


class Step(nn.Module):
    """A step of flow: actnorm, 1x1 convolution, coupling (section 3, figure 2)."""

    def __init__(self, num_channels: int, hidden_channels: int, make_transform: Any, convolution: str) -> None:
        super().__init__()
        self.mix = NormalizedConv1x1(num_channels, convolution)
        self.coupling: ChannelCoupling | None = None
        if make_transform is not None:
            make_network = partial(ConvNetwork, hidden_channels=hidden_channels)
            self.coupling = ChannelCoupling(num_channels, make_transform(), make_network, num_channels // 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x, log_det = self.mix(x)
        if self.coupling is None:
            return x, log_det
        y, term = self.coupling(x)
        return y, log_det + term

    def inverse(self, y: Tensor) -> Tensor:
        return self.mix.inverse(y if self.coupling is None else self.coupling.inverse(y))


class SplitPrior(nn.Module):
    """A prior of half of the channels, N(mean, e^(2 logs)) given the other half, by a 3x3 convolution (its code)."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.num_kept = num_channels // 2
        self.prior = ZeroConv2d(self.num_kept, 2 * (num_channels - self.num_kept))
        self.normal = DiagonalNormal()

    def _moments(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        with full_precision(kept.device):
            mean, logs = self.prior(kept).unflatten(1, (-1, 2)).unbind(2)
        return mean, logs

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kept, moved = x.tensor_split([self.num_kept], dim=1)
        eps, log_det = self.normal(moved, *self._moments(kept))
        return kept, eps, log_det

    def inverse(self, kept: Tensor, eps: Tensor) -> Tensor:
        return torch.cat([kept, self.normal.inverse(eps, *self._moments(kept))], dim=1)


class Level(nn.Module):
    """Squeeze, K steps, and on all but the last level a split."""

    def __init__(self, steps: list[Step], squeeze_factor: int, split: SplitPrior | None) -> None:
        super().__init__()
        self.squeeze, self.steps, self.split = Squeeze(squeeze_factor), nn.ModuleList(steps), split

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """Return the channels that go on, those that are factored out, and the log-determinant."""
        x, log_det = self.squeeze(x)
        for step in self.steps:
            x, term = step(x)
            log_det = log_det + term
        if self.split is None:
            return x, None, log_det
        x, eps, term = self.split(x)
        return x, eps, log_det + term

    def inverse(self, y: Tensor, eps: Tensor | None) -> Tensor:
        x = y
        if self.split is not None:
            assert eps is not None  # what the split factored out
            x = self.split.inverse(y, eps)
        steps: Iterable[Any] = reversed(self.steps)
        for step in steps:
            x = step.inverse(x)
        return self.squeeze.inverse(x)


class TopPrior(nn.Module):
    """N(mean, e^(2 logs)) of each channel of the last level, learned; of each class, if there are any."""

    def __init__(self, num_channels: int, num_classes: int | None) -> None:
        super().__init__()
        self.moments = nn.Parameter(torch.zeros(2, num_channels, dtype=torch.float32))
        self.of_class = nn.Parameter(torch.zeros(num_classes, 2, num_channels)) if num_classes else None
        self.normal = DiagonalNormal()

    def _moments(self, x: Tensor, class_labels: Tensor | None) -> tuple[Tensor, Tensor]:
        moments = self.moments[None].to(x.dtype)
        if self.of_class is not None:
            if class_labels is None:
                raise UsageError("This model is class-conditional; give class_labels, one for each image.")
            moments = moments + self.of_class[class_labels].to(x.dtype)
        mean, logs = moments[..., None, None].unbind(1)
        return mean, logs

    def forward(self, x: Tensor, class_labels: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.normal(x, *self._moments(x, class_labels))

    def inverse(self, eps: Tensor, class_labels: Tensor | None) -> Tensor:
        return self.normal.inverse(eps, *self._moments(eps, class_labels))


# --- pipeline -------------------------------------------------------------------------------------------------------


class GlowPipeline(FlowPipeline):
    """Samples in one step: latents from the scheduler's prior, and their image.

    `scheduler.temperature` multiplies the latents of every level (the paper's 0.7).

    References:
        Kingma & Dhariwal (2018), Glow: generative flow with invertible 1x1 convolutions, arXiv:1807.03039
    """

    description = "Glow: a normalizing flow of invertible 1x1 convolutions and couplings, exactly invertible"
    references = (
        "Kingma & Dhariwal (2018), Glow: generative flow with invertible 1x1 convolutions, arXiv:1807.03039",
        "Ho et al. (2019), Flow++: improving flow-based generative models with variational dequantization, "
        "arXiv:1902.00275",
    )

    def __init__(
        self, flow: Glow, dequantizer: UniformDequantizer | VariationalDequantizer, scheduler: PriorScheduler
    ) -> None:
        super().__init__(flow, dequantizer, scheduler)

    @classmethod
    def default_flow(cls, sample_size: int, in_channels: int, options: Mapping[str, Any]) -> dict[str, Any]:
        """Levels until the side is at most 7, or odd."""
        factor, side, levels = options.get("squeeze_factor", 2), sample_size, 0
        while factor > 1 and side % factor == 0 and (side > 7 or not levels):
            side, levels = side // factor, levels + 1
        if not levels:
            raise UsageError(
                f"Images of {sample_size}x{sample_size} cannot be divided by {factor}.\n"
                "Give another --resolution or --flow.squeeze_factor."
            )
        return {**super().default_flow(sample_size, in_channels, options), "num_levels": levels}
