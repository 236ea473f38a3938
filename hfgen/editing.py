"""Drawing from given images: edited as a whole, or filled in where a mask says.

A family can do both if its `sample` takes `given`, and has `image_shape`, (C, H, W).
"""

import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from hfgen.components import ComposedPipeline
from hfgen.errors import HFGenError, UsageError
from hfgen.inputs import CALL, noise_of
from hfgen.modalities.image import check_images
from hfgen.settings.signatures import refuse_options
from hfgen.wrappers import eval_mode

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
Generators = torch.Generator | Sequence[torch.Generator] | None
Pictures = Tensor | Image.Image | Sequence[Image.Image]


@dataclass(frozen=True)
class Given:
    """The images that are given to draw others from.

    Attributes:
        image: (B, C, H, W), float32, in [-1, 1].
        strength: in (0, 1], how far up the way from images to noise drawing begins; at 1 it begins with noise alone.
        mask: (B, 1, H, W), True where the image is drawn anew; None is everywhere.
        jump_length: the steps that RePaint goes back at a time.
        jump_n_sample: how often each step is taken in all.
    """

    image: Tensor
    strength: float
    mask: Tensor | None = None
    jump_length: int = 1
    jump_n_sample: int = 1


class EditingPipeline(ComposedPipeline):
    """Part of `HFGenPipeline`: `edit` and `inpaint`."""

    @torch.no_grad()
    def edit(
        self,
        image: Pictures,
        strength: float = 0.5,
        generator: Generators = None,
        seeds: Sequence[int] | None = None,
        class_labels: Any = None,
        num_inference_steps: int | None = None,
        output_type: str | None = None,
        return_dict: bool = True,
        **options: Any,
    ) -> Any:
        """Draw images like the given ones: noise covers them, and they are drawn from there (SDEdit, Meng et al. 2022,
        arXiv:2108.01073). Returns what the pipeline's call returns.

        Args:
            image: (B, C, H, W) in [-1, 1], or pictures of the model's own size and mode; of one, with several seeds,
                as many versions are drawn.
            strength: in (0, 1], how much of the way to noise: the lower, the more of the image is left. At 1 nothing
                is, and a seed gives the image of the pipeline's call. The paper recommends 0.3 to 0.6.
            num_inference_steps: of the whole way; `strength` of them are taken.
            options: of this family's `sample`.

        Raises:
            UsageError: this family cannot, or an argument that does not fit the model.
        """
        shape = self._shape_given("edit")
        given = Given(images_of(image, shape), checked_strength(strength))
        noise = noise_of(len(given.image), generator, seeds, self._execution_device)
        return self._drawn(given, noise, class_labels, num_inference_steps, output_type, return_dict, options)

    @torch.no_grad()
    def inpaint(
        self,
        image: Pictures,
        mask_image: Pictures,
        strength: float = 1.0,
        jump_length: int = 1,
        jump_n_sample: int = 10,
        generator: Generators = None,
        seeds: Sequence[int] | None = None,
        class_labels: Any = None,
        num_inference_steps: int | None = None,
        output_type: str | None = None,
        return_dict: bool = True,
        **options: Any,
    ) -> Any:
        """Fill in the given images where the mask is white, so that it fits the rest, which stays as it is bit for bit
        (RePaint, Lugmayr et al. 2022, arXiv:2201.09865). Returns what the pipeline's call returns.

        Args:
            image: as `edit`'s; what it shows under the mask matters below strength 1 only.
            mask_image: (B, 1, H, W) or (1, 1, H, W) of booleans or of 0 and 1, 1 where the image is drawn anew; or
                pictures, white there and black where the image stays.
            strength: as `edit`'s.
            jump_length: the steps that are taken back at a time.
            jump_n_sample: how often each step is taken in all: what is drawn is brought to fit what is given by
                going back and forth. At 1 what is given merely takes its place in each step.
            num_inference_steps: of the whole way; each costs `jump_n_sample` calls of the network or more.
            options: of this family's `sample`.

        Raises:
            UsageError: this family cannot, or an argument that does not fit the model.
        """
        shape = self._shape_given("inpaint")
        images, mask = images_of(image, shape), mask_of(mask_image, shape)
        if len(mask) not in (1, len(images)):
            raise UsageError(f"{len(mask)} masks for {len(images)} images; expected one, or one for each.")
        jumps = {"jump_length": jump_length, "jump_n_sample": jump_n_sample}
        for name, value in jumps.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UsageError(f"{name} is {value!r}; expected a whole number, at least 1.")
        given = Given(images, checked_strength(strength), mask, **jumps)
        noise = noise_of(len(images), generator, seeds, self._execution_device)
        return self._drawn(given, noise, class_labels, num_inference_steps, output_type, return_dict, options)

    def _shape_given(self, method: str) -> tuple[int, int, int]:
        """Return (C, H, W) of the family's images; raise a UsageError if it does not draw from given ones."""
        if not edits(type(self)):
            raise UsageError(f"{type(self).__name__} has no {method}: it does not draw in steps from noise to images.")
        shape: tuple[int, int, int] = self.image_shape
        return shape

    def _drawn(
        self,
        given: Given,
        noise: Any,
        class_labels: Any,
        num_inference_steps: int | None,
        output_type: str | None,
        return_dict: bool,
        options: dict[str, Any],
    ) -> Any:
        refuse_options(self, options, "sample", also=CALL)
        output_type = self.check_output_type(output_type)
        if len(given.image) not in (1, len(noise)):
            raise UsageError(f"{len(noise)} seeds for {len(given.image)} images; expected one for each.")
        device, count = self._execution_device, len(noise)
        image = given.image.to(device, torch.float32).expand(count, -1, -1, -1)
        mask = None if given.mask is None else given.mask.to(device).expand(count, -1, -1, -1)
        given = Given(image, given.strength, mask, given.jump_length, given.jump_n_sample)
        with eval_mode(self.models().values()):
            labels = self._labels(class_labels, noise)
            drawn = self.sample(
                noise, class_labels=labels, num_inference_steps=num_inference_steps, given=given, **options
            )
        if not drawn.isfinite().all():
            raise HFGenError("Drawn images contain NaN or inf: the weights are damaged, or training diverged.")
        if mask is not None:
            drawn = torch.where(mask, drawn, image)
        output = self.to_output(drawn, output_type)
        self.maybe_free_model_hooks()
        return output if return_dict else (output[0],)


