"""CFM: conditional flow matching (Lipman et al. 2023, arXiv:2210.02747) along straight lines.

A network v(x, t) learns the velocity of points that go from noise at t = 0 to images at t = 1. Its ordinary
differential equation (ODE) samples forwards, encodes backwards, and gives a likelihood.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from diffusers import ConfigMixin, ModelMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import Tensor, nn

from hfgen import (
    Batch,
    HFGenPipeline,
    LogLikelihood,
    Noise,
    Objective,
    SeededNoise,
    Update,
    UsageError,
    check_images,
    check_latents,
    eval_mode,
    images_to_levels,
    labels_for,
    noise_for,
    slerp,
)

NO_LABEL = -1  # in class_labels: the velocity of all classes together
Velocity = Callable[[Tensor, Tensor], Tensor]  # x (B, C, H, W), t (B,) -> dx/dt (B, C, H, W)


# --- the network ----------------------------------------------------------------------------------------------------


class ResidualBlock(nn.Module):
    """Two convolutions; time and label shift each channel between them."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.norm, self.shift = nn.GroupNorm(1, channels), nn.Linear(channels, channels)
        self.inner = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.outer = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        hidden = self.inner(nn.functional.silu(self.norm(x))) + self.shift(condition)[:, :, None, None]
        return x + self.outer(nn.functional.silu(hidden))


