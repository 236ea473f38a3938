"""A VAE whose network is diffusers' own AutoencoderKL (Rombach et al. 2022, arXiv:2112.10752): plain diffusers reads
what is trained here, and its models are read here.

Trained as a VAE is, by the ELBO: reconstruction and KL divergence, no adversary and no perceptual distance. Latents
are maps (latent_channels, H / f, W / f). The config's `scaling_factor` and `shift_factor` are never applied: they
belong to a diffusion model on the latents, and latents here are the posterior's own, as diffusers' `encode` and
`decode` have them.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import torch
from diffusers import AutoencoderKL
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from hfgen import Batch, Diagnosis, Noise, Objective, PriorScheduler, Update, UsageError, load_model, local_folder
from hfgen_vae.beta import BetaScheduler
from hfgen_vae.bounds import elbo_loss, kl_divergence
from hfgen_vae.likelihoods import BernoulliLikelihood, DiscretizedLogisticLikelihood, GaussianLikelihood, Likelihood
from hfgen_vae.variational import VariationalPipeline, diagnose

SMALL = 32  # side up to which the default network is one that a CPU trains
SMALL_CHANNELS, LARGE_CHANNELS = (16, 32, 64), (64, 128, 256, 256)
CHANNELS_PER_GROUP = 4  # at least, as in Stable Diffusion's; with one, GroupNorm would remove each channel's mean

# --- objective ------------------------------------------------------------------------------------------------------


class AutoencoderKLObjective(Objective):
    """Maximizes the ELBO."""

    def __init__(self, vae: nn.Module, likelihood: Likelihood, beta_scheduler: BetaScheduler | None = None) -> None:
        self.vae, self.likelihood = vae, likelihood
        self.beta_scheduler = BetaScheduler() if beta_scheduler is None else beta_scheduler
        likelihood.statistics = []  # of a step that did not end

    def training_step(self, batch: Batch) -> Iterator[Update]:
        """-E ln p(x|z) + beta KL(q(z|x) || p(z)): sums over pixels and latents, means over images."""
        x = self.likelihood.observe(batch["pixel_values"], self.noise)
        parameters, mean, logvar = autoencode(self.vae, x, image_generators(self.noise))
        self.likelihood.remember(parameters, x)
        kl = kl_divergence(mean, logvar)
        regularizer = self.beta_scheduler.regularizer(kl, self.step)
        yield Update("vae", *elbo_loss(self.likelihood.log_prob(parameters, x), kl, regularizer))

    def finish_step(self) -> dict[str, Tensor]:
        """Update the optimal sigma by the step's error."""
        self.likelihood.finish_step()
        return {}

    @classmethod
    def diagnose(cls, pipeline: Any, examples: Batch) -> Diagnosis:
        """Active units, KL per channel, ELBO, reconstruction error."""
        return diagnose(pipeline, examples)


def image_generators(noise: Noise) -> list[torch.Generator]:
    """Make one generator per image, so that its noise depends neither on the batch's split nor on processes."""
    return [torch.Generator().manual_seed(seed) for seed in noise.integers(2**62).tolist()]


def autoencode(vae: nn.Module, x: Tensor, generators: list[torch.Generator]) -> tuple[Tensor, Tensor, Tensor]:
    """The decoder's output for a latent drawn from q(z|x), and q's mean and log variance, float32.

    DDP, FSDP and mixed precision act on `vae(...)` alone, and AutoencoderKL returns only the reconstruction from
    there: the moments are read where they arise.

    Args:
        vae: an AutoencoderKL, perhaps wrapped.
        x: images (B, C, H, W).
        generators: one for each image.
    """
    model = next(module for module in vae.modules() if isinstance(module, AutoencoderKL))
    source = model.encoder if model.quant_conv is None else model.quant_conv
    seen: list[Tensor] = []
    with source.register_forward_hook(lambda module, inputs, output: seen.append(output)):
        (parameters,) = vae(x, sample_posterior=True, generator=generators, return_dict=False)
    (moments,) = seen
    q = DiagonalGaussianDistribution(moments.float())
    return parameters, q.mean, q.logvar


# --- pipeline -------------------------------------------------------------------------------------------------------


