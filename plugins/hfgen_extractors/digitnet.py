"""DigitNet-64: a small convolutional classifier of MNIST's digits, whose last hidden layer is the features.

What FID of Inception's features measures of digits is little (mseitzer/pytorch-fid#12), and the authors of FID advise
one's own classifier there. `python -m hfgen_extractors.digitnet_training` trains the shipped weights anew.
"""

import hashlib
from pathlib import Path
from typing import ClassVar, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hfgen import FeatureExtractor, HFGenError

WEIGHTS = Path(__file__).parent / "digitnet-mnist.safetensors"
WEIGHTS_SHA256 = "7cb9d9d21d9947ba26ebd16963c469772d9987fa1d06ed894c92ad39734cadf1"
MEAN = 0.1307  # of MNIST's training pixels in [0, 1]


class DigitNet(FeatureExtractor):
    """5x5 convolutions of 8 and 24 channels, each with 2x2 max pooling, a layer of 64 features, 10 logits.

    The features stand before their ReLU, after which a fifth of the dimensions is dead; and they are standardized by
    mean and deviation over MNIST's 60,000 training images, so that their total variance there is 64.

    Buffers:
        mean, std: (64,), of the features before that.
    """

    name: ClassVar[str] = "digitnet-mnist"
    in_channels: ClassVar[int] = 1
    sample_size: ClassVar[int | None] = 28
    num_classes: ClassVar[int | None] = 10
    preprocessing: ClassVar[str] = "pixels / 255 - 0.1307; features standardized on MNIST's training images"
    citation: ClassVar[str] = "hfgen's own; trained on MNIST (LeCun et al. 1998)"
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.num_features = 64
        self.convolutions = nn.Sequential(
            *(nn.Conv2d(1, 8, 5, padding=2), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Conv2d(8, 24, 5, padding=2), nn.MaxPool2d(2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(24 * 7 * 7, 64)),
        )
        self.head = nn.Sequential(nn.Dropout(0.3), nn.ReLU(), nn.Linear(64, 10))
        self.register_buffer("mean", torch.zeros(64))
        self.register_buffer("std", torch.ones(64))

    def hidden(self, images: Tensor) -> Tensor:
        """Images (B, 1, 28, 28), uint8 -> features as they are trained, not standardized."""
        return self.convolutions(images.float() / 255 - MEAN)

    def forward(self, images: Tensor) -> Tensor:
        return (self.hidden(images) - self.mean) / self.std

    def classify(self, features: Tensor) -> Tensor:
        return self.head(features * self.std + self.mean)

    @classmethod
    def load(cls, weights: str | None = None) -> Self:
        path = Path(weights) if weights else WEIGHTS
        model = cls()
        try:
            with path.open("rb") as file:
                model.weights_sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            model.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise HFGenError(f"The weights of {cls.name} cannot be read from {path.name}: {error}") from error
        if weights is None and model.weights_sha256 != WEIGHTS_SHA256:
            raise HFGenError(f"The weights of {cls.name} are not those that hfgen ships; install it again.")
        return model.eval()