class VelocityNetwork(ModelMixin, ConfigMixin):
    """v(x, t): convolutions of growing dilation, which see the whole of a small image.

    Args:
        sample_size: side of the images.
        in_channels: channels of the images.
        channels: channels of the hidden layers, an even number.
        dilations: one residual block for each.
        num_classes: number of classes of a class-conditional model.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 28,
        in_channels: int = 1,
        channels: int = 32,
        dilations: Sequence[int] = (1, 2, 4, 8),
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.image_shape = (in_channels, sample_size, sample_size)
        self.time = Timesteps(channels, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(channels, channels)
        self.class_embedding = None if num_classes is None else nn.Embedding(num_classes + 1, channels)
        self.conv_in = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(channels, dilation) for dilation in dilations)
        self.conv_out = nn.Conv2d(channels, in_channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """x (B, C, H, W), t (B,) in [0, 1], class_labels (B,) with -1 for none -> dx/dt (B, C, H, W)."""
        condition = self.time_embedding(self.time(1000 * t).to(x.dtype))
        if self.class_embedding is not None:
            labels = torch.full_like(t, NO_LABEL, dtype=torch.int64) if class_labels is None else class_labels
            condition = condition + self.class_embedding(labels % self.class_embedding.num_embeddings)
        hidden = self.conv_in(x)
        for block in self.blocks:
            hidden = block(hidden, condition)
        return self.conv_out(nn.functional.silu(hidden))


# --- the scheduler --------------------------------------------------------------------------------------------------


class ODEScheduler(SchedulerMixin, ConfigMixin):
    """Solves dx/dt = v(x, t) between noise at t = 0 and images at t = 1, either way.

    Args:
        latent_shape: shape of an image, without the batch.
        solver: `"heun"` evaluates the network twice a step, with an error of the order of the step's square;
            `"euler"` once, of the order of the step.
        num_inference_steps: steps where a call names no number.
        shift: above 1, more of the steps lie near the noise (Esser et al. 2024, arXiv:2403.03206, equation 23).

    Raises:
        UsageError: a value outside its range.
    """

    @register_to_config
    def __init__(
        self,
        latent_shape: Sequence[int] = (1, 28, 28),
        solver: Literal["heun", "euler"] = "heun",
        num_inference_steps: int = 20,
        shift: float = 1.0,
    ) -> None:
        if solver not in ("heun", "euler"):
            raise UsageError(f"--scheduler.solver is {solver!r}; it can be 'heun' or 'euler'.")
        if not (shift > 0 and math.isfinite(shift)):
            raise UsageError(f"--scheduler.shift is {shift}; it must be above 0.")
        self.set_timesteps(num_inference_steps)

    def set_timesteps(self, num_inference_steps: int | None = None) -> None:
        """Set the times between which the steps lead: `timesteps`, from 0 to 1."""
        count = self.config.num_inference_steps if num_inference_steps is None else num_inference_steps
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise UsageError(f"num_inference_steps is {count!r}; expected a whole number, at least 1.")
        noise = torch.linspace(1, 0, count + 1, dtype=torch.float64)
        self.timesteps = 1 - self.config.shift * noise / (1 + (self.config.shift - 1) * noise)

    def sample_prior(self, noise: Noise) -> Tensor:
        """x at t = 0: N(0, 1), (B, *latent_shape)."""
        return noise.normal(*self.config.latent_shape)

    sample = sample_prior  # latents to sample images from are those of the training

    def log_prob(self, latents: Tensor) -> Tensor:
        """ln N(latents; 0, 1) in nats: (B, ...) -> (B,)."""
        return -0.5 * (latents.square() + math.log(2 * math.pi)).flatten(1).sum(1)

    def interpolate(self, start: Tensor, end: Tensor, t: float) -> Tensor:
        """The latent a fraction t of the way along the great circle, for latent walks."""
        return slerp(start, end, t)

    def solve(self, velocity: Velocity, x: Tensor, reverse: bool = False) -> Tensor:
        """x at t = 1 from x at t = 0; or, in reverse, x at t = 0 from x at t = 1."""
        for start, end in pairwise(self.timesteps.flip(0).tolist() if reverse else self.timesteps.tolist()):
            x = self.step(velocity, x, start, end)
        return x

    def step(self, velocity: Velocity, x: Tensor, start: float, end: float) -> Tensor:
        """x at time `end` from x at time `start`, by one step of the solver."""
        slope = velocity(x, x.new_full((len(x),), start))
        if self.config.solver == "euler":
            return x + (end - start) * slope
        ahead = velocity(x + (end - start) * slope, x.new_full((len(x),), end))
        return x + (end - start) * (slope + ahead) / 2


# --- the objective --------------------------------------------------------------------------------------------------


class CFMObjective(Objective):
    """E |v(x_t, t) - (x_1 - x_0)|^2 at x_t = (1 - t) x_0 + t x_1: Lipman et al. 2023, equation 23, sigma_min = 0.

    Args:
        label_dropout: share of the images whose label is withheld, for classifier-free guidance (Ho & Salimans 2022,
            arXiv:2207.12598).
    """

    def __init__(self, network: nn.Module, scheduler: ODEScheduler, label_dropout: float = 0.1) -> None:
        self.network, self.scheduler, self.label_dropout = network, scheduler, label_dropout

    def training_step(self, batch: Batch) -> Iterator[Update]:
        """Yield the update of the network."""
        images, labels = batch["pixel_values"], batch.get("class_labels")
        latents, t, kept = self.scheduler.sample_prior(self.noise), self.noise.uniform(), self.noise.uniform()
        if labels is not None:
            labels = labels.where(kept >= self.label_dropout, NO_LABEL)
        x = torch.lerp(latents, images, t[:, None, None, None])
        error = self.network(x, t, labels).float() - (images - latents)
        yield Update("network", error.square().mean())


# --- the pipeline ---------------------------------------------------------------------------------------------------


class CFMPipeline(HFGenPipeline):
    """Samples along the ODE dx/dt = v(x, t), and encodes against it.

    References:
        Lipman, Chen, Ben-Hamu, Nickel & Le (2023), Flow matching for generative modeling, arXiv:2210.02747
    """

    objective_class = CFMObjective
    training_defaults = {"learning_rate": 1e-3, "train_batch_size": 128, "num_train_epochs": 20}
    ema_components = ("network",)
    description = "Conditional flow matching: an ODE from noise to images, solved by Euler's or Heun's steps"
    references = ("Lipman et al. (2023), Flow matching for generative modeling, arXiv:2210.02747",)

    def __init__(self, network: VelocityNetwork, scheduler: ODEScheduler) -> None:
        super().__init__()
        self.register_modules(network=network, scheduler=scheduler)

    @classmethod
    def default_configs(
        cls, sample_size: int, in_channels: int, num_classes: int | None, overrides: Mapping[str, dict[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """The network for the data's shape; the latents have the shape of the images."""
        shape = {"sample_size": sample_size, "in_channels": in_channels, "num_classes": num_classes}
        return {"network": shape, "scheduler": {"latent_shape": [in_channels, sample_size, sample_size]}}

    def sample(
        self,
        noise: SeededNoise,
        class_labels: Tensor | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """Sample images in [-1, 1], (B, C, H, W).

        Args:
            guidance_scale: w of classifier-free guidance, v + (w - 1) (v - v without label); 1 is none.
        """
        return self.decode(self.latents(noise), class_labels, num_inference_steps, guidance_scale)

    @torch.no_grad()
    def decode(
        self,
        latents: Tensor,
        class_labels: Tensor | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """Solve the ODE from latents to images, both (B, C, H, W).

        Args:
            num_inference_steps: steps of the solver.
            guidance_scale: w of classifier-free guidance; 1 is none.
        """
        check_latents(latents, self.network.image_shape)
        velocity = self.velocity(
            labels_for(len(latents), class_labels, self.num_classes, latents.device), guidance_scale
        )
        self.scheduler.set_timesteps(num_inference_steps)
        with eval_mode(self.models().values()):
            return self.scheduler.solve(velocity, latents.to(self._execution_device, self.network.dtype))

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        class_labels: Tensor | None = None,
        seeds: Sequence[int] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """Solve the ODE backwards, from images in [-1, 1] to latents, both (B, C, H, W). Seeds change nothing.

        Args:
            num_inference_steps: steps of the solver.
            guidance_scale: w of classifier-free guidance; 1 is none.
        """
        labels, _ = self._checked(images, class_labels, seeds)
        self.scheduler.set_timesteps(num_inference_steps)
        with eval_mode(self.models().values()):
            x = images.to(self._execution_device, self.network.dtype)
            return self.scheduler.solve(self.velocity(labels, guidance_scale), x, reverse=True)

    @torch.no_grad()
    def log_likelihood(
        self,
        images: Tensor,
        class_labels: Tensor | None = None,
        seeds: Sequence[int] | None = None,
        num_inference_steps: int | None = None,
    ) -> LogLikelihood:
        """ln p of images of bytes: the density of the image plus uniform noise of one level, along the ODE.

        An estimate: noise within a level gives a lower bound in expectation (Theis et al. 2016, arXiv:1511.01844),
        but Hutchinson's trace and the steps of the solver err on either side.

        Args:
            num_inference_steps: steps of the solver.
        """
        labels, noise = self._checked(images, class_labels, seeds)
        self.scheduler.set_timesteps(num_inference_steps)
        levels = images_to_levels(images.to(self._execution_device), 256, strict=True)
        x = (levels + noise.uniform(*images.shape[1:])) / 128 - 1
        probe = noise.uniform(*images.shape[1:]).round() * 2 - 1
        with eval_mode(self.models().values()):
            nats = self.log_density(self.velocity(labels), x.to(self.network.dtype), probe)
        steps, dimensions = len(self.scheduler.timesteps) - 1, images[0].numel()
        method = f"uniform dequantization, ODE, {steps} {self.scheduler.config.solver} steps, Hutchinson's trace"
        return LogLikelihood(nats.double() - dimensions * math.log(128), "estimate", dimensions, 256, method=method)

    def log_density(self, velocity: Velocity, x: Tensor, probe: Tensor) -> Tensor:
        """ln p(x) in nats, (B,), of x at t = 1: ln p_1 = ln p_0 - integral of div v (Chen et al. 2018, equation 8).

        Args:
            probe: e of independent signs, (B, C, H, W); e^T (dv/dx) e is div v in expectation (Hutchinson 1990).
        """

        def with_divergence(state: Tensor, t: Tensor) -> Tensor:
            with torch.enable_grad():
                x = state[:, 1:].unflatten(1, probe.shape[1:]).detach().requires_grad_()
                slope = velocity(x, t)
                (product,) = torch.autograd.grad(slope, x, probe)
            divergence = (product * probe).flatten(1).sum(1, keepdim=True)
            return torch.cat([divergence, slope.detach().flatten(1)], 1)

        state = torch.cat([torch.zeros(len(x), 1).to(x), x.flatten(1)], 1)  # the integral, beside what it goes along
        state = self.scheduler.solve(with_divergence, state, reverse=True)
        return self.scheduler.log_prob(state[:, 1:]) + state[:, 0]

    def velocity(self, labels: Tensor | None, guidance_scale: float = 1.0) -> Velocity:
        """v of these labels, as a function of x and t; with guidance unless the scale is 1."""
        if guidance_scale != 1 and labels is None:
            raise UsageError("guidance_scale needs a class-conditional model; train it with --class_conditional.")

        def guided(x: Tensor, t: Tensor) -> Tensor:
            slope = self.network(x, t, labels)
            return slope if guidance_scale == 1 else torch.lerp(self.network(x, t, None), slope, guidance_scale)

        return guided

    def _checked(self, images: Tensor, class_labels: Any, seeds: Any) -> tuple[Tensor | None, SeededNoise]:
        """Refuse wrong images, labels and seeds; return the labels, and noise of one seed for each image."""
        check_images(images, self.network.image_shape)
        labels = labels_for(len(images), class_labels, self.num_classes, self._execution_device)
        return labels, noise_for(len(images), seeds, self._execution_device)
