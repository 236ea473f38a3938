"""Denoising diffusion probabilistic models (Ho et al. 2020, arXiv:2006.11239): the pipeline.

Network and scheduler are diffusers' own, saved under diffusers' own class names: plain `DDPMPipeline.from_pretrained`
reads what is trained here, and what it has saved is read here.
"""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from torch import Tensor

from hfgen import (
    Given,
    HFGenPipeline,
    LogLikelihood,
    SeededNoise,
    UsageError,
    check_images,
    check_latents,
    did_you_mean,
    eval_mode,
    images_to_levels,
    noise_for,
)
from hfgen_diffusion.course import Course, begun
from hfgen_diffusion.faults import warn_of_a_low_start, warn_of_other_steps
from hfgen_diffusion.jit import JiT
from hfgen_diffusion.likelihoods import ELEMENTS, Part, probability_flow, variational_bound
from hfgen_diffusion.networks import channels_last, check_unet, network_config
from hfgen_diffusion.objective import DDPMObjective
from hfgen_diffusion.process import CLIPS, END, Clip, ForwardProcess
from hfgen_diffusion.sampling import Denoiser, ancestral, ddim, invert_ddim, scales, solve, split
from hfgen_diffusion.solvers import (
    scales_at,
    scales_input,
    set_timesteps,
    shortened,
    solver_course,
    step_options,
    usable,
)
from hfgen_diffusion.timesteps import Spacing, check_timesteps, level_of, steps, timesteps_of
from hfgen_diffusion.unet_pipeline import UNetPipeline

FEW = 50  # steps of a deterministic sampler, of `encode` and `decode`, and of the grids of a training
LAST_BETA = 0.999


