"""Inception-v3, with which the FID of natural images is published (Heusel et al. 2017, arXiv:1706.08500).

It is torch-fidelity's, which needs a torchvision that fits torch and has the weights among its own releases; neither
is part of hfgen.
"""

import hashlib
from pathlib import Path
from typing import ClassVar, Self

import torch
from torch import Tensor

from hfgen import FeatureExtractor, HFGenError

SHA256_START = "6726825d"  # of the weights, as their published name says


class Inception(FeatureExtractor):
    """2048 features before the last layer, and the 1008 logits of the TensorFlow graph of 2015."""

    name: ClassVar[str] = "inception"
    in_channels: ClassVar[int] = 3
    num_classes: ClassVar[int | None] = 1008
    preprocessing: ClassVar[str] = "brought to 299x299 as TensorFlow 1 does, bilinear without antialiasing"
    citation: ClassVar[str] = "Heusel et al. 2017, arXiv:1706.08500; weights of torch-fidelity"

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network, self.num_features = network, 2048

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)[0]

    def classify(self, features: Tensor) -> Tensor:
        """Return logits without the last layer's bias, as the Inception score is computed in the literature."""
        return features @ self.network.fc.weight.T  # type: ignore[union-attr,operator]

    @classmethod
    def load(cls, weights: str | None = None) -> Self:
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except (ImportError, RuntimeError) as error:
            raise HFGenError(
                f"The extractor inception needs torch-fidelity; its import failed: {str(error).splitlines()[0]}\n"
                "It needs a torchvision that fits torch. dinov2-base needs neither; digitnet-mnist is for MNIST."
            ) from error
        if weights is None or not Path(weights).is_file():
            raise HFGenError(
                "The extractor inception reads its weights from a file: --extractor_weights FILE.\n"
                f"It is pt_inception-2015-12-05-{SHA256_START}.pth of torch-fidelity's releases on GitHub."
            )
        with Path(weights).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if not sha256.startswith(SHA256_START):
            raise HFGenError(f"{Path(weights).name} holds other weights: its sha256 must begin {SHA256_START}.")
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=weights
        )  # reads a state dict, which torch reads as weights only
        extractor = cls(network)
        extractor.weights_sha256 = sha256
        return extractor.eval()