class AutoencoderKLPipeline(VariationalPipeline):
    """Samples in one step: z from the scheduler's prior, then the mean of p(x|z).

    Latents are maps, and the prior knows nothing of how their places belong together: reconstructions are good long
    before drawn images are more than texture, which is why latent diffusion learns a prior of its own.

    With a Gaussian likelihood the image is what plain diffusers' `AutoencoderKL.decode` gives. The scheduler's
    `latent_shape` says how large images are; the network takes any that it can halve as often as it does.

    References:
        Kingma & Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114
        Rombach et al. (2022), High-resolution image synthesis with latent diffusion models, arXiv:2112.10752
    """

    objective_class = AutoencoderKLObjective
    training_defaults = {"learning_rate": 1e-3, "train_batch_size": 64, "use_ema": False}
    ema_components = ("vae",)
    description = "Variational autoencoder with diffusers' AutoencoderKL: latent maps, readable by plain diffusers"
    references = (
        "Kingma & Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114",
        "Rombach et al. (2022), High-resolution image synthesis with latent diffusion models, arXiv:2112.10752",
    )
    notes = (
        "An image that it draws is the mean of p(x|z) for a latent map of independent noise: texture rather than "
        "objects. Reconstructions show the model; a prior of the maps is another one.",
    )
    _optional_components = ["beta_scheduler"]

    def __init__(
        self,
        vae: AutoencoderKL,
        likelihood: GaussianLikelihood | BernoulliLikelihood | DiscretizedLogisticLikelihood,
        scheduler: PriorScheduler,
        beta_scheduler: BetaScheduler | None = None,
    ) -> None:
        super().__init__()
        likelihood.check_channels(vae.config.in_channels, vae.config.out_channels, "vae")
        _check_latents(vae, scheduler)
        self.register_modules(vae=vae, likelihood=likelihood, scheduler=scheduler, beta_scheduler=beta_scheduler)

    @classmethod
    def default_configs(
        cls, sample_size: int, in_channels: int, num_classes: int | None, overrides: Mapping[str, dict[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """The network for the data's shape and the likelihood's parameters; blocks and groups for its channels.

        `scaling_factor` is 1: the KL divergence holds the latents near unit variance.

        Raises:
            UsageError: the side cannot be halved as often as there are blocks, or blocks and channels disagree.
        """
        options = {k: v for k, v in overrides.get("likelihood", {}).items() if k != "class_name"}
        likelihood = cls.component_classes(overrides)["likelihood"](**options)
        vae = _blocks(sample_size, overrides.get("vae", {}))
        vae |= {
            "sample_size": sample_size,
            "in_channels": in_channels,
            "out_channels": in_channels * likelihood.parameters_per_channel,
            "latent_channels": overrides.get("vae", {}).get("latent_channels", 4),
            "scaling_factor": 1.0,
        }
        side = sample_size // _factor(vae["block_out_channels"])
        latent_shape = [vae["latent_channels"], side, side]
        if list(overrides.get("scheduler", {}).get("latent_shape", latent_shape)) != latent_shape:
            raise UsageError(
                f"--scheduler.latent_shape follows from the images and the network; it is {latent_shape}."
            )
        return {"vae": vae, "scheduler": {"latent_shape": latent_shape}}

    @classmethod
    def from_vae(
        cls,
        vae: AutoencoderKL,
        likelihood: Likelihood | None = None,
        scheduler: PriorScheduler | None = None,
        beta_scheduler: BetaScheduler | None = None,
        sample_size: int | Sequence[int] | None = None,
    ) -> Self:
        """Make a pipeline around a model of plain diffusers.

        Args:
            likelihood: what its output means; by default a Gaussian, whose sigma such a model does not know: it is 1
                until it is trained or given.
            scheduler: by default draws latents of N(0, 1) for images of `sample_size`.
            sample_size: side of the images, or height and width; default the model's own.

        Raises:
            UsageError: `vae` is not an AutoencoderKL, or the parts do not fit each other.
        """
        if not isinstance(vae, AutoencoderKL):
            raise UsageError(f"A {type(vae).__name__} was given; {cls.__name__} takes an AutoencoderKL.")
        if scheduler is not None and sample_size is not None:
            raise UsageError("Give either scheduler or sample_size: the scheduler's latent_shape says the size.")
        if scheduler is None:
            size = vae.config.sample_size if sample_size is None else sample_size
            height, width = (size, size) if isinstance(size, int) else size
            factor = _factor(vae.config.block_out_channels)
            scheduler = PriorScheduler([vae.config.latent_channels, height // factor, width // factor])
        likelihood = (GaussianLikelihood() if likelihood is None else likelihood).to(vae.device)
        return cls(vae=vae, likelihood=likelihood.eval(), scheduler=scheduler, beta_scheduler=beta_scheduler)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """Load as `HFGenPipeline.from_pretrained`, or load a bare AutoencoderKL of plain diffusers, such as
        stabilityai/sd-vae-ft-mse, or the one in the `subfolder` of a larger pipeline, and wrap it by `from_vae`.

        Args:
            subfolder: where a larger pipeline's folder or repository holds the model; nothing else of it is fetched.
            kwargs: a bare model takes `dtype`, `variant`, `low_cpu_mem_usage`, the options of a download
                (`revision`, `token` ...), and the arguments of `from_vae`.

        Raises:
            LoadError: it is missing, incomplete, damaged, pickled, or not an AutoencoderKL.
        """
        folder, subfolder = local_folder(pretrained_model_name_or_path, **kwargs), kwargs.pop("subfolder", None)
        if subfolder is None and not folder.is_single:
            return super().from_pretrained(folder, **kwargs)
        given = {name: kwargs.pop(name) for name in _PARTS if name in kwargs}
        with folder.clear_errors():
            return cls.from_vae(load_model(folder, AutoencoderKL, **kwargs), **given)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        factor = _factor(self.vae.config.block_out_channels)
        _, height, width = self.scheduler.config.latent_shape
        return self.vae.config.in_channels, height * factor, width * factor

    def posterior(self, x: Tensor, class_labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x), (B, latent_channels, H / f, W / f) each."""
        q = self.vae.encode(x.to(self.vae.dtype)).latent_dist
        return q.mean.float(), q.logvar.float()

    def likelihood_parameters(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """The decoder's output, (B, P * C, H, W)."""
        return self.vae.decode(latents.to(self.vae.dtype)).sample


_PARTS = ("likelihood", "scheduler", "beta_scheduler", "sample_size")


def _check_latents(vae: AutoencoderKL, scheduler: PriorScheduler) -> None:
    shape = list(scheduler.config.latent_shape)
    if len(shape) != 3 or shape[0] != vae.config.latent_channels:
        raise UsageError(
            f"--scheduler.latent_shape is {shape}; with --vae.latent_channels {vae.config.latent_channels} it is "
            f"[{vae.config.latent_channels}, height, width]."
        )
    if scheduler.config.distribution != "normal":
        raise UsageError("--scheduler.distribution must be normal: the prior that q(z|x) is compared with is N(0, 1).")


# --- the network's blocks -------------------------------------------------------------------------------------------


def _factor(block_out_channels: Sequence[int]) -> int:
    """Return the factor by which latents are smaller than the image: every block but the last halves the side."""
    return 2 ** (len(block_out_channels) - 1)


def _blocks(sample_size: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return channels, kinds of block and groups: the given ones, and defaults that fit them."""
    channels = list(given.get("block_out_channels", SMALL_CHANNELS if sample_size <= SMALL else LARGE_CHANNELS))
    if not channels or any(c < 1 for c in channels):
        raise UsageError(f"--vae.block_out_channels is {channels}; it needs the channels of each block, at least one.")
    _check_side(sample_size, len(channels))
    blocks: dict[str, Any] = {"block_out_channels": channels}
    for name, usual in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        blocks[name] = list(given.get(name, [usual] * len(channels)))
        if len(blocks[name]) != len(channels):
            raise UsageError(
                f"--vae.{name} names {len(blocks[name])} blocks, --vae.block_out_channels the channels of "
                f"{len(channels)}:\ngive as many, or leave out --vae.{name}."
            )
    blocks["norm_num_groups"] = groups = given.get("norm_num_groups", _groups(channels))
    if groups < 1 or any(c % groups for c in channels):
        raise UsageError(
            f"--vae.norm_num_groups is {groups}; it must divide each of --vae.block_out_channels, {channels}."
        )
    return blocks


def _groups(channels: Sequence[int]) -> int:
    """Return the number of groups: at most 32, as in diffusers, of at least `CHANNELS_PER_GROUP` channels.

    >>> _groups([128, 256, 512, 512]), _groups([16, 32, 64]), _groups([6, 12])
    (32, 4, 1)
    """
    most = min(32, max(1, min(channels) // CHANNELS_PER_GROUP))
    return max(groups for groups in range(1, most + 1) if math.gcd(*channels) % groups == 0)


def _check_side(sample_size: int, num_blocks: int) -> None:
    factor = 2 ** (num_blocks - 1)
    if sample_size % factor:
        below = sample_size // factor * factor
        near = " or ".join(str(side) for side in (below, below + factor) if side)
        raise UsageError(
            f"AutoencoderKL cannot make {sample_size}x{sample_size} images: its {num_blocks} blocks halve the side "
            f"{num_blocks - 1} times.\nTry --resolution {near}, or fewer --vae.block_out_channels."
        )
