"""The base of normalizing flows: images -> latents of the same number of dimensions and back, exactly."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hfgen import (
    IMPORTANCE_CHUNK,
    Batch,
    CheckError,
    Diagnosis,
    HFGenPipeline,
    LoadError,
    LogLikelihood,
    Noise,
    Objective,
    PriorScheduler,
    SeededNoise,
    Update,
    UsageError,
    bits_per_dim,
    check_images,
    check_latents,
    check_num_samples,
    eval_mode,
    images_to_levels,
    importance_weighted_bound,
    labels_for,
    levels_to_images,
    noise_for,
    signature_of,
)
from hfgen_flow.bijections import initialize, is_initialized, require_initialized
from hfgen_flow.dequantization import quantize
from hfgen_flow.precision import full_precision, without_half

ELEMENTS = 2**19  # image elements in one pass, of many importance samples or images
EDGE = 1 / 32  # of the distance between two values of a pixel
VERIFIED = 4  # images of a round trip after loading

Shape = tuple[int, int, int]

# --- latents --------------------------------------------------------------------------------------------------------


def join_latents(parts: Sequence[Tensor]) -> Tensor:
    """The latents of all levels, the first to be factored out first: (B, D)."""
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def split_latents(latents: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
    """The inverse of `join_latents`."""
    parts = latents.split([math.prod(shape) for shape in shapes], dim=1)
    return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]


# --- objective ------------------------------------------------------------------------------------------------------


class FlowObjective(Objective):
    """Minimizes the bound of -log2 P(x) / D, bits per dimension, of one draw of the dequantization noise."""

    def __init__(self, flow: nn.Module, dequantizer: nn.Module, scheduler: PriorScheduler) -> None:
        self.flow, self.dequantizer, self.scheduler = flow, dequantizer, scheduler
        parts = {"flow": flow, "dequantizer": dequantizer}
        self.trained = tuple(name for name, part in parts.items() if any(p.requires_grad for p in part.parameters()))
        self.num_values = num_values_of(getattr(dequantizer, "module", dequantizer))

    def training_step(self, batch: Batch) -> Iterator[Update]:
        """Yield the update of the flow, and of a dequantizer that learns."""
        images = batch["pixel_values"]
        levels = images_to_levels(images, self.num_values)
        v, log_q = self.dequantizer(levels, self.noise.uniform(*images.shape[1:]))
        latents, log_det = self.flow(v, batch.get("class_labels"))
        nats = log_probability(self.scheduler.log_prob(latents), log_det, log_q, v[0].numel(), self.num_values)
        yield Update(self.trained, bits_per_dim(nats, v[0].numel()).mean(), name="bits_per_dim")

    @classmethod
    def initialize(cls, pipeline: Any, batch: Batch, noise: Noise) -> None:
        """ActNorm's statistics, of what the flow and the dequantizer make of this batch."""
        if is_initialized(pipeline.flow) and is_initialized(pipeline.dequantizer):
            return
        images = batch["pixel_values"]
        levels = images_to_levels(images, pipeline.num_values)
        uniform = noise.uniform(*images.shape[1:])
        initialize(pipeline.dequantizer, levels, uniform)
        initialize(pipeline.flow, pipeline.dequantizer(levels, uniform)[0], batch.get("class_labels"))

    @classmethod
    def diagnose(cls, pipeline: Any, examples: Batch) -> Diagnosis:
        """Bits per dimension, and how exactly images come back."""
        images, labels = examples["pixel_values"], examples.get("class_labels")
        trip = pipeline.round_trip(images, labels)
        found = pipeline.log_likelihood(images, labels)
        values = {
            "images": len(images),
            "bits_per_dim": float(found.bits_per_dim.mean()),
            "values_of_a_pixel": pipeline.num_values,
            "round_trip_error": trip.max_error,
            "round_trip_changed_values": trip.changed_values,
        }
        return Diagnosis(values, [NOT_EXACT.format(**values)] if trip.changed_values else [])


NOT_EXACT = (
    "{round_trip_changed_values} pixel values of {images} training images changed on the way to the latents and\n"
    "back: the flow is badly conditioned. Try a lower --learning_rate, or --max_grad_norm 1."
)


