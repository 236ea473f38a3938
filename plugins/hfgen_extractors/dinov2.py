"""DINOv2 (Oquab et al. 2023, arXiv:2304.07193), in whose features Stein et al. 2023 (arXiv:2306.04675) advise to
compare natural images: the Fréchet distance is then called FD-DINOv2."""

import hashlib
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from hfgen import FeatureExtractor, HFGenError

SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class DINOv2(FeatureExtractor):
    """The normalized class token of a vision transformer with patches of 14 pixels, by transformers' `Dinov2Model`.

    Attributes:
        repository, revision: on the Hub; a commit, so that the weights are always these.
        hidden_size: length of the class token.
    """

    in_channels: ClassVar[int] = 3
    preprocessing: ClassVar[str] = (
        f"brought to {SIDE}x{SIDE}, bicubic, antialiased; pixels / 255 standardized as ImageNet's"
    )
    citation: ClassVar[str] = "Oquab et al. 2023, arXiv:2304.07193; features as Stein et al. 2023, arXiv:2306.04675"
    repository: ClassVar[str]
    revision: ClassVar[str]
    hidden_size: ClassVar[int]
    mean: Tensor
    std: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.num_features = model.config.hidden_size
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(STD)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        x = interpolate(images.float() / 255, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1)
        return self.model((x - self.mean) / self.std).pooler_output

    @classmethod
    def load(cls, weights: str | None = None) -> Self:
        from huggingface_hub import snapshot_download
        from transformers import Dinov2Model

        try:
            folder = Path(weights or snapshot_download(cls.repository, revision=cls.revision, allow_patterns=FILES))
            with (folder / "model.safetensors").open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            options = {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
            model, told = Dinov2Model.from_pretrained(folder, **options)
        except (OSError, ValueError) as error:  # the Hub's errors are OSErrors
            raise HFGenError(
                f"The weights of {cls.name} are not to be had: {str(error).strip().splitlines()[0]}\n"
                f"They are {cls.repository} at revision {cls.revision}. Without a network, copy its config.json and\n"
                "model.safetensors into a folder and name that: --extractor_weights FOLDER"
            ) from error
        if told["missing_keys"] or told["mismatched_keys"] or model.config.hidden_size != cls.hidden_size:
            raise HFGenError(f"{folder / FILES[1]} does not hold the weights of {cls.name}, or not all of them.")
        extractor = cls(model)
        extractor.weights_sha256 = sha256
        return extractor.eval()


FILES = ["config.json", "model.safetensors"]


class DINOv2Base(DINOv2):
    """86 M parameters, 768 features."""

    name: ClassVar[str] = "dinov2-base"
    repository: ClassVar[str] = "facebook/dinov2-base"
    revision: ClassVar[str] = "f9e44c814b77203eaa57a6bdbbd535f21ede1415"
    hidden_size: ClassVar[int] = 768


class DINOv2Large(DINOv2):
    """304 M parameters, 1024 features: the network of published values of FD-DINOv2."""

    name: ClassVar[str] = "dinov2-large"
    repository: ClassVar[str] = "facebook/dinov2-large"
    revision: ClassVar[str] = "47b73eefe95e8d44ec3623f8890bd894b6ea2d6c"
    hidden_size: ClassVar[int] = 1024
