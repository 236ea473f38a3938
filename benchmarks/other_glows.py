"""Glow as normflows and nflows build it, in the size that hfgen's is compared in."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

try:
    import normflows
    from nflows.distributions.normal import StandardNormal
    from nflows.flows.base import Flow
    from nflows.transforms import (
        ActNorm,
        AffineCouplingTransform,
        CompositeTransform,
        MultiscaleCompositeTransform,
        OneByOneConvolution,
        SqueezeTransform,
    )
except ImportError as error:
    raise SystemExit(
        f"This compares hfgen with normflows and nflows, which cannot be imported here: {error}\n"
        "Install them into this environment: pip install normflows==1.7.3 nflows==0.14"
    ) from error

LEVELS, STEPS, HIDDEN, GLOW_SIZE = 3, 8, 128, 32
OPTIONS = {"num_levels": LEVELS, "num_steps": STEPS, "hidden_channels": HIDDEN}  # of hfgen's


# --- normflows --------------------------------------------------------------------------------------------------


def normflows_glow() -> Any:
    """As its documentation builds Glow, unconditional."""
    bases, flows, merges = [], [], []
    for level in range(LEVELS):
        channels = 2 ** (LEVELS + 1 - level)
        blocks = [normflows.flows.GlowBlock(channels, HIDDEN) for _ in range(STEPS)]
        flows.append([*blocks, normflows.flows.Squeeze()])
        side = GLOW_SIZE // 2 ** (LEVELS - level)
        if level > 0:
            merges.append(normflows.flows.Merge())
        bases.append(normflows.distributions.GlowBase((channels // 2 if level else channels, side, side)))
    return normflows.MultiscaleFlow(bases, flows, merges, class_cond=False)


def normflows_round_trip(model: Any, v: Tensor) -> Tensor:
    return model.forward_and_log_det(model.inverse_and_log_det(v - 0.5)[0])[0] + 0.5


# --- nflows -----------------------------------------------------------------------------------------------------


class CouplingNetwork(nn.Module):
    """Of the same layers as the others': nflows has none of Glow's."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        last = nn.Conv2d(HIDDEN, outputs, 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        first, middle = nn.Conv2d(inputs, HIDDEN, 3, padding=1), nn.Conv2d(HIDDEN, HIDDEN, 1)
        self.layers = nn.Sequential(first, nn.ReLU(inplace=True), middle, nn.ReLU(inplace=True), last)

    def forward(self, x: Tensor, context: None = None) -> Tensor:
        return self.layers(x)


def nflows_glow() -> Any:
    """As in the image experiments of Durkan et al. 2019, arXiv:1906.04032, with affine couplings."""
    transform = MultiscaleCompositeTransform(LEVELS)
    shape = (1, GLOW_SIZE, GLOW_SIZE)
    for _ in range(LEVELS):
        squeeze = SqueezeTransform()
        shape = squeeze.get_output_shape(*shape)
        channels = shape[0]
        mask = [int(place >= channels // 2) for place in range(channels)]
        steps = [
            CompositeTransform(
                [ActNorm(channels), OneByOneConvolution(channels), AffineCouplingTransform(mask, CouplingNetwork)]
            )
            for _ in range(STEPS)
        ]
        shape = transform.add_transform(CompositeTransform([squeeze, *steps, OneByOneConvolution(channels)]), shape)
    return Flow(transform, StandardNormal([GLOW_SIZE**2]))


def nflows_round_trip(model: Any, v: Tensor) -> Tensor:
    return model._transform.inverse(model.transform_to_noise(v - 0.5))[0] + 0.5


def nflows_loss(model: Any) -> Callable[[Tensor], Tensor]:
    return lambda v: -model.log_prob((v - 0.5).contiguous(memory_format=torch.channels_last)).mean()
