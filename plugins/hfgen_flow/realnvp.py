"""RealNVP (Dinh, Sohl-Dickstein & Bengio 2017, arXiv:1605.08803): couplings by checkerboards and by channels, with
half of the variables factored out at each scale."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from hfgen import PriorScheduler, UsageError
from hfgen_flow.bijections import ActNorm, AlternateSqueeze, Preprocess, Preprocessing, Squeeze, require_initialized
from hfgen_flow.couplings import (
    AdditiveTransform,
    AffineTransform,
    ChannelCoupling,
    CheckerboardCoupling,
    MakeNetwork,
    SplineTransform,
)
from hfgen_flow.dequantization import UniformDequantizer, VariationalDequantizer
from hfgen_flow.flow import FlowPipeline, join_latents, split_latents
from hfgen_flow.networks import ResidualNetwork, require_at_least
from hfgen_flow.precision import FlowModel

# --- network --------------------------------------------------------------------------------------------------------


class RealNVP(FlowModel):
    """Images <-> latents, all of them: what each scale factors out and what the last one leaves.

    After each coupling stands an actnorm, where the paper has batch normalization.

    Args:
        sample_size: side of the images; each scale but the last halves it.
        in_channels: channels of the images.
        num_scales: recursions of section 3.6.
        num_couplings: by checkerboard, and again by channels, in each scale; the last has one more checkerboard and
            no others.
        hidden_channels: width of the coupling networks at the first scale; it doubles with each halving.
        num_blocks: residual blocks of each network.
        coupling: `"affine"`, `"additive"` (NICE) or `"spline"`.
        preprocessing, alpha: of `Preprocess`.
        num_bins, spline_bound: of spline couplings.

    Raises:
        UsageError: a value outside its range, or images that cannot be halved so often.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 28,
        in_channels: int = 1,
        num_scales: int = 2,
        num_couplings: int = 3,
        hidden_channels: int = 32,
        num_blocks: int = 1,
        coupling: Literal["affine", "additive", "spline"] = "affine",
        preprocessing: Preprocessing = "logit_2alpha",
        alpha: float = 0.05,
        num_bins: int = 8,
        spline_bound: float = 3.0,
    ) -> None:
        super().__init__()
        require_at_least(1, num_scales=num_scales, num_couplings=num_couplings, hidden_channels=hidden_channels)
        require_at_least(0, num_blocks=num_blocks)
        if sample_size % 2 ** (num_scales - 1):
            raise UsageError(
                f"Images of {sample_size}x{sample_size} cannot be halved {num_scales - 1} times.\n"
                "Give another --resolution, or a smaller --flow.num_scales."
            )
        make_transform: dict[str, Any] = {
            "affine": AffineTransform,
            "additive": lambda num_channels: AdditiveTransform(),
            "spline": lambda num_channels: SplineTransform(num_bins, spline_bound),
        }
        if coupling not in make_transform:
            raise UsageError(f"--flow.coupling is {coupling!r}; it can be {', '.join(make_transform)}.")
        self.preprocess = Preprocess(preprocessing, alpha)
        self.scales, self.latent_shapes = nn.ModuleList(), []
        channels, side, width = in_channels, sample_size, hidden_channels
        for _ in range(num_scales - 1):
            make = partial(ResidualNetwork, hidden_channels=width, num_blocks=num_blocks)
            wide = partial(ResidualNetwork, hidden_channels=2 * width, num_blocks=num_blocks)
            self.scales.append(Scale(channels, side, num_couplings, make_transform[coupling], make, wide))
            channels, side, width = 2 * channels, side // 2, 2 * width
            self.latent_shapes.append((channels, side, side))
        make = partial(ResidualNetwork, hidden_channels=width, num_blocks=num_blocks)
        self.last = nn.ModuleList(_checkerboards(channels, side, num_couplings + 1, make_transform[coupling], make))
        self.latent_shapes.append((channels, side, side))

    def forward(self, v: Tensor, class_labels: None = None) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) in [0, 1] -> latents (B, C H W), N(0, 1) under the model, and ln|det|, (B,)."""
        x, log_det = self.preprocess(v.to(self.computing_dtype))
        latents = []
        for scale in self.scales:
            x, factored_out, term = scale(x)
            latents.append(factored_out)
            log_det = log_det + term
        x, term = _forward(self.last, x)
        return join_latents([*latents, x]), log_det + term

    @apply_forward_hook
    def inverse(self, latents: Tensor, class_labels: None = None) -> Tensor:
        """Latents (B, C H W) -> images, in [0, 1] where the latents are of images.

        Raises:
            UsageError: before the first training step.
        """
        require_initialized(self)
        *factored_out, x = split_latents(latents.to(self.computing_dtype), self.latent_shapes)
        x = _inverse(self.last, x)
        scales: Iterable[Any] = reversed(self.scales)
        for scale, z in zip(scales, reversed(factored_out), strict=True):
            x = scale.inverse(x, z)
        return self.preprocess.inverse(x)


class Scale(nn.Module):
    """Couplings by checkerboard, a squeeze, couplings by channels; then half is factored out (section 3.6)."""

    def __init__(
        self,
        num_channels: int,
        sample_size: int,
        num_couplings: int,
        make_transform: Any,
        make_network: MakeNetwork,
        make_wide_network: MakeNetwork,
    ) -> None:
        super().__init__()
        boards = _checkerboards(num_channels, sample_size, num_couplings, make_transform, make_network)
        half = 2 * num_channels
        by_channels = [
            ChannelCoupling(2 * half, make_transform(half), make_wide_network, half, reverse=bool(number % 2))
            for number in range(num_couplings)
        ]
        self.boards, self.by_channels = nn.ModuleList(boards), nn.ModuleList(_with_actnorms(by_channels, 2 * half))
        self.squeeze, self.alternate, self.num_kept = Squeeze(), AlternateSqueeze(), half

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the channels that go on, those that are factored out, and the log-determinant."""
        x, log_det = _forward(self.boards, x)
        x, term = _forward(self.by_channels, self.squeeze(x)[0])
        y, _ = self.alternate(self.squeeze.inverse(x))
        return y[:, : self.num_kept], y[:, self.num_kept :], log_det + term

    def inverse(self, y: Tensor, z: Tensor) -> Tensor:
        x = self.alternate.inverse(torch.cat([y, z], dim=1))
        x = _inverse(self.by_channels, self.squeeze(x)[0])
        return _inverse(self.boards, self.squeeze.inverse(x))


