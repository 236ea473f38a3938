"""Laws of calling a pipeline: what it returns, which image a seed gives, and which calls are refused."""

from functools import partial
from typing import Any, ClassVar

import pytest
import torch

from hfgen.noise import SeededNoise
from hfgen.pipeline import HFGenPipeline
from hfgen.testing.culprits import assert_apart, assert_near, refused


class CallLaws:
    """Part of `FamilyTests`, which documents the attributes."""

    sample_size: ClassVar[int]
    in_channels: ClassVar[int]
    num_classes: ClassVar[int | None]
    sampling: ClassVar[dict[str, Any]]

    def build(self, num_classes: int | None = None) -> HFGenPipeline:
        raise NotImplementedError

    def _of_samples(self) -> float:
        raise NotImplementedError

    def test_call_contract(self) -> None:
        """Images are PIL, numpy or torch, of the right number, shape, mode and range, and the same when repeated."""
        pipeline, size = self.build(self.num_classes), self.sample_size
        images = pipeline(batch_size=3, generator=torch.Generator().manual_seed(0), **self.sampling).images
        assert [image.size for image in images] == [(size, size)] * 3
        assert {image.mode for image in images} == {{1: "L", 3: "RGB", 4: "RGBA"}[self.in_channels]}
        array = pipeline(seeds=[1, 2], output_type="np", **self.sampling).images
        assert array.shape == (2, size, size, self.in_channels)
        tensor = pipeline(seeds=[1, 2], output_type="pt", return_dict=False, **self.sampling)[0]
        assert tensor.shape == (2, self.in_channels, size, size)
        assert 0 <= tensor.min() <= tensor.max() <= 1
        assert tensor.std() > 0, "every pixel of two images has one value"
        torch.testing.assert_close(tensor, pipeline(seeds=[1, 2], output_type="pt", **self.sampling).images)

    def test_wrong_calls_are_refused(self) -> None:
        pipeline = self.build()
        wrong: Any
        refused(partial(pipeline, seeds=[1], generator=torch.Generator()), "either generator or seeds", "both")
        refused(partial(pipeline, batch_size=0), "at least one image", "batch_size=0")
        for wrong in ([1.5], ["1"], [2**64]):
            refused(partial(pipeline, seeds=wrong), "seeds must be", f"seeds={wrong}")
        refused(partial(pipeline, class_labels=[0]), "not class-conditional", "class_labels=[0] without classes")

    def test_a_seed_is_a_picture(self) -> None:
        """A seed gives the same image in every batch size, order and company."""
        call, seeds = partial(self.build(self.num_classes), output_type="pt", **self.sampling), [5, 1, 7, 3]
        together = call(seeds=seeds).images
        alone = torch.cat([call(seeds=[seed]).images for seed in reversed(seeds)]).flip(0)
        for seed, one, other in zip(seeds, together, alone, strict=True):
            assert_near(one, other, self._of_samples(), f"seed {seed}, sampled among {seeds} and alone")
        assert_apart(together[0], together[1], self._of_samples(), "the images of two seeds")

    def test_image_i_of_a_generator_is_a_picture(self) -> None:
        call = partial(self.build(self.num_classes), output_type="pt", **self.sampling)
        few = call(batch_size=2, generator=torch.Generator().manual_seed(3)).images
        more = call(batch_size=5, generator=torch.Generator().manual_seed(3)).images
        assert_near(few, more[:2], self._of_samples(), "the first images of 2 and of 5 by the same generator")

    def test_class_labels_matter(self) -> None:
        """The label changes a seed's image; a label that is not given follows from the seed; wrong ones are errors."""
        if self.num_classes is None:
            pytest.skip("not a class-conditional family")
        call = partial(self.build(self.num_classes), output_type="pt", **self.sampling)
        first, second = [call(seeds=[4], class_labels=[label]).images for label in (0, 1)]
        assert_apart(first, second, self._of_samples(), "seed 4 with label 0 and with label 1")
        drawn = int(SeededNoise.from_seeds([4]).integers(self.num_classes))
        given = call(seeds=[4], class_labels=[drawn]).images
        free = call(seeds=[4]).images
        assert_near(free, given, self._of_samples(), f"seed 4, whose label is {drawn}, without a label and with it")
        too_high = [self.num_classes]
        refused(partial(call, class_labels=too_high), "class_labels must lie in", f"class_labels={too_high}")