def log_probability(log_prior: Tensor, log_det: Tensor, log_q: Tensor, num_dimensions: int, num_values: int) -> Tensor:
    """The bound of ln P(x) of one draw of u: ln p(v) - ln q(u|x) - D ln n, (B,)."""
    return log_prior + log_det - log_q - num_dimensions * math.log(num_values)


def num_values_of(dequantizer: nn.Module) -> int:
    """The number of values that a pixel can take."""
    config: Any = dequantizer.config
    return 2**config.num_bits


# --- pipeline -------------------------------------------------------------------------------------------------------


class RoundTrip(NamedTuple):
    """The error of a round trip from images to latents and back.

    Attributes:
        max_error: of any pixel before rounding down, of a range of 1.
        changed_values: how many pixels came back as another value.
        num_images: of how many images.
    """

    max_error: float
    changed_values: int
    num_images: int


class FlowPipeline(HFGenPipeline):
    """A flow between images and latents of as many dimensions, and the density that it gives.

    A subclass says which flow, `default_flow`. `encode`, `decode` and likelihoods are computed in float32 or float64,
    also of a model whose coupling networks are in half precision; only sampling runs in that.
    """

    objective_class = FlowObjective
    training_defaults = {"train_batch_size": 64, "learning_rate": 1e-3, "use_ema": True, "max_grad_norm": 1.0}
    ema_components = ("flow", "dequantizer")
    measured_on_request = ("reconstruction_mse", "reconstruction_fid")  # nothing, of a bijection
    notes = (
        "A latent stands for exactly one image, and an image with its dequantization noise for one latent.",
        "Bits per dimension are bounds from above; in training and diagnosis, of one draw of that noise.",
    )

    flow: Any
    dequantizer: Any
    scheduler: PriorScheduler

    def __init__(self, flow: Any, dequantizer: Any, scheduler: PriorScheduler) -> None:
        super().__init__()
        if not hasattr(scheduler, "log_prob"):
            raise UsageError(f"The scheduler of a flow is a PriorScheduler, not a {type(scheduler).__name__}.")
        config, noise = flow.config, dequantizer.config
        for name in ("sample_size", "in_channels"):
            if name in noise and noise[name] != config[name]:
                raise UsageError(f"--flow.{name} is {config[name]}, --dequantizer.{name} {noise[name]}.")
        num_dimensions = config.in_channels * config.sample_size**2
        if list(scheduler.config.latent_shape) != [num_dimensions]:
            raise UsageError(
                f"--scheduler.latent_shape is {list(scheduler.config.latent_shape)}; "
                f"a flow of these images has [{num_dimensions}]."
            )
        if scheduler.config.distribution == "uniform":
            raise UsageError(
                "--scheduler.distribution is 'uniform'; a flow needs a density wherever latents lie: normal or "
                "logistic."
            )
        self.register_modules(flow=flow, dequantizer=dequantizer, scheduler=scheduler)

    @classmethod
    def default_flow(cls, sample_size: int, in_channels: int, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options of the flow that follow from the shape of the images: gray ones are mostly black and white, and a
        logit of small alpha gives each of these values room."""
        return {"preprocessing": "logit_halfalpha", "alpha": 1e-5} if in_channels == 1 else {}

    @classmethod
    def default_configs(
        cls, sample_size: int, in_channels: int, num_classes: int | None, overrides: Mapping[str, dict[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """The flow, and a dequantizer that sees images, for the data's shape; as many latents as pixel values."""
        shape = {"sample_size": sample_size, "in_channels": in_channels, "num_classes": num_classes}
        taken = {name: signature_of(class_) for name, class_ in cls.component_classes(overrides).items()}
        configs = {name: {k: v for k, v in shape.items() if k in taken[name]} for name in ("flow", "dequantizer")}
        configs["flow"] |= cls.default_flow(sample_size, in_channels, overrides.get("flow", {}))
        return {**configs, "scheduler": {"latent_shape": [in_channels * sample_size**2]}}

    @property
    def image_shape(self) -> Shape:
        """(C, H, W)"""
        config = self.flow.config
        return config.in_channels, config.sample_size, config.sample_size

    @property
    def num_values(self) -> int:
        """The number of values that a pixel can take."""
        return num_values_of(self.dequantizer)

    # --- images and latents -----------------------------------------------------------------------------------------

    def to_latents(self, images: Tensor, class_labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latents of images that need not be bytes, and ln|det| of the map; differentiable in the images."""
        x = images.to(self._execution_device, self.flow.computing_dtype)
        with self._exactly():
            latents, log_det = self.flow((x + 1) / 2, self._labels_of(x, class_labels))
        return latents, log_det - x[0].numel() * math.log(2)

    def from_latents(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """The image of each latent before it is rounded down to one of the values that pixels take."""
        with self._exactly():
            return self.flow.inverse(*self._checked(latents, class_labels)) * 2 - 1

    @torch.no_grad()
    def encode(self, images: Tensor, class_labels: Tensor | None = None, seeds: Sequence[int] | None = None) -> Tensor:
        """Return all latents of each image, (B, D), with those that are factored out first at the front.

        Args:
            seeds: of the dequantization noise, kept off the edges between values; default 0, 1, 2 ...
        """
        levels = self._levels(images)
        with self._exactly():
            uniform = self._image_noise(images, seeds).uniform(*self.image_shape)
            v = inside_bins(self._dequantize(levels, uniform)[0], levels, self.num_values)
            return self.flow(v, self._labels_of(images, class_labels))[0]

    @torch.no_grad()
    def decode(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """The image of each latent, rounded down to one of the values that pixels take: the very image that was
        encoded, of fewer than 8 bits rounded down to that many."""
        with self._exactly():
            return self._draw(*self._checked(latents, class_labels))

    def sample(
        self, noise: SeededNoise, class_labels: Tensor | None = None, num_inference_steps: int | None = None
    ) -> Tensor:
        """Sample images as `decode` of latents from the prior, with coupling networks in their own precision."""
        self.scheduler.set_timesteps(num_inference_steps)
        return self._draw(*self._checked(self.latents(noise), class_labels))

    def _draw(self, latents: Tensor, class_labels: Tensor | None) -> Tensor:
        v = self.flow.inverse(latents, class_labels)
        if not v.isfinite().all():
            raise CheckError(self._why_not_finite(latents))
        return levels_to_images(quantize(v, self.num_values), self.num_values)

    def _why_not_finite(self, latents: Tensor) -> str:
        if not latents.isfinite().all():
            return "The latents are not finite."
        named = ((f"{n}.{p}", w) for n, model in self.models().items() for p, w in model.named_parameters())
        broken = next((name for name, weight in named if not weight.isfinite().all()), None)
        if broken is not None:
            return f"Weights are not finite, such as {broken}: the file is damaged, or the training diverged."
        return "The image of a latent is not finite; try a lower --scheduler.temperature."

    def _dequantize(self, levels: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        dtype = self.flow.computing_dtype
        return self.dequantizer(levels.to(dtype), uniform.to(dtype))

    def _levels(self, images: Tensor) -> Tensor:
        require_initialized(self.flow)
        require_initialized(self.dequantizer)
        check_images(images, self.image_shape)
        return images_to_levels(images.to(self._execution_device), self.num_values, strict=True)

    def _checked(self, latents: Tensor, class_labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        check_latents(latents, [math.prod(self.image_shape)])
        return latents.to(self._execution_device), self._labels_of(latents, class_labels)

    def _image_noise(self, images: Tensor, seeds: Sequence[int] | None) -> SeededNoise:
        return noise_for(len(images), seeds, self._execution_device)

    def _labels_of(self, batch: Tensor, class_labels: Tensor | None) -> Tensor | None:
        return labels_for(len(batch), class_labels, self.num_classes, self._execution_device)

    @contextlib.contextmanager
    def _exactly(self) -> Iterator[None]:
        """Compute in full precision and in eval mode for a while."""
        models = list(self.models().values())
        with eval_mode(models), without_half(models), full_precision(self._execution_device):
            yield

    # --- likelihood -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def log_likelihood(
        self,
        images: Tensor,
        class_labels: Tensor | None = None,
        seeds: Sequence[int] | None = None,
        num_importance_samples: int = 1,
    ) -> LogLikelihood:
        """The bound of ln P(x) that dequantization gives: with K draws of the noise, ln of the mean of exp of K.

        Args:
            images: (B, C, H, W) in [-1, 1], of 8 bits; of a model of fewer bits the probability is that of its levels.
            seeds: of each image's dequantization noise; default 0, 1, 2 ...
            num_importance_samples: K.

        Raises:
            UsageError: images of another shape or range, or with values between those of 8 bits.
            CheckError: a likelihood that is not a number.
        """
        levels, labels = self._levels(images), self._labels_of(images, class_labels)
        noise = self._image_noise(images, seeds)
        check_num_samples(num_importance_samples)
        at_once = max(1, 16 * ELEMENTS // (levels[0].numel() * min(num_importance_samples, IMPORTANCE_CHUNK)))
        found = []
        with self._exactly():
            for start in range(0, len(levels), at_once):
                rows = slice(start, start + at_once)
                part = SeededNoise(noise.generators[rows], noise.device)
                log_weights = partial(
                    self._log_weights, levels[rows], labels if labels is None else labels[rows], part
                )
                found.append(importance_weighted_bound(log_weights, num_importance_samples))
        nats = torch.cat(found)
        return LogLikelihood(nats, "lower bound", levels[0].numel(), self.num_values, num_importance_samples)

    def _log_weights(self, levels: Tensor, labels: Tensor | None, noise: SeededNoise, count: int) -> Tensor:
        uniform = noise.uniform(count, *self.image_shape)
        return torch.cat([self._bounds(*part) for part in _parts(levels, uniform, labels)]).unflatten(0, (-1, count))

    def _bounds(self, levels: Tensor, uniform: Tensor, class_labels: Tensor | None) -> Tensor:
        v, log_q = self._dequantize(levels, uniform)
        latents, log_det = self.flow(v, class_labels)
        log_prior = self.scheduler.log_prob(latents)
        return log_probability(log_prior.double(), log_det.double(), log_q.double(), v[0].numel(), self.num_values)

    # --- certificate ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def round_trip(self, images: Tensor, class_labels: Tensor | None = None) -> RoundTrip:
        """Encode and decode images in [-1, 1], with the noise of seeds 0, 1, 2 ..."""
        levels, labels = self._levels(images), self._labels_of(images, class_labels)
        error, changed = 0.0, 0
        uniform = self._image_noise(images, None).uniform(1, *self.image_shape)
        with self._exactly():
            for some, noise, label in _parts(levels, uniform, labels):
                v = inside_bins(self._dequantize(some, noise)[0], some, self.num_values)
                back = self.flow.inverse(self.flow(v, label)[0], label)
                error = max(error, float((back - v).abs().max().nan_to_num(math.inf)))
                changed += int((quantize(back, self.num_values) != some).sum())
        return RoundTrip(error, changed, len(images))

    def verify(self) -> None:
        """A round trip of images that the model draws itself.

        Raises:
            LoadError: a pixel came back as another value.
        """
        if not is_initialized(self.flow):
            return
        with torch.no_grad(), self._exactly():
            noise = SeededNoise.from_seeds(range(VERIFIED), self._execution_device)
            labels = self._labels(None, noise)
            try:
                images = self._draw(self.scheduler.sample_prior(noise), labels)
            except CheckError as error:
                raise LoadError(f"{error} verify=False loads it all the same.") from error
        trip = self.round_trip(images, labels)
        if trip.changed_values:
            raise LoadError(
                f"The flow is not exact: {trip.changed_values} pixel values of {VERIFIED} of its own images changed "
                f"on the way\nto the latents and back, by up to {trip.max_error:.2g} of the range. Its weights may be "
                "damaged; verify=False loads them all the same."
            )


def inside_bins(v: Tensor, levels: Tensor, num_values: int) -> Tensor:
    """Keep each v at least EDGE of a bin away from the next value, so that float32's rounding does not change it."""
    return (levels + (v * num_values - levels).clamp(EDGE, 1 - EDGE)) / num_values


def _parts(
    levels: Tensor, uniform: Tensor, class_labels: Tensor | None
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Yield each image with each of its draws (B, K, C, H, W), in parts that fit a cache."""
    count, (size, num_draws) = levels[0].numel(), uniform.shape[:2]
    rows = torch.arange(size, device=levels.device).repeat_interleave(num_draws)
    flat = uniform.flatten(0, 1)
    for place in torch.arange(len(rows), device=levels.device).split(max(1, ELEMENTS // count)):
        some = rows[place]
        yield levels[some], flat[place], None if class_labels is None else class_labels[some]