class DDPMPipeline(UNetPipeline):
    """Samples images by removing noise step by step, by the scheduler that it holds.

    With a `DDPMScheduler` that is ancestral sampling, by default through all T levels with the variance that the
    scheduler names; through fewer, `fixed_large` would leave noise in the images, and β̃ (`fixed_small`) is drawn
    instead. With a `DDIMScheduler` it is DDIM; other solvers of diffusers step by themselves. But for that variance in
    few steps, and what a warning tells, image i of seed s is plain diffusers' image of
    `generator=[torch.Generator().manual_seed(s)]`.

    References:
        Ho, Jain & Abbeel (2020), Denoising diffusion probabilistic models, arXiv:2006.11239
    """

    objective_class = DDPMObjective
    training_defaults = {
        "learning_rate": 2e-4,
        "max_grad_norm": 1.0,
        "train_batch_size": 64,
        "num_train_epochs": 10,
        "ema_decay": 0.9999,
    }
    ema_components = ("unet",)
    measured_on_request = ("bits_per_dim", "nats", "reconstruction_mse", "reconstruction_fid")  # many steps each
    description = "Denoising diffusion probabilistic model (DDPM) with diffusers' UNet, readable by plain diffusers"
    references = (
        "Ho, Jain & Abbeel (2020), Denoising diffusion probabilistic models, arXiv:2006.11239",
        "Song, Meng & Ermon (2021), Denoising diffusion implicit models, arXiv:2010.02502",
        "Nichol & Dhariwal (2021), Improved denoising diffusion probabilistic models, arXiv:2102.09672",
    )
    notes = ("Without `num_inference_steps` a DDPM takes all the steps that it was trained on, and a DDIM 50.",)

    def __init__(self, unet: UNet2DModel | JiT, scheduler: DDPMScheduler) -> None:
        super().__init__()
        _check_network(unet, ForwardProcess(scheduler))
        self.register_modules(unet=unet, scheduler=scheduler)

    @classmethod
    def default_configs(
        cls, sample_size: int, in_channels: int, num_classes: int | None, overrides: Mapping[str, dict[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """The network for the data's shape; noise as in the paper: linear β of 1e-4 to 0.02, or, with another number
        of levels than 1000, about as much noise in all (β is 0.999 at most)."""
        given = overrides.get("scheduler", {})
        factor = 1000 / max(1, given.get("num_train_timesteps", 1000))
        scheduler = {"beta_start": min(LAST_BETA, 1e-4 * factor), "beta_end": min(LAST_BETA, 0.02 * factor)}
        scheduler |= cls.scheduler_defaults
        learns_variance = given.get("variance_type") == "learned_range"
        unet = network_config(sample_size, in_channels, num_classes, learns_variance, overrides.get("unet", {}))
        return {"unet": unet, "scheduler": scheduler}

    scheduler_defaults: Mapping[str, Any] = {"variance_type": "fixed_large", "clip_sample": True}

    @property
    def validation_options(self) -> dict[str, Any]:
        """Options of validation grids: in few steps, since all would take longer than the training between grids."""
        return {"num_inference_steps": min(FEW, self.scheduler.config.num_train_timesteps)}

    @classmethod
    def class_for(cls, index: Mapping[str, Any]) -> type[HFGenPipeline]:
        """Return the family of plain diffusers' pipeline: flow matching, if its scheduler is."""
        entry = index.get("scheduler")
        if isinstance(entry, list) and any(str(word).startswith("FlowMatch") for word in entry):
            from hfgen_diffusion.flow_matching import FlowMatchingPipeline

            return FlowMatchingPipeline
        return cls

    # --- sampling ---------------------------------------------------------------------------------------------------

    def sample(
        self,
        noise: SeededNoise,
        class_labels: Tensor | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float = 1.0,
        eta: float | None = None,
        timestep_spacing: Spacing | None = None,
        timesteps: Sequence[int] | None = None,
        clip_sample: Clip | None = None,
        given: Given | None = None,
    ) -> Tensor:
        """Images in [-1, 1], (B, C, H, W).

        Args:
            num_inference_steps: default all of a `DDPMScheduler`, 50 of any other and of filling in.
            guidance_scale: w of classifier-free guidance, ε_u + w (ε_c - ε_u): 1 is the conditional model itself
                (Ho & Salimans 2022, arXiv:2207.12598, whose own w is one less).
            eta: of a `DDIMScheduler`: 0 deterministic (the default), 1 as random as DDPM.
            timestep_spacing: which levels are visited; default the scheduler's.
            timesteps: these levels, the highest first, instead of a number of steps.
            clip_sample: whether x̂_0 is cut off at [-1, 1] in each step (`"x0"`), with ε̂ made to fit it
                (`"x0_and_epsilon"`), or not (`"none"`); default as the scheduler's config says.

        Raises:
            UsageError: an argument that this scheduler or this model does not take.
        """
        denoise, x = self.denoiser(class_labels, guidance_scale), self.latents(noise)
        if eta is not None and not isinstance(self.scheduler, DDIMScheduler):
            raise UsageError(f"eta belongs to DDIM; this model's scheduler is a {type(self.scheduler).__name__}.")
        if not isinstance(self.scheduler, (DDPMScheduler, DDIMScheduler)):
            own = {"timestep_spacing": timestep_spacing, "timesteps": timesteps, "clip_sample": clip_sample}
            with channels_last(self.unet):
                return self._solve(denoise, x, noise, num_inference_steps, own, given)
        process = ForwardProcess(self.scheduler)
        clip = _clip_of(clip_sample, process)
        fills_in = given is not None and given.mask is not None
        if fills_in and num_inference_steps is None and timesteps is None:
            num_inference_steps = min(FEW, process.num_train_timesteps)
        listed = self._timesteps(num_inference_steps, timestep_spacing, timesteps, given)
        few = len(listed) < process.num_train_timesteps and process.variance_type == "fixed_large"
        variance_type = "fixed_small" if few else process.variance_type
        if given is not None and given.strength < 1:
            listed = begun(listed, level_of(given.strength, process.num_train_timesteps))
        levels, randomness = [*listed, END], _checked_eta(eta)

        def step(x: Tensor, i: int) -> Tensor:
            way = [(levels[i], levels[i + 1])]
            if isinstance(self.scheduler, DDIMScheduler):
                return ddim(denoise, process, x, way, clip, randomness, noise)
            return ancestral(denoise, process, x, way, noise, clip, variance_type)

        course = Course([scales(process, level) for level in levels], step)
        with channels_last(self.unet):
            return course.follow(x, noise, self.progress, given)

    def denoiser(self, class_labels: Tensor | None, guidance_scale: float = 1.0) -> Denoiser:
        """The network with its conditions: (x_t, t) -> output, in x_t's dtype."""
        self.check_guidance(guidance_scale)
        dtype = self.unet.dtype

        def plain(x: Tensor, t: Tensor) -> Tensor:
            return self.unet(x.to(dtype), t, class_labels, return_dict=False)[0].to(x.dtype)

        def guided(x: Tensor, t: Tensor) -> Tensor:
            assert class_labels is not None
            labels = torch.cat([torch.full_like(class_labels, self.unet.config["_num_classes"]), class_labels])
            twice = t if t.ndim == 0 else t.repeat(2)
            both = self.unet(x.to(dtype).repeat(2, 1, 1, 1), twice, labels, return_dict=False)[0].to(x.dtype)
            without, with_label = both.chunk(2)
            prediction, v = split(with_label, x)
            unguided, _ = split(without, x)
            guided = unguided + guidance_scale * (prediction - unguided)
            return guided if v is None else torch.cat([guided, v], dim=1)  # the variance is the conditional's own

        return plain if guidance_scale == 1.0 else guided

    def _timesteps(
        self, count: int | None, spacing: str | None, timesteps: Sequence[int] | None, given: Given | None
    ) -> list[int]:
        total = self.scheduler.config.num_train_timesteps
        if timesteps is not None:
            if count is not None or spacing is not None:
                raise UsageError("Give either timesteps, or num_inference_steps and timestep_spacing.")
            return check_timesteps(timesteps, total)
        if count is None:
            count = total if isinstance(self.scheduler, DDPMScheduler) else min(FEW, total)
        listed = timesteps_of(self.scheduler, count, spacing)
        if count < total and (given is None or given.strength == 1):
            warn_of_a_low_start(listed[0], ForwardProcess(self.scheduler).alpha_bar(listed[0]))
        if spacing is None and given is None:
            adds_noise = self.scheduler.config.get("variance_type") in ("fixed_large", "fixed_large_log")
            warn_of_other_steps(type(self.scheduler).__name__, listed, total, adds_noise)
        return listed

    def _solve(
        self,
        denoise: Denoiser,
        x: Tensor,
        noise: SeededNoise,
        count: int | None,
        own: Mapping[str, Any],
        given: Given | None,
    ) -> Tensor:
        refused = [name for name, value in own.items() if value is not None]
        if refused:
            raise UsageError(
                f"{refused[0]} is for a DDPMScheduler or a DDIMScheduler; a {type(self.scheduler).__name__} takes "
                "its own from its config."
            )
        scheduler, strength = usable(self.scheduler), 1.0 if given is None else given.strength
        if strength < 1:
            scheduler, count = shortened(scheduler, strength, count, FEW)
        set_timesteps(scheduler, count, FEW, x.device)
        x, options = x * (1 if strength < 1 else scheduler.init_noise_sigma), step_options(scheduler, noise)
        if given is not None and given.mask is not None:
            return solver_course(denoise, scheduler, options).follow(x, noise, self.progress, given)

        def whole_way(x: Tensor, i: int) -> Tensor:
            return solve(denoise, scheduler, x, self.progress, options)

        return Course([scales_at(scheduler, 0), (1.0, 0.0)], whole_way).follow(x, noise, iter, given)

    # --- images and latents -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        class_labels: Tensor | None = None,
        seeds: Sequence[int] | None = None,
        num_inference_steps: int | None = None,
    ) -> Tensor:
        """The noise from which DDIM samples each image, (B, C, H, W): DDIM inversion (Song et al. 2021, section 4.3).

        The more steps, by default 50, the closer `decode` with as many comes to the image. Nothing is drawn, and
        nothing is clipped.

        Raises:
            UsageError: images of another shape or range.
        """
        check_images(images, self.image_shape)
        noise_for(len(images), seeds, self._execution_device)
        rising = [END, *reversed(self._levels(num_inference_steps))]
        x, labels = images.to(self._execution_device, torch.float32), self.labels_of(images, class_labels)
        with eval_mode(self.models().values()):
            return invert_ddim(self.denoiser(labels), ForwardProcess(self.scheduler), x, pairwise(rising))

    @torch.no_grad()
    def decode(
        self,
        latents: Tensor,
        class_labels: Tensor | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """Return the image that DDIM samples from each latent, with η = 0 and without clipping.

        Args:
            num_inference_steps: default 50, or all where there are fewer.
            guidance_scale: as `sample`'s.

        Raises:
            UsageError: latents of another shape, or guidance of a model that is not class-conditional.
        """
        check_latents(latents, self.image_shape)
        x, labels = latents.to(self._execution_device, torch.float32), self.labels_of(latents, class_labels)
        with eval_mode(self.models().values()):
            way = steps(self._levels(num_inference_steps))
            denoise = self.denoiser(labels, guidance_scale)
            return ddim(denoise, ForwardProcess(self.scheduler), x, way, "none")

    def _levels(self, num_inference_steps: int | None) -> list[int]:
        given, names = self.scheduler.config, ("num_train_timesteps", "timestep_spacing", "steps_offset")
        scheduler = DDIMScheduler(**{name: given[name] for name in names if name in given})
        default = min(FEW, given["num_train_timesteps"])
        return timesteps_of(scheduler, default if num_inference_steps is None else num_inference_steps)

    # --- likelihood -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def log_likelihood(
        self,
        images: Tensor,
        class_labels: Tensor | None = None,
        seeds: Sequence[int] | None = None,
        method: Literal["variational_bound", "probability_flow"] = "variational_bound",
        num_timesteps: int | None = None,
        num_ode_steps: int | None = None,
        clip_sample: Clip | None = None,
    ) -> LogLikelihood:
        """ln p(x) of each image of bytes: the variational bound of the ancestral sampler, or an estimate by the ODE.

        Args:
            images: (B, C, H, W) of bytes as k / 127.5 - 1.
            seeds: of each image's noise; default 0, 1, 2 ...
            method: `"variational_bound"`: prior term, KL divergences and discretized decoder, a lower bound in
                expectation. `"probability_flow"`: the density that the ODE gives of uniformly dequantized bytes, its
                divergence by one probe of random signs for each image; an estimate, as exact as its solver.
            num_timesteps: of the bound: how many of the T levels are asked, one drawn in each of as many parts; the
                expectation is the same. Default all.
            num_ode_steps: of the ODE: Runge-Kutta steps, four calls of the network each; default 50.
            clip_sample: of the bound: whether x̂_0 is cut off at [-1, 1]; default as the sampler does.

        Raises:
            UsageError: images of another shape or range, or with values between those of 8 bits; a network in half
                precision; an option of the other method.
        """
        check_images(images, self.image_shape)
        self._check_method(method, num_timesteps, num_ode_steps, clip_sample)
        images_to_levels(images, 256, strict=True)
        x, labels = images.to(self._execution_device, torch.float32), self.labels_of(images, class_labels)
        noise = noise_for(len(images), seeds, self._execution_device)
        process = ForwardProcess(self.scheduler)
        with eval_mode(self.models().values()):
            parts = self.parts(x, labels, noise, process)
            if method == "probability_flow":
                return probability_flow(parts, process, FEW if num_ode_steps is None else num_ode_steps)
            return variational_bound(parts, process, num_timesteps, _clip_of(clip_sample, process))

    def _check_method(self, method: str, num_timesteps: Any, num_ode_steps: Any, clip_sample: Any) -> None:
        options = {
            "variational_bound": {"num_ode_steps": num_ode_steps},
            "probability_flow": {"num_timesteps": num_timesteps, "clip_sample": clip_sample},
        }
        if method not in options:
            raise UsageError(f"method is {method!r}.{did_you_mean(str(method), options)}")
        refused = [name for name, value in options[method].items() if value is not None]
        if refused:
            raise UsageError(f"{refused[0]} is not for method {method}.")
        if method == "probability_flow" and self.unet.config.time_embedding_type == "learned":
            raise UsageError("The ODE needs the network between its levels, and it has learned an embedding of each.")
        if self.unet.dtype not in (torch.float32, torch.float64):
            raise UsageError(f"The network is in {self.unet.dtype}; a likelihood needs pipeline.to(torch.float32).")

    def parts(self, x: Tensor, labels: Tensor | None, noise: SeededNoise, process: ForwardProcess) -> Iterator[Part]:
        """Yield the images in parts that are quick to compute, with the network for their labels and their noise."""
        size = max(1, ELEMENTS // x[0].numel())
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            part = SeededNoise(noise.generators[rows], noise.device)
            yield self.denoiser(None if labels is None else labels[rows]), process, x[rows], part

    # --- saving -----------------------------------------------------------------------------------------------------

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Save as `HFGenPipeline.save_pretrained`; warn of a scheduler that plain diffusers would use wrongly."""
        super().save_pretrained(save_directory, **kwargs)
        name = type(self.scheduler).__name__
        if scales_input(self.scheduler):
            warnings.warn(
                f"plain diffusers' pipeline does not do what a {name} wants, scale its noise and its input; hfgen "
                "does. Save with a DDPMScheduler or a DDIMScheduler for others to read.",
                stacklevel=2,
            )


def _checked_eta(eta: float | None) -> float:
    if eta is not None and not 0 <= eta <= 1:
        raise UsageError(f"eta is {eta}; it lies in [0, 1].")
    return 0.0 if eta is None else float(eta)


def _clip_of(clip_sample: Clip | None, process: ForwardProcess) -> Clip:
    clip = process.default_clip if clip_sample is None else clip_sample
    if clip not in CLIPS:
        raise UsageError(f"clip_sample is {clip!r}.{did_you_mean(str(clip), CLIPS)}")
    return clip


def _check_network(unet: UNet2DModel | JiT, process: ForwardProcess) -> None:
    check_unet(unet)
    channels, given = unet.config.in_channels, unet.config.out_channels
    learned = process.variance_type == "learned_range"
    if given not in (channels, 2 * channels) or (learned and given == channels):
        wanted = 2 * channels if learned else channels
        raise UsageError(
            f"--unet.out_channels is {given}; with {channels} channels and --scheduler.variance_type "
            f"{process.variance_type} it is {wanted}."
        )
