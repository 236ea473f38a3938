"""The common part of pipelines with diffusers' UNet2DModel: shape, classes and labels of images, and latents."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from hfgen import HFGenPipeline, Noise, UsageError, labels_for, slerp


class UNetPipeline(HFGenPipeline):
    """A pipeline with a component `unet`, whose latents are noise of the images' shape."""

    unet: Any

    @property
    def num_classes(self) -> int | None:
        """Number of classes of a class-conditional model, else None."""
        config = self.unet.config
        return config.get("_num_classes") or config.get("num_class_embeds")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.unet.config.in_channels, height, width

    def latents(self, noise: Noise) -> Tensor:
        """N(0, I), (B, C, H, W)."""
        return noise.normal(*self.image_shape)

    def between(self, start: Tensor, end: Tensor, t: float) -> Tensor:
        """Return the latent a fraction t of the way, along the great circle."""
        return slerp(start, end, t)

    def progress(self, steps_taken: Sequence[Any]) -> Iterable[Any]:
        """Show a progress bar on a terminal, with `set_progress_bar_config`'s options."""
        if not hasattr(self, "_progress_bar_config"):
            self.set_progress_bar_config(disable=None, leave=False)  # None: off a terminal there is none
        return self.progress_bar(steps_taken)

    def labels_of(self, batch: Tensor, class_labels: Tensor | None) -> Tensor | None:
        """Check the label of each image of a batch."""
        return labels_for(len(batch), class_labels, self.num_classes, self._execution_device)

    def check_guidance(self, guidance_scale: float) -> None:
        """Raise a UsageError unless the scale is a number, and 1 for a model that has not learned without labels."""
        if not math.isfinite(guidance_scale):
            raise UsageError(f"guidance_scale is {guidance_scale}; it must be a number.")
        if guidance_scale != 1.0 and self.unet.config.get("_num_classes") is None:
            raise UsageError("guidance_scale needs a class-conditional model that has also learned without labels.")
