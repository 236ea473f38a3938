"""Dequantization, integers to reals: v = (x + u) / n with u in [0, 1) from q(u|x), so that a density of v bounds P(x):
ln P(x) >= E_q[ln p(v) - ln q(u|x)] - D ln n (Theis et al. 2016, arXiv:1511.01844, section 3.1; Ho et al. 2019,
arXiv:1902.00275, eq. 8)."""

import torch
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from hfgen import UsageError
from hfgen_flow.bijections import Logit, Sigmoid
from hfgen_flow.couplings import AffineTransform, CheckerboardCoupling
from hfgen_flow.networks import ResidualNetwork, require_at_least
from hfgen_flow.precision import FlowModel

BELOW_ONE = 1 - 2.0**-24  # the largest float32 below 1


class UniformDequantizer(FlowModel):
    """u ~ U[0, 1): nothing to learn.

    Args:
        num_bits: of the images' values; below 8 the lower bits of each byte are dropped, as in Glow.
    """

    @register_to_config
    def __init__(self, num_bits: int = 8) -> None:
        super().__init__()
        check_bits(num_bits)
        self.register_buffer("num_values", torch.tensor(2.0**num_bits))  # what is saved owns a tensor

    def forward(self, levels: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Levels and noise, (B, C, H, W) each -> v in [0, 1) and ln q(u|x) = 0, (B,)."""
        return to_unit(levels, uniform, 2**self.config.num_bits), levels.new_zeros(len(levels))


class VariationalDequantizer(FlowModel):
    """u = sigmoid(f(logit(u0); x)), u0 ~ U[0, 1), with couplings f that see the image (Ho et al. 2019, section 3.1).

    At first f is the identity, so u is uniform.

    Args:
        sample_size: side of the images.
        in_channels: channels of the images.
        num_bits: as UniformDequantizer's.
        hidden_channels: width of the coupling networks.
        num_couplings: checkerboards, alternating.
        num_blocks: residual blocks of each coupling network.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 28,
        in_channels: int = 1,
        num_bits: int = 8,
        hidden_channels: int = 16,
        num_couplings: int = 4,
        num_blocks: int = 1,
    ) -> None:
        super().__init__()
        check_bits(num_bits)
        require_at_least(1, "dequantizer", hidden_channels=hidden_channels)
        require_at_least(0, "dequantizer", num_couplings=num_couplings, num_blocks=num_blocks)
        self.couplings = nn.ModuleList(
            CheckerboardCoupling(
                in_channels,
                sample_size,
                parity,
                AffineTransform(in_channels),
                lambda inputs, outputs: ResidualNetwork(inputs, outputs, hidden_channels, num_blocks),
                context_channels=in_channels,
            )
            for parity in range(num_couplings)
        )
        self.logit, self.sigmoid = Logit(), Sigmoid()

    def forward(self, levels: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Dequantize as UniformDequantizer; ln q(u|x) is that of the u that was drawn."""
        num_values = 2**self.config.num_bits
        context = levels * (2 / (num_values - 1)) - 1
        z, log_det = self.logit(uniform.clamp(1 - BELOW_ONE, BELOW_ONE))
        for coupling in self.couplings:
            z, term = coupling(z, context)
            log_det = log_det + term
        u, term = self.sigmoid(z)
        return to_unit(levels, u, num_values), -(log_det + term)


def quantize(v: Tensor, num_values: int) -> Tensor:
    """The level of each v in [0, 1), floor(n v), where values outside are cut off; the inverse of dequantization."""
    return (v * num_values).floor().clamp(0, num_values - 1)


def to_unit(levels: Tensor, u: Tensor, num_values: int) -> Tensor:
    """(x + u) / n, below 1 also where the sum rounds to n.

    >>> to_unit(torch.tensor([0.0, 255.0]), torch.tensor([0.5, 1.0]), 256)
    tensor([0.0020, 1.0000])
    """
    return ((levels + u) / num_values).clamp(max=BELOW_ONE)


def check_bits(num_bits: int) -> None:
    """Raise a UsageError unless bytes have so many."""
    if not 1 <= num_bits <= 8:
        raise UsageError(f"--dequantizer.num_bits is {num_bits}; images have 1 to 8 bits.")