def edits(pipeline_class: Any) -> bool:
    """Return True for a family that draws from given images."""
    return "given" in inspect.signature(pipeline_class.sample).parameters


def checked_strength(strength: Any) -> float:
    """Return the strength as a number in (0, 1]; raise a UsageError otherwise."""
    number = isinstance(strength, (int, float)) and not isinstance(strength, bool)
    if not number or not (0 < strength <= 1 and math.isfinite(strength)):
        raise UsageError(
            f"strength is {strength!r}; it is above 0, which would leave the image as it is, and at most 1."
        )
    return float(strength)


def images_of(image: Pictures, shape: tuple[int, int, int]) -> Tensor:
    """Return given images as a tensor (B, *shape) in [-1, 1].

    Raises:
        UsageError: they are of another size, mode or range.
    """
    if not isinstance(image, Tensor):
        channels, height, width = shape
        pictures = _pictures(image, "image")
        for picture in pictures:
            if picture.size != (width, height) or picture.mode != MODES.get(channels, picture.mode):
                raise UsageError(
                    f"image is {picture.width}x{picture.height}, {picture.mode}; this model's images are "
                    f"{width}x{height}, {MODES.get(channels, f'of {channels} channels')}."
                )
        arrays = np.stack([np.asarray(picture).reshape(height, width, -1) for picture in pictures])
        image = torch.from_numpy(arrays).permute(0, 3, 1, 2) / 127.5 - 1
    check_images(image, shape)
    return image


def mask_of(mask_image: Pictures, shape: tuple[int, int, int]) -> Tensor:
    """Return masks as booleans, (B, 1, H, W), True where an image is drawn anew.

    Raises:
        UsageError: one is of another size, says neither yes nor no, or is the same everywhere.
    """
    size = shape[1:]
    if isinstance(mask_image, Tensor):
        mask = mask_image
        if mask.ndim != 4 or mask.shape[1] != 1 or not len(mask) or mask.shape[2:] != size:
            expected = ", ".join(map(str, size))
            raise UsageError(f"mask_image is of shape {tuple(mask.shape)}; expected (B, 1, {expected}).")
        if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
            raise UsageError("mask_image holds other values than 0, where the image stays, and 1, where it is drawn.")
        mask = mask.bool()
    else:
        pictures = _pictures(mask_image, "mask_image")
        for picture in pictures:
            if (picture.height, picture.width) != size:
                wanted = f"{size[1]}x{size[0]}"
                raise UsageError(f"mask_image is {picture.width}x{picture.height}; this model's images are {wanted}.")
        mask = torch.from_numpy(np.stack([np.asarray(p.convert("L")) >= 128 for p in pictures]))[:, None]
    drawn = mask.flatten(1)
    if not drawn.any(1).all():
        raise UsageError(
            "mask_image is black everywhere, so that nothing would be drawn; white is what is drawn anew."
        )
    if drawn.all(1).any():
        raise UsageError("mask_image is white everywhere, so that nothing of the image would stay; leave it out.")
    return mask


def _pictures(given: Any, name: str) -> list[Image.Image]:
    pictures = [given] if isinstance(given, Image.Image) else given
    if not isinstance(pictures, Sequence) or not pictures or not all(isinstance(p, Image.Image) for p in pictures):
        raise UsageError(f"{name} is a {type(given).__name__}; expected a tensor, a PIL image, or a list of those.")
    return list(pictures)
