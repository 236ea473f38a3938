"""Laws of families that map images to latents, compute likelihoods, or are bijections."""

from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from hfgen.errors import UsageError
from hfgen.likelihood import LogLikelihood
from hfgen.pipeline import HFGenPipeline
from hfgen.testing.culprits import assert_apart, assert_near, refused


class LatentLaws:
    """Part of `FamilyTests`, which documents the attributes."""

    sample_size: ClassVar[int]
    in_channels: ClassVar[int]
    num_classes: ClassVar[int | None]
    tolerance: ClassVar[float]
    sampling: ClassVar[dict[str, Any]]
    likelihood: ClassVar[dict[str, Any]]

    def build(self, num_classes: int | None = None) -> HFGenPipeline:
        raise NotImplementedError

    def pipeline_class(self) -> Any:
        raise NotImplementedError

    def test_latents(self) -> None:
        """A latent depends on its image alone, and decodes to the image's shape, the same at each call."""
        if not self._has("encode"):
            pytest.skip("it maps no image to a latent")
        pipeline, images, labels = self._examples()
        latents = pipeline.encode(images, labels, **self.sampling)
        alone = pipeline.encode(images[2:], None if labels is None else labels[2:], seeds=[2], **self.sampling)
        bound = self.tolerance * max(1.0, float(latents.abs().max()))
        assert_near(alone, latents[2:], bound, "the latent of an image alone and among three")
        assert_apart(latents[0], latents[1], 0, "the latents of two images")
        with torch.no_grad():
            decoded = pipeline.decode(latents, class_labels=labels, **self.sampling)
        assert decoded.shape == images.shape, f"decode returns shape {tuple(decoded.shape)} of {tuple(images.shape)}"
        again = pipeline.reconstruct(images, class_labels=labels, **self.sampling)
        assert_near(again, decoded, self.tolerance, "`reconstruct`, and `decode` of `encode`")

    def test_latents_are_those_of_eval_mode(self) -> None:
        """`encode` and `log_likelihood` run the networks in eval mode, and leave them as they were."""
        if not (self._has("encode") or self._has("log_likelihood")):
            pytest.skip("it maps no image to a latent or a likelihood")
        pipeline, images, labels = self._examples()
        in_training: set[str] = set()
        for name, model in pipeline.models().items():
            for part in model.modules():
                part.register_forward_pre_hook(
                    lambda part, _, name=name: in_training.add(name) if part.training else None
                )
        for method in filter(self._has, ("encode", "log_likelihood")):
            for model in pipeline.models().values():
                model.train()
            getattr(pipeline, method)(images, labels, **(self.sampling if method == "encode" else self.likelihood))
            assert not in_training, (
                f"{method} calls {sorted(in_training)} in training mode: enter `eval_mode(self.models().values())`"
            )
            left = [name for name, model in pipeline.models().items() if not model.training]
            assert not left, f"{method} leaves {left} in eval mode, and a training would go on so"

    def test_log_likelihood(self) -> None:
        """A likelihood depends on the image and its seed alone, is finite, and names its kind."""
        if not self._has("log_likelihood"):
            pytest.skip("it defines no density of images")
        pipeline, images, labels = self._examples()
        found = pipeline.log_likelihood(images, labels, **self.likelihood)
        assert isinstance(found, LogLikelihood), f"log_likelihood returns a {type(found).__name__}"
        assert found.nats.shape == (3,), f"`nats` of three images has shape {tuple(found.nats.shape)}"
        assert found.nats.dtype == torch.float64, f"`nats` is {found.nats.dtype}; it must be float64"
        assert found.nats.isfinite().all(), f"`nats` is {found.nats.tolist()}"
        sizes = found.num_dimensions
        assert isinstance(sizes, Tensor) or sizes == images[0].numel()
        label = None if labels is None else labels[2:]
        alone = pipeline.log_likelihood(images[2:], label, seeds=[2], **self.likelihood)
        tolerance = self.tolerance * images[0].numel()
        assert_near(alone.nats, found.nats[2:], tolerance, "ln p of an image with seed 2, alone and among three")
        if found.num_values is None:
            with pytest.raises(UsageError, match="a density"):
                _ = found.bits_per_dim
        else:
            assert found.bits_per_dim.isfinite().all()
            assert (found.nats < 0).all(), f"a probability is above 1: its logarithms are {found.nats.tolist()}"

    def test_wrong_images_are_refused(self) -> None:
        """Bytes, values outside [-1, 1] and wrong shapes raise a UsageError."""
        pipeline, images, labels = self._examples()
        wrong = {
            "floats of 0 to 255": (images + 1) * 127.5,
            "bytes": ((images + 1) * 127.5).byte(),
            "another width": images[..., :-1],
            "no batch dimension": images[0],
        }
        for method in filter(self._has, ("encode", "log_likelihood")):
            call = getattr(pipeline, method)
            for what, given in wrong.items():
                refused(partial(call, given, labels), "expected|Images lie", f"{method} of images with {what}")
            refused(partial(call, images, labels, seeds=[1]), "seeds", f"{method} of 3 images with 1 seed")

    def test_change_of_variables(self) -> None:
        """A bijection's log-determinant equals that of its Jacobian, and its inverse undoes it."""
        if not self._has("to_latents"):
            pytest.skip("its latents are not the image under a bijection")
        pipeline = self.build(self.num_classes)
        generator = torch.Generator().manual_seed(1)
        images, labels = self._images(2)
        images = images * torch.rand(images.shape, generator=generator)
        for dtype, determinant, inverse in ((torch.float32, 1e-4, 1e-3), (torch.float64, 1e-9, 1e-9)):
            pipeline.to(dtype)
            x, label = images.to(dtype), labels if self.num_classes else None
            with torch.no_grad():
                latents, log_det = pipeline.to_latents(x, label)
                back = pipeline.from_latents(latents, label)
            assert log_det.shape == (2,)
            assert latents.dtype == log_det.dtype == dtype
            assert (back - x).abs().max() <= 2 * inverse  # of a range of 2
            one = None if label is None else label[:1]
            jacobian = jacobian_of(lambda image, one=one: pipeline.to_latents(image, one)[0], x[:1])
            expected = torch.linalg.slogdet(jacobian.double())[1]
            torch.testing.assert_close(log_det[0].double(), expected, rtol=determinant, atol=determinant)

    def test_images_come_back_from_their_latents(self) -> None:
        """A bijection changes no pixel on the way to the latents and back."""
        if not self._has("to_latents"):
            pytest.skip("its latents are not the image under a bijection")
        pipeline = self.build(self.num_classes)
        bytes_ = torch.arange(2 * self._images(1)[0].numel()).view(2, *self._images(1)[0].shape[1:]) % 256
        images, labels = bytes_ / 127.5 - 1, self._images(2)[1] if self.num_classes else None
        once = pipeline.reconstruct(images, class_labels=labels)
        assert torch.equal(pipeline.reconstruct(once, class_labels=labels), once)
        assert pipeline.dtype.is_floating_point
        if pipeline.log_likelihood(images, labels).num_values == 256:
            assert torch.equal(((once + 1) * 127.5).round().long(), bytes_)

    def _has(self, method: str) -> bool:
        return getattr(self.pipeline_class(), method) is not getattr(HFGenPipeline, method)

    def _examples(self) -> tuple[HFGenPipeline, Tensor, Tensor | None]:
        """Build the tiny pipeline and three black-and-white images, which every likelihood accepts."""
        images, labels = self._images(3)
        return self.build(self.num_classes), images, labels if self.num_classes else None

    def _images(self, count: int) -> tuple[Tensor, Tensor]:
        """Make black-and-white images, which every likelihood accepts, and labels."""
        generator = torch.Generator().manual_seed(0)
        shape = (count, self.in_channels, self.sample_size, self.sample_size)
        images = torch.randint(2, shape, generator=generator) * 2.0 - 1
        return images, torch.arange(count) % (self.num_classes or 2)


def jacobian_of(function: Any, x: Tensor) -> Tensor:
    """Compute d function(x) / dx of one image, shape (D, D)."""
    return torch.autograd.functional.jacobian(function, x, vectorize=True).reshape(x.numel(), x.numel())
