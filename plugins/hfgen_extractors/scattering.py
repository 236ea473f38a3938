"""Wavelet scattering, a general extractor for color images that learns nothing: it has no weights and no network.

Images are convolved with oriented Morlet wavelets, the modulus is averaged over the image, and the modulus is
convolved with coarser wavelets and averaged again (Bruna & Mallat 2013, arXiv:1203.1513; for color images Oyallon &
Mallat 2015, arXiv:1412.8659). The result says how much there is of each orientation, scale and pair of them, in each
color, whatever the position; the mean color of 4 x 4 parts says roughly where. It knows no objects: a Fréchet distance
of these features sees blur, noise, color, texture and coarse layout, and does not compare with FID.
"""

import hashlib
import math
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from hfgen import FeatureExtractor, UsageError

SIDE, SCALES, ANGLES, PARTS = 64, 4, 4, 4
FREQUENCY, WIDTH = 3 * math.pi / 4, 0.8  # of the finest wavelet: its center, and its deviation in pixels
CHUNK = 50  # images at a time, so that memory stays small
# Brightness and two differences of colors, an orthonormal basis: a gray image is zero in two of three.
COLORS = [[3**-0.5] * 3, [2**-0.5, 0.0, -(2**-0.5)], [6**-0.5, -2 * 6**-0.5, 6**-0.5]]


def morlet(side: int, scale: int, angle: float) -> Tensor:
    """Return a Morlet wavelet's Fourier transform, which is real: (side, side), float64, zero at frequency 0."""
    grid = 2 * math.pi * torch.fft.fftfreq(side, dtype=torch.float64)
    center = torch.tensor([math.sin(angle), math.cos(angle)], dtype=torch.float64) * FREQUENCY / 2**scale
    width, total = WIDTH * 2**scale, torch.zeros(side, side, dtype=torch.float64)

    def gaussian(y: Tensor, x: Tensor) -> Tensor:
        return torch.exp(-0.5 * width**2 * (y**2 + x**2))

    correction = gaussian(*center) / gaussian(torch.zeros(()), torch.zeros(()))
    for turn_y in (-1, 0, 1):  # a sampled wavelet's transform is periodic
        for turn_x in (-1, 0, 1):
            y, x = grid[:, None] + 2 * math.pi * turn_y, grid[None] + 2 * math.pi * turn_x
            total += gaussian(y - center[0], x - center[1]) - correction * gaussian(y, x)
    return total - total[0, 0] * gaussian(grid[:, None], grid[None])


def filters(side: int = SIDE) -> Tensor:
    """Return all wavelets, (scales, angles, side, side), scaled so that no image gains energy by them."""
    bank = torch.stack(
        [torch.stack([morlet(side, j, math.pi * k / ANGLES) for k in range(ANGLES)]) for j in range(SCALES)]
    )
    mirrored = bank.flip(2, 3).roll((1, 1), (2, 3))  # at the opposite frequency, where a real image is the same
    gain = (bank**2 + mirrored**2).sum((0, 1)).max() / 2
    return (bank / gain.sqrt()).float()


def low(spectrum: Tensor, size: int) -> Tensor:
    """Return the lowest frequencies of a spectrum, those of an image of `size` pixels a side: (..., size, size)."""
    if size == spectrum.shape[-1]:
        return spectrum
    half = size // 2
    rows = torch.cat([spectrum[..., :half, :], spectrum[..., -half:, :]], -2)
    return torch.cat([rows[..., :half], rows[..., -half:]], -1)


class Scattering(FeatureExtractor):
    """Scattering of order 2 with four scales and four angles: 384 features.

    Per color channel 16 averages of order 1 and 96 of order 2, as log(1 + 255 S) so that fine and coarse scales weigh
    alike; and the mean color of 16 parts of the image.

    Buffers:
        wavelets: (4, 4, 64, 64), in the Fourier domain.
    """

    name: ClassVar[str] = "scattering"
    in_channels: ClassVar[int] = 3
    preprocessing: ClassVar[str] = (
        f"brought to {SIDE}x{SIDE}, bicubic, antialiased; pixels / 255; {SCALES} scales, {ANGLES} angles, order 2, "
        "averaged over the image; log(1 + 255 S)"
    )
    citation: ClassVar[str] = "Bruna & Mallat 2013, arXiv:1203.1513; Oyallon & Mallat 2015, arXiv:1412.8659"
    wavelets: Tensor
    colors: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 3 * (PARTS**2 + SCALES * ANGLES + SCALES * (SCALES - 1) // 2 * ANGLES**2)
        self.weights_sha256 = hashlib.sha256(f"scattering-1: {self.preprocessing}".encode()).hexdigest()
        self.register_buffer("wavelets", filters(), persistent=False)
        self.register_buffer("colors", torch.tensor(COLORS), persistent=False)

    @classmethod
    def load(cls, weights: str | None = None) -> Self:
        if weights is not None:
            raise UsageError("The extractor scattering has no weights; leave --extractor_weights out.")
        return cls().eval()

    def forward(self, images: Tensor) -> Tensor:
        return torch.cat([self.features(part) for part in images.split(CHUNK)])

    def features(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), uint8 -> features (B, 384)."""
        x = interpolate(images.float() / 255, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1)
        x = torch.einsum("kc,bchw->bkhw", self.colors, x)
        first, second = self.scatter(x)
        energies = torch.cat([first, second], 2).mul(255).log1p()
        return torch.cat([adaptive_avg_pool2d(x, PARTS).flatten(1), energies.flatten(1)], 1)

    def scatter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, 64, 64) -> averages of order 1, (B, C, 16), and of order 2, (B, C, 96).

        A wavelet of scale 2^j has no high frequencies, so every 2^(j - 1)-th pixel of what it gives is enough.
        """
        spectrum, first, second = torch.fft.fft2(x, norm="forward")[:, :, None], [], []
        for j in range(SCALES):
            modulus = self.modulus(spectrum, j)
            first.append(modulus.mean((-1, -2)))
            again = torch.fft.fft2(modulus, norm="forward")[:, :, :, None]
            for coarser in range(j + 1, SCALES):
                second.append(self.modulus(again, coarser).mean((-1, -2)).flatten(2))
        return torch.cat(first, 2), torch.cat(second, 2)

    def modulus(self, spectrum: Tensor, scale: int) -> Tensor:
        """Return the modulus of an image's convolution with a scale's wavelets, at every 2^(scale - 1)-th pixel."""
        size = SIDE >> max(scale - 1, 0)
        return torch.fft.ifft2(low(spectrum, size) * low(self.wavelets[scale], size), norm="forward").abs()
