"""Real images to compare sampled ones with: the hash of their pixels, and their features, cached."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.constants import HF_HOME
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hfgen.data.images import Images, decode_images
from hfgen.evaluation.extractors import FeatureExtractor
from hfgen.evaluation.progress import Progress
from hfgen.evaluation.real import stored_sha256

BATCH = 500


@dataclass(frozen=True)
class RealImages:
    """A set of images, decoded.

    Attributes:
        pixels: (N, C, H, W), uint8.
        sha256: of them.
    """

    pixels: Tensor
    sha256: str

    @classmethod
    def of(
        cls, images: Images, resolution: int | None = None, center_crop: bool = True, progress: Progress = iter
    ) -> "RealImages":
        """Decode images at their own size, or resized to `resolution` as in training."""
        pixels = decode_images(images, resolution or images.resolution(), center_crop, progress)
        return cls(pixels, stored_sha256(pixels))


def features_of(real: RealImages, extractor: FeatureExtractor, progress: Progress = iter) -> Tensor:
    """(N, num_features), float32: from the cache, where the same weights have seen the same pixels before."""
    path = cache_folder() / f"{extractor.name}-{extractor.weights_sha256[:16]}-{real.sha256[:16]}.safetensors"
    try:
        found = load_file(path)["features"].clone()  # what is mapped from a file dies with it
        if found.shape == (len(real.pixels), extractor.num_features) and found.isfinite().all():
            return found
    except (OSError, SafetensorError, KeyError):
        pass
    starts = range(0, len(real.pixels), BATCH)
    features = torch.cat([extractor.extract(real.pixels[i : i + BATCH]).cpu() for i in progress(starts)])
    _keep(features, path)
    return features


def cache_folder() -> Path:
    """The folder for features of real images, beside the Hub's cache."""
    return Path(HF_HOME) / "hfgen" / "features"


def _keep(features: Tensor, path: Path) -> None:
    """A cache that cannot be written costs time, no more."""
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"features": features}, temporary)
        os.replace(temporary, path)
    except (OSError, SafetensorError):
        temporary.unlink(missing_ok=True)
