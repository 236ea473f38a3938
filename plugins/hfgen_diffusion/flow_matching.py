"""Flow matching (Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2023, arXiv:2209.03003): the pipeline.

A network that predicts the velocity of the straight path is saved with diffusers' own class names: plain
`DDPMPipeline.from_pretrained` samples from it.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, get_args

import torch
from diffusers import UNet2DModel
from torch import Tensor

from hfgen import (
    Given,
    LogLikelihood,
    Objective,
    SeededNoise,
    UsageError,
    check_images,
    check_latents,
    did_you_mean,
    eval_mode,
    images_to_levels,
    noise_for,
)
from hfgen_diffusion.flow_course import flow_course
from hfgen_diffusion.flow_likelihood import BIN, Density, log_density, signs
from hfgen_diffusion.flow_objective import FlowMatchingObjective
from hfgen_diffusion.flow_scheduler import (
    InterpolantScheduler,
    Spacing,
    as_plain_as_can_be,
    has_a_path,
    solver_of,
    times_of,
)
from hfgen_diffusion.flow_solvers import Solver, State, Velocity, adaptive, solve
from hfgen_diffusion.interpolant import Interpolant, interpolant_of
from hfgen_diffusion.jit import JiT
from hfgen_diffusion.networks import channels_last, check_unet, is_jit, network_config
from hfgen_diffusion.unet_pipeline import UNetPipeline

DEFAULT_STEPS = {"euler": 50, "heun": 25, "rk4": 12, "stochastic": 50}  # about as many calls of the network each
ELEMENTS = 2**16  # image elements in one pass of a likelihood
TOLERANCE = 1e-3  # of sampling: below what 8 bits show


class FlowMatchingPipeline(UNetPipeline):
    """Samples along dx/dt = v(x, t), from noise at t = 1 to images at t = 0, and encodes against it.

    With `FlowMatchEulerDiscreteScheduler`, which a model of the straight path's velocity has, image i of seed s is
    plain diffusers' image of `generator=[torch.Generator().manual_seed(s)]`.

    References:
        Lipman, Chen, Ben-Hamu, Nickel & Le (2023), Flow matching for generative modeling, arXiv:2210.02747
    """

    objective_class: ClassVar[type[Objective]] = FlowMatchingObjective
    training_defaults = {
        "learning_rate": 2e-3,
        "max_grad_norm": 1.0,
        "train_batch_size": 64,
        "num_train_epochs": 10,
        "ema_decay": 0.999,
    }
    ema_components = ("unet",)
    measured_on_request = ("bits_per_dim", "nats", "reconstruction_mse", "reconstruction_fid")  # many calls each
    description = "Flow matching (rectified flow) in few steps, with a pixel transformer or diffusers' UNet"
    references = (
        "Lipman, Chen, Ben-Hamu, Nickel & Le (2023), Flow matching for generative modeling, arXiv:2210.02747",
        "Liu, Gong & Liu (2023), Flow straight and fast, arXiv:2209.03003",
        "Esser et al. (2024), Scaling rectified flow transformers, arXiv:2403.03206",
    )
    notes = ("Without `num_inference_steps`, Euler's method takes 50 steps, and Heun's 25 of two network calls each.",)

    def __init__(self, unet: UNet2DModel | JiT, scheduler: InterpolantScheduler) -> None:
        super().__init__()
        check_unet(unet)
        if unet.config.out_channels != unet.config.in_channels:
            raise UsageError(
                f"--unet.out_channels is {unet.config.out_channels}; of flow matching it is that of "
                f"--unet.in_channels, {unet.config.in_channels}."
            )
        self.register_modules(unet=unet, scheduler=as_plain_as_can_be(scheduler))

    @classmethod
    def preferred_classes(cls, in_channels: int) -> Mapping[str, str]:
        """Choose a JiT: on a CPU a small image costs a tenth of what it costs the UNet."""
        return {"unet": "JiT"}

    @classmethod
    def default_configs(
        cls, sample_size: int, in_channels: int, num_classes: int | None, overrides: Mapping[str, dict[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """The network for the data's shape, as a DDPM's, and the straight path; a JiT predicts the image."""
        network = overrides.get("unet", {})
        return {
            "unet": network_config(sample_size, in_channels, num_classes, False, network),
            "scheduler": {"prediction_type": "sample"} if network.get("class_name") == "JiT" else {},
        }

    @property
    def validation_options(self) -> dict[str, Any]:
        """Options of validation grids: 20 calls of the network."""
        return {"solver": "heun", "num_inference_steps": 10}

    @property
    def interpolant(self) -> Interpolant:
        """The path from images to noise, and what the network predicts."""
        return interpolant_of(self.scheduler)

    # --- sampling ---------------------------------------------------------------------------------------------------

    def sample(
        self,
        noise: SeededNoise,
        class_labels: Tensor | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float = 1.0,
        guidance_interval: Sequence[float] = (0.0, 1.0),
        solver: Solver | None = None,
        timestep_spacing: Spacing = "scheduler",
        tolerance: float | None = None,
        stochasticity: float | None = None,
        given: Given | None = None,
    ) -> Tensor:
        """Images in [-1, 1], (B, C, H, W).

        Args:
            num_inference_steps: default 50 of Euler's method and the stochastic one, 25 of Heun's, 12 of `rk4`.
            guidance_scale: w of classifier-free guidance, v_u + w (v_c - v_u): 1 is the conditional model itself.
            guidance_interval: the times, from 0 at the image to 1 at the noise, between which guidance acts
                (Kynkäänniemi et al. 2024, arXiv:2404.07724).
            solver: `"euler"`, `"heun"`, `"rk4"`, `"adaptive"`, which takes for each image the steps that it needs, or
                `"stochastic"`, which adds noise on the way; default the scheduler's.
            timestep_spacing: where the steps lie: the scheduler's, `"uniform"`, or `"log_snr"`, most of them near
                the image.
            tolerance: of the adaptive solver, the error of a step; default 0.001.
            stochasticity: of the stochastic solver, how much noise: w(t) = stochasticity σ(t); default 1.

        Raises:
            UsageError: an argument that this solver or this model does not take.
        """
        self._check_solver(solver, num_inference_steps, tolerance, stochasticity)
        velocity, x = self.velocity(class_labels, guidance_scale, guidance_interval), self.latents(noise)
        chosen = solver or solver_of(self.scheduler)
        if chosen == "adaptive":
            return self._adaptively(velocity, x, tolerance, given)
        times = times_of(self.scheduler, _steps(num_inference_steps, chosen), timestep_spacing)
        course = flow_course(velocity, self.interpolant, chosen, times, noise, stochasticity, given)
        with channels_last(self.unet):
            return course.follow(x, noise, self.progress, given)

    def _adaptively(self, velocity: Velocity, x: Tensor, tolerance: float | None, given: Given | None) -> Tensor:
        if given is not None and given.mask is not None:
            raise UsageError(
                "The adaptive solver chooses its own steps, in which nothing can be filled in; use another solver."
            )
        start = 1.0 if given is None else max(given.strength, self.interpolant.end)
        if given is not None and start < 1:
            x = self.interpolant.noised(given.image.to(x), x, torch.tensor(start, dtype=torch.float64))
        return self._solve(velocity, x, None, "adaptive", "scheduler", tolerance, down=True, start=start)

    def velocity(
        self, class_labels: Tensor | None, guidance_scale: float = 1.0, guidance_interval: Sequence[float] = (0.0, 1.0)
    ) -> Velocity:
        """The network with its conditions: (x_t, t) -> v, in x_t's dtype; t is () or (B,)."""
        first, last = _checked_interval(guidance_interval)
        self.check_guidance(guidance_scale)
        interpolant, scale, dtype = self.interpolant, self.scheduler.config.num_train_timesteps, self.unet.dtype

        def plain(x: Tensor, t: Tensor, labels: Tensor | None = class_labels) -> Tensor:
            output = self.unet(x.to(dtype), (t * scale).float(), labels, return_dict=False)[0].to(x.dtype)
            return interpolant.velocity_of(output, x, t)

        def guided(x: Tensor, t: Tensor) -> Tensor:
            acts = (first <= t) & (t <= last)
            if not bool(acts.any()):
                return plain(x, t)
            assert class_labels is not None
            without = torch.full_like(class_labels, self.unet.config["_num_classes"])
            both = plain(x.repeat(2, 1, 1, 1), t if t.ndim == 0 else t.repeat(2), torch.cat([without, class_labels]))
            v_u, v_c = both.chunk(2)
            acts = acts.view(-1, 1, 1, 1) if acts.ndim else acts
            return torch.where(acts, v_u + guidance_scale * (v_c - v_u), v_c)

        return plain if guidance_scale == 1.0 else guided

    def _solve(
        self,
        velocity: Velocity,
        x: Tensor,
        num_inference_steps: int | None,
        solver: Solver | None,
        spacing: str,
        tolerance: float | None,
        down: bool,
        start: float = 1.0,
    ) -> Tensor:
        """Follow the ODE down, from noise or another start to images, or up."""
        chosen = solver or solver_of(self.scheduler)

        def drift(state: State, t: Tensor) -> State:
            return (velocity(state[0], t),)

        with channels_last(self.unet):
            if chosen == "adaptive":
                ends = (start, self.interpolant.end) if down else (self.interpolant.end, 1.0)
                (x,) = adaptive(drift, (x,), *ends, TOLERANCE if tolerance is None else tolerance, [1.0]).state
            else:
                times = times_of(self.scheduler, _steps(num_inference_steps, chosen), spacing)
                way = list(pairwise(times if down else times[::-1]))
                (x,) = solve(chosen, drift, (x,), self.progress(way))
            if down and self.interpolant.end > 0:
                last = torch.tensor(self.interpolant.end, dtype=torch.float64, device=x.device)
                x = self.interpolant.image(velocity(x, last), x, last)
        return x

    def _check_solver(self, solver: str | None, count: int | None, tolerance: Any, stochasticity: Any = None) -> None:
        """Raise a UsageError for an unknown solver, or an option of another one."""
        known = get_args(Solver)
        if solver is not None and solver not in known:
            raise UsageError(f"solver is {solver!r}.{did_you_mean(str(solver), known)}")
        if solver == "adaptive" and count is not None:
            raise UsageError(
                "The adaptive solver chooses its steps; give it a --tolerance, and no num_inference_steps."
            )
        if tolerance is not None and solver != "adaptive":
            raise UsageError("tolerance is for the solver adaptive.")
        if tolerance is not None and not 0 < tolerance < 1:
            raise UsageError(f"tolerance is {tolerance}; it lies between 0 and 1.")
        if stochasticity is not None and solver != "stochastic":
            raise UsageError("stochasticity is for the solver stochastic.")

    # --- images and latents -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(
        self,
        images: Tensor,
        class_labels: Tensor | None = None,
        seeds: Sequence[int] | None = None,
        num_inference_steps: int | None = None,
        solver: Solver = "heun",
        timestep_spacing: Spacing = "scheduler",
        tolerance: float | None = None,
    ) -> Tensor:
        """Return the noise from which the ODE leads to each image, (B, C, H, W). Nothing is drawn.

        Args:
            num_inference_steps: default 25 of Heun's method; the more, the closer `decode` comes to the image.
            solver: as `sample`'s; none that draws noise.
            timestep_spacing: as `sample`'s.
            tolerance: as `sample`'s.

        Raises:
            UsageError: images of another shape or range, or a solver that draws noise.
        """
        check_images(images, self.image_shape)
        noise_for(len(images), seeds, self._execution_device)
        x, labels = images.to(self._execution_device, torch.float32), self.labels_of(images, class_labels)
        self._check_reversible(solver, num_inference_steps, tolerance)
        with eval_mode(self.models().values()):
            velocity = self.velocity(labels)
            return self._solve(velocity, x, num_inference_steps, solver, timestep_spacing, tolerance, down=False)

    @torch.no_grad()
    def decode(
        self,
        latents: Tensor,
        class_labels: Tensor | None = None,
        num_inference_steps: int | None = None,
        solver: Solver = "heun",
        timestep_spacing: Spacing = "scheduler",
        tolerance: float | None = None,
        guidance_scale: float = 1.0,
        guidance_interval: Sequence[float] = (0.0, 1.0),
    ) -> Tensor:
        """Return the image to which the ODE leads from each latent.

        Args:
            num_inference_steps: default 25 of Heun's method.
            solver: as `sample`'s; none that draws noise.
            timestep_spacing: as `sample`'s.
            tolerance: as `sample`'s.
            guidance_scale: as `sample`'s.
            guidance_interval: as `sample`'s.

        Raises:
            UsageError: latents of another shape, or guidance of a model that is not class-conditional.
        """
        check_latents(latents, self.image_shape)
        x, labels = latents.to(self._execution_device, torch.float32), self.labels_of(latents, class_labels)
        self._check_reversible(solver, num_inference_steps, tolerance)
        with eval_mode(self.models().values()):
            velocity = self.velocity(labels, guidance_scale, guidance_interval)
            return self._solve(velocity, x, num_inference_steps, solver, timestep_spacing, tolerance, down=True)

    def _check_reversible(self, solver: str, count: int | None, tolerance: float | None) -> None:
        self._check_solver(solver, count, tolerance)
        if solver == "stochastic":
            raise UsageError(
                "The stochastic solver draws noise, so it leads from no latent to one image; use another."
            )

    # --- likelihood -------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def log_likelihood(
        self,
        images: Tensor,
        class_labels: Tensor | None = None,
        seeds: Sequence[int] | None = None,
        solver: Solver = "adaptive",
        tolerance: float | None = None,
        num_ode_steps: int | None = None,
        timestep_spacing: Spacing = "log_snr",
        num_probes: int = 2,
    ) -> LogLikelihood:
        """ln p(x) of each image of bytes, estimated: the density that the ODE gives of uniformly dequantized bytes.

        An estimate, as exact as its solver and its probes; both errors are in its `method`.

        Args:
            images: (B, C, H, W) of bytes as k / 127.5 - 1.
            seeds: of each image's noise and probes; default 0, 1, 2 ...
            solver: the adaptive one, or `"rk4"`, `"heun"` or `"euler"` in steps that are the same for all images.
            tolerance: of the adaptive solver, the error of a step for each dimension; default 0.001. What it
                comes to is in `method`.
            num_ode_steps: of the others; default 12, 25 or 50.
            timestep_spacing: of the others: equal steps fail on images with constant parts.
            num_probes: random signs, one set each, by which the divergence is estimated; their mean is taken.

        Raises:
            UsageError: images of another shape or range, or with values between those of 8 bits; a network in half
                precision; an option of another solver.
        """
        check_images(images, self.image_shape)
        self._check_reversible(solver, num_ode_steps, tolerance)
        if isinstance(num_probes, bool) or not isinstance(num_probes, int) or num_probes < 1:
            raise UsageError(f"num_probes is {num_probes!r}; expected a whole number, at least 1.")
        if self.unet.dtype not in (torch.float32, torch.float64):
            raise UsageError(f"The network is in {self.unet.dtype}; a likelihood needs pipeline.to(torch.float32).")
        images_to_levels(images, 256, strict=True)
        x, labels = images.to(self._execution_device, torch.float32), self.labels_of(images, class_labels)
        noise = noise_for(len(images), seeds, self._execution_device)
        way = [self.interpolant.least, 1.0]
        if solver != "adaptive":
            way = times_of(self.scheduler, _steps(num_ode_steps, solver), timestep_spacing)[::-1]
        with eval_mode(self.models().values()):
            parts = list(self._densities(x, labels, noise, num_probes, way, solver, tolerance or TOLERANCE))
        nats = torch.cat([part.nats for part in parts]) + x[0].numel() * math.log(BIN)
        return LogLikelihood(nats, "estimate", x[0].numel(), 256, method=_method(parts, solver, num_probes))

    def _densities(
        self,
        x: Tensor,
        labels: Tensor | None,
        noise: SeededNoise,
        num_probes: int,
        way: list[float],
        solver: str,
        tolerance: float,
    ) -> Iterator[Density]:
        size = max(1, ELEMENTS // x[0].numel())
        for start in range(0, len(x), size):
            rows = slice(start, start + size)
            part, shape = SeededNoise(noise.generators[rows], noise.device), x.shape[1:]
            dequantized = x[rows].double() + BIN * (part.uniform(*shape) - 0.5)
            probes = signs(part, num_probes, tuple(shape))
            velocity = _in_single(self.velocity(None if labels is None else labels[rows]), self.unet.dtype)
            yield log_density(velocity, dequantized, probes, way, solver, tolerance)

    # --- saving -----------------------------------------------------------------------------------------------------

    def to_json_string(self) -> str:
        """Text of `model_index.json`, which names diffusers' own `DDPMPipeline` where that samples as this does."""
        index = json.loads(super().to_json_string())
        if not has_a_path(self.scheduler) and self.num_classes is None and not is_jit(self.unet):
            index["_class_name"] = "DDPMPipeline"
        return json.dumps(index, indent=2, sort_keys=True) + "\n"


def _in_single(velocity: Velocity, dtype: torch.dtype) -> Velocity:
    """The network in its own precision, of a state in float64."""
    return lambda x, t: velocity(x.to(dtype), t).to(x.dtype)


def _steps(num_inference_steps: int | None, solver: str) -> int:
    return DEFAULT_STEPS[solver] if num_inference_steps is None else num_inference_steps


def _checked_interval(interval: Sequence[float]) -> tuple[float, float]:
    first, last = interval if len(interval) == 2 else (1.0, 0.0)
    if not 0 <= first <= last <= 1:
        raise UsageError(f"guidance_interval is {list(interval)}; expected two times, 0 <= first <= last <= 1.")
    return first, last


def _method(parts: Iterable[Density], solver: str, num_probes: int) -> str:
    """Name the solver, its calls and the two errors, each as the mean over the images."""
    parts = list(parts)
    calls = max(part.evaluations for part in parts)
    words = [f"probability-flow ODE, {solver} solver, {calls} network calls"]
    if solver == "adaptive":
        error = float(torch.cat([part.solver_error for part in parts]).mean())
        words[0] += f", the errors of its steps {error:.2g} nats in all"
    noun = "probe" if num_probes == 1 else "probes"
    spread = float(torch.cat([part.probe_error for part in parts]).mean())
    words.append(f"{num_probes} {noun}" + ("" if num_probes == 1 else f", their standard error {spread:.2g} nats"))
    return "; ".join([*words, "uniform dequantization"])
