"""Feature extractors: the networks whose features of images are compared, found by entry points.

An extractor is registered by an entry point of the group `hfgen.extractors`. A value of FID, KID and their like holds
for one file of weights only, so an extractor states the hash of its own.
"""

import itertools
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from hfgen import registry
from hfgen.errors import HFGenError, UsageError, counted


class FeatureExtractor(nn.Module):
    """Base class: images of 8 bits -> features.

    Attributes:
        name: as the entry point calls it, and results do.
        in_channels: of the images; to one of 3 channels, gray and RGBA are brought by the rules of `TO_COLOR`, which
            results name; any other number is an error.
        sample_size: their side in pixels; None where it resizes any side to its own, as `preprocessing` says.
        num_features: length of a feature vector.
        num_classes: how many classes `classify` tells apart; None where there is no such head.
        preprocessing: what is done to the pixels, in words; part of what a value means.
        citation: paper or origin of the weights.
        weights_sha256: of the file of weights that was loaded.
    """

    name: ClassVar[str]
    in_channels: ClassVar[int]
    sample_size: ClassVar[int | None] = None
    num_features: int
    num_classes: ClassVar[int | None] = None
    preprocessing: ClassVar[str]
    citation: ClassVar[str]
    weights_sha256: str

    @classmethod
    def load(cls, weights: str | None = None) -> Self:
        """Build the network with its weights, in eval mode.

        Args:
            weights: a file or folder of them, where they cannot be downloaded; default: the extractor's own source.

        Raises:
            HFGenError: the weights cannot be loaded, or have another hash; never another network in their place.
        """
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, C, H, W), uint8 -> features (B, num_features), float32."""
        raise NotImplementedError

    def classify(self, features: Tensor) -> Tensor:
        """Features -> logits (B, num_classes), of an extractor that has classes."""
        raise UsageError(f"{self.name} has no classes.")

    def declaration(self) -> dict[str, object]:
        """The facts of the extractor that a result records."""
        names = ("name", "in_channels", "sample_size", "num_features", "num_classes", "preprocessing", "citation")
        return {**{name: getattr(self, name) for name in names}, "weights_sha256": self.weights_sha256}

    @property
    def place(self) -> torch.device:
        """The device that it is on."""
        return next(itertools.chain(self.parameters(), self.buffers()), torch.empty(0)).device

    @torch.inference_mode()
    def logits(self, features: Tensor) -> Tensor:
        """`classify` of features from anywhere, on the CPU."""
        return self.classify(features.to(self.place)).float().cpu()

    @torch.inference_mode()
    def extract(self, images: Tensor) -> Tensor:
        """Extract features of images, checked on the way in and out.

        Raises:
            UsageError: images of another type, or of channels or a side that the extractor does not take.
            HFGenError: features of another shape, or with values that are not finite.
        """
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise UsageError(f"{self.name} takes bytes (B, C, H, W); got {images.dtype} of {tuple(images.shape)}.")
        refuse_shape(type(self), images.shape[1], (images.shape[2], images.shape[3]))
        features = self(with_channels(images.to(self.place), self.in_channels)).float()
        if features.shape != (len(images), self.num_features) or not features.isfinite().all():
            raise HFGenError(f"{self.name} gave features of {tuple(features.shape)}, or values that are not finite.")
        return features


def refuse_shape(extractor: type[FeatureExtractor], channels: int, size: tuple[int, int]) -> None:
    """Raise a UsageError of images that an extractor does not take, with its side and by `TO_COLOR`."""
    side = extractor.sample_size
    fits = channels == extractor.in_channels or rule_of(channels, extractor.in_channels) is not None
    if not fits or (side is not None and size != (side, side)):
        wanted = "any side" if side is None else f"{side}x{side} pixels"
        raise UsageError(
            f"{extractor.name} takes images of {counted(extractor.in_channels, 'channel')} and {wanted}; "
            f"these have {counted(channels, 'channel')} and {size[1]}x{size[0]} pixels.\n"
            "Choose another --extractor (`hfgen list extractors`); one of 3 channels and any side takes gray images\n"
            "and RGBA too, such as scattering, which needs no download."
        )


TO_COLOR = {1: "gray repeated to 3 channels", 4: "RGBA on white"}  # channels of images -> how they become RGB


def rule_of(channels: int, wanted: int) -> str | None:
    """Return how images come to the channels that an extractor takes; None where they have them, or cannot."""
    return TO_COLOR.get(channels) if wanted == 3 else None


def with_channels(images: Tensor, wanted: int) -> Tensor:
    """Bring images (B, C, H, W), uint8, to 3 channels by `TO_COLOR`, where so many are wanted and they have others.

    >>> with_channels(torch.tensor([0, 100, 200, 51], dtype=torch.uint8).reshape(1, 4, 1, 1), 3).flatten().tolist()
    [204, 224, 244]
    """
    if images.shape[1] == wanted or rule_of(images.shape[1], wanted) is None:
        return images
    if images.shape[1] == 1:
        return images.expand(-1, 3, -1, -1)
    color, alpha = images[:, :3].float(), images[:, 3:].float() / 255
    return (color * alpha + 255 * (1 - alpha)).round().to(torch.uint8)


def extractor_class(name: str) -> type[FeatureExtractor]:
    """Import the class that a name stands for; raises as `registry.load`."""
    return registry.load(registry.EXTRACTORS, name)