def _checkerboards(
    num_channels: int, sample_size: int, count: int, make_transform: Any, make_network: MakeNetwork
) -> list[nn.Module]:
    couplings = [
        CheckerboardCoupling(num_channels, sample_size, parity, make_transform(num_channels), make_network)
        for parity in range(count)
    ]
    return _with_actnorms(couplings, num_channels)


def _with_actnorms(couplings: Sequence[nn.Module], num_channels: int) -> list[nn.Module]:
    return [layer for coupling in couplings for layer in (coupling, ActNorm(num_channels))]


def _forward(layers: Iterable[Any], x: Tensor) -> tuple[Tensor, Tensor]:
    log_det = x.new_zeros(len(x))
    for layer in layers:
        x, term = layer(x)
        log_det = log_det + term
    return x, log_det


def _inverse(layers: Any, y: Tensor) -> Tensor:
    for layer in reversed(layers):
        y = layer.inverse(y)
    return y


# --- pipeline -------------------------------------------------------------------------------------------------------


class RealNVPPipeline(FlowPipeline):
    """Samples in one step: latents from the scheduler's prior, and their image.

    References:
        Dinh, Sohl-Dickstein & Bengio (2017), Density estimation using Real NVP, arXiv:1605.08803
    """

    description = "RealNVP: a normalizing flow of affine couplings at several scales, exactly invertible"
    references = (
        "Dinh, Sohl-Dickstein & Bengio (2017), Density estimation using Real NVP, arXiv:1605.08803",
        "Dinh, Krueger & Bengio (2015), NICE: non-linear independent components estimation, arXiv:1410.8516",
        "Durkan et al. (2019), Neural spline flows, arXiv:1906.04032",
    )

    def __init__(
        self, flow: RealNVP, dequantizer: UniformDequantizer | VariationalDequantizer, scheduler: PriorScheduler
    ) -> None:
        super().__init__(flow, dequantizer, scheduler)

    @classmethod
    def default_flow(cls, sample_size: int, in_channels: int, options: Mapping[str, Any]) -> dict[str, Any]:
        """Two scales where the side can be halved."""
        default = super().default_flow(sample_size, in_channels, options)
        return {**default, "num_scales": 1 if sample_size % 2 else 2}
