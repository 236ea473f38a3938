"""Laws of drawing from given images, and that the families that cannot say so."""

from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from hfgen.editing import edits
from hfgen.pipeline import HFGenPipeline
from hfgen.testing.culprits import assert_apart, assert_near, refused


class EditingLaws:
    """Part of `FamilyTests`, which documents the attributes."""

    sample_size: ClassVar[int]
    in_channels: ClassVar[int]
    num_classes: ClassVar[int | None]
    sampling: ClassVar[dict[str, Any]]

    def build(self, num_classes: int | None = None) -> HFGenPipeline:
        raise NotImplementedError

    def pipeline_class(self) -> Any:
        raise NotImplementedError

    def _of_samples(self) -> float:
        raise NotImplementedError

    def _images(self, count: int) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def test_edit(self) -> None:
        """An edited image depends on what is given and its seed; of strength 1 it is the seed's own image."""
        pipeline, images, _ = self._given()
        options = {**self.sampling, "output_type": "pt"}
        edited = pipeline.edit(images, 0.5, seeds=[5, 1, 7], **options).images
        assert edited.shape == images.shape, f"edit returns shape {tuple(edited.shape)} of {tuple(images.shape)}"
        for row, seed in enumerate((5, 1, 7)):
            alone = pipeline.edit(images[row : row + 1], 0.5, seeds=[seed], **options).images
            assert_near(alone[0], edited[row], self._of_samples(), f"seed {seed}, edited among three and alone")
        of_one = pipeline.edit(images[:1], 0.5, seeds=[5, 1], **options).images
        assert_near(of_one[0], edited[0], self._of_samples(), "seed 5 as the first of two versions, and among three")
        assert_apart(of_one[0], of_one[1], self._of_samples(), "two versions of one image")
        other = pipeline.edit(-images, 0.5, seeds=[5, 1, 7], **options).images
        assert_apart(edited, other, self._of_samples(), "the same seeds with other images")
        whole = pipeline.edit(images, 1.0, seeds=[5, 1, 7], **options).images
        sampled = pipeline(seeds=[5, 1, 7], **options).images
        assert_near(whole, sampled, self._of_samples(), "an edit of strength 1, and the seeds' own images")

    def test_inpaint(self) -> None:
        """Pixels outside the mask stay bit for bit; those in it depend on the seed and on what stays alone."""
        pipeline, images, mask = self._given()
        options = {**self.sampling, "output_type": "pt", "jump_n_sample": 2}
        filled = pipeline.inpaint(images, mask, seeds=[5, 1, 7], **options).images
        kept = ~mask.expand_as(images)
        assert torch.equal(filled[kept], (images / 2 + 0.5)[kept]), "an image differs where it should stay"
        alone = pipeline.inpaint(images[1:2], mask, seeds=[1], **options).images
        assert_near(alone[0], filled[1], self._of_samples(), "seed 1, filled in among three and alone")
        hidden = torch.where(mask, -images, images)
        again = pipeline.inpaint(hidden, mask, seeds=[5, 1, 7], **options).images
        assert_near(again, filled, 0.0, "what is filled in, with other images under the mask")
        versions = pipeline.inpaint(images[:1], mask, seeds=[5, 6], **options).images
        assert_apart(versions[0], versions[1], self._of_samples(), "what two seeds fill in")
        pictures = pipeline.inpaint(images[:1], mask, seeds=[5], **{**options, "output_type": "pil"}).images
        assert pictures[0].size == (self.sample_size, self.sample_size)

    def test_what_cannot_be_drawn_from_is_refused(self) -> None:
        """Strengths outside (0, 1], images and masks that do not fit, unknown options: before a network is asked."""
        if not edits(self.pipeline_class()):
            pytest.skip("it does not draw from given images")
        pipeline, images, mask = self._given()
        for strength in (0, -0.5, 1.01, float("nan"), "half", True):
            refused(partial(pipeline.edit, images, strength), "strength is", f"strength={strength!r}")
        refused(partial(pipeline.edit, images[..., 1:]), "expected", "an image of another size")
        refused(partial(pipeline.edit, (images + 1) * 127.5), "Images lie", "an image of 0 to 255")
        refused(partial(pipeline.edit, images, nonsense=1), "takes no nonsense", "an unknown option")
        refused(partial(pipeline.edit, images, seeds=[1, 2]), "2 seeds for 3 images", "two seeds of three images")
        wrong = {
            "of another size": (mask[..., 1:], "shape"),
            "black everywhere": (torch.zeros_like(mask), "black everywhere"),
            "white everywhere": (torch.ones_like(mask), "white everywhere"),
            "gray": (mask * 0.5, "other values than 0"),
            "two for three images": (mask.repeat(2, 1, 1, 1), "2 masks for 3 images"),
        }
        for what, (given, words) in wrong.items():
            refused(partial(pipeline.inpaint, images, given), words, f"a mask {what}")
        for name in ("jump_length", "jump_n_sample"):
            refused(partial(pipeline.inpaint, images, mask, **{name: 0}), f"{name} is 0", f"{name}=0")

    def test_a_family_that_does_not_draw_in_steps_says_so(self) -> None:
        if edits(self.pipeline_class()):
            pytest.skip("it draws from given images")
        pipeline, (images, _) = self.build(self.num_classes), self._images(1)
        for method, given in {"edit": (images,), "inpaint": (images, images > 0)}.items():
            refused(partial(getattr(pipeline, method), *given), f"has no {method}", method)

    def _given(self) -> tuple[Any, Tensor, Tensor]:
        """Build the tiny pipeline; three images, and a mask of their right half."""
        if not edits(self.pipeline_class()):
            pytest.skip("it does not draw from given images")
        images, _ = self._images(3)
        mask = torch.zeros(1, 1, self.sample_size, self.sample_size, dtype=torch.bool)
        mask[..., self.sample_size // 2 :] = True
        return self.build(self.num_classes), images, mask
