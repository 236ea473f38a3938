"""VQ-VAE: neural discrete representation learning (van den Oord, Vinyals & Kavukcuoglu 2017, arXiv:1711.00937).

The encoder gives a map of vectors z_e(x), each is replaced by the nearest of K vectors e_k, and the decoder gives
p(x|z_q). An image so becomes a small map of integers, its codes. The codebook takes no gradient: it follows the
encoder by moving averages (appendix A.1 of the paper; Razavi et al. 2019, arXiv:1906.00446, section 2).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import one_hot, pad, relu

from hfgen import (
    HFGenPipeline,
    LogLikelihood,
    Noise,
    SeededNoise,
    UsageError,
    check_images,
    eval_mode,
    labels_for,
    noise_for,
)
from hfgen_vae.codebook import as_rows, smoothed
from hfgen_vae.likelihoods import BernoulliLikelihood, DiscretizedLogisticLikelihood, GaussianLikelihood
from hfgen_vae.vqvae_layers import check_codes, residual_blocks, sides, widths
from hfgen_vae.vqvae_objective import VQVAEObjective

ROWS = 100  # images that pass the networks together, outside training

# --- networks -------------------------------------------------------------------------------------------------------


class VQEncoder(ModelMixin, ConfigMixin):
    """z_e(x): 4x4 convolutions of stride 2, then residual blocks, then one vector for each place (section 4.1).

    Args:
        sample_size: side of the images; a side that is odd is halved upwards: 13 -> 7 -> 4.
        in_channels: channels of the images.
        latent_dim: D, length of the vectors.
        hidden_channels: channels of the residual blocks; half as many in the convolution before the last, and so on.
        num_halvings: how often the side is halved.
        num_residual_blocks: x + conv1x1(relu(conv3x3(relu(x)))), one after the other.
        residual_channels: channels within these.

    Raises:
        UsageError: no halving, or more than the side allows.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 28,
        in_channels: int = 1,
        latent_dim: int = 64,
        hidden_channels: int = 128,
        num_halvings: int = 2,
        num_residual_blocks: int = 2,
        residual_channels: int = 32,
    ) -> None:
        super().__init__()
        sides(sample_size, num_halvings)
        channels = [in_channels, *widths(hidden_channels, num_halvings)]
        self.halvings = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in pairwise(channels))
        self.blocks = residual_blocks(hidden_channels, residual_channels, num_residual_blocks)
        self.to_latents = nn.Conv2d(hidden_channels, latent_dim, 1)
        nn.init.kaiming_normal_(self.to_latents.weight, nonlinearity="relu")  # about as wide as the first codebook
        self.to_latents.bias.data.zero_()  # type: ignore[union-attr]

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] -> z_e (B, D, h, w)."""
        x = pixel_values
        for i, layer in enumerate(self.halvings):
            odd = x.shape[-1] % 2
            x = layer(pad(relu(x) if i else x, (0, odd, 0, odd)))
        return self.to_latents(relu(self.blocks(x)))


class VQDecoder(ModelMixin, ConfigMixin):
    """Parameters of p(x|z_q): the encoder's mirror, by transposed convolutions.

    Args:
        sample_size: side of the images.
        out_channels: channels of the images times the likelihood's parameters for each.
        latent_dim, hidden_channels, num_halvings, num_residual_blocks, residual_channels: as the encoder's.
        num_classes: makes it conditional, p(x|z_q, label): the label joins z_q as one-hot planes.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 28,
        out_channels: int = 1,
        latent_dim: int = 64,
        hidden_channels: int = 128,
        num_halvings: int = 2,
        num_residual_blocks: int = 2,
        residual_channels: int = 32,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        self.sides = sides(sample_size, num_halvings)[::-1]
        channels = [*widths(hidden_channels, num_halvings)[::-1], out_channels]
        self.from_latents = nn.Conv2d(latent_dim + (num_classes or 0), hidden_channels, 3, 1, 1)
        self.blocks = residual_blocks(hidden_channels, residual_channels, num_residual_blocks)
        self.doublings = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in pairwise(channels))

    def forward(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """z_q (B, D, h, w) -> parameters (B, out_channels, H, W)."""
        x = self.blocks(self.from_latents(self._with_label(latents, class_labels)))
        for layer, side in zip(self.doublings, self.sides[1:], strict=True):
            x = layer(relu(x))[..., :side, :side]
        return x

    def _with_label(self, latents: Tensor, class_labels: Tensor | None) -> Tensor:
        if not self.config.num_classes:
            return latents
        if class_labels is None:
            raise UsageError("This model is class-conditional; give class_labels, one for each image.")
        planes = one_hot(class_labels, self.config.num_classes).to(latents.dtype)[:, :, None, None]
        return torch.cat([latents, planes.expand(-1, -1, *latents.shape[2:])], dim=1)


# --- codebook -------------------------------------------------------------------------------------------------------


class VectorQuantizer(ModelMixin, ConfigMixin):
    """The K vectors e_k, each the moving average of the encoder's vectors that were nearest to it.

    With n_k such vectors in a step and s_k their sum (eqs. 6 to 8 of the paper's appendix A.1):

        N_k <- decay N_k + (1 - decay) n_k,    m_k <- decay m_k + (1 - decay) s_k,    e_k = m_k / N'_k,

    where N'_k = (N_k + epsilon) / (sum N + K epsilon) sum N keeps the division away from 0. N and m start at 0, so the
    averages have no bias towards the random first codebook. A code whose N_k is at most `restart_threshold` times the
    mean of all is started anew at one of the encoder's vectors, with the mean count; so is, at first, every code that
    the random codebook leaves unused, which makes the start one from data.

    Args:
        num_embeddings: K.
        latent_dim: D.
        decay: gamma, of the moving averages.
        epsilon: of the Laplace smoothing.
        restart_threshold: a fraction of the mean count; 0 restarts those codes only that were never used.

    Raises:
        UsageError: a value outside its range.
    """

    @register_to_config
    def __init__(
        self,
        num_embeddings: int = 512,
        latent_dim: int = 64,
        decay: float = 0.99,
        epsilon: float = 1e-5,
        restart_threshold: float = 0.05,
    ) -> None:
        super().__init__()
        if num_embeddings < 2 or latent_dim < 1:
            sizes = f"num_embeddings is {num_embeddings}, --quantizer.latent_dim {latent_dim}"
            raise UsageError(f"--quantizer.{sizes}; they must be at least 2 and 1.")
        if not (0 <= decay < 1 and epsilon > 0 and 0 <= restart_threshold < 1):
            raise UsageError(
                f"--quantizer.decay {decay} and --quantizer.restart_threshold {restart_threshold} must lie in [0, 1), "
                f"and --quantizer.epsilon {epsilon} be above 0."
            )
        self.register_buffer("codebook", torch.randn(num_embeddings, latent_dim))
        self.register_buffer("counts", torch.zeros(num_embeddings))
        self.register_buffer("sums", torch.zeros(num_embeddings, latent_dim))
        self.register_buffer("num_restarts", torch.zeros((), dtype=torch.int64))

    def forward(self, z_e: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors (B, D, h, w) -> the nearest e_k, (B, D, h, w), and their numbers k, (B, h, w), int64.

        The gradient passes straight through: that of z_e is that of z_q (section 3.2), and e_k gets none.
        """
        codes = self.nearest(z_e)
        return z_e + (self.embed(codes).to(z_e.dtype) - z_e).detach(), codes

    @torch.no_grad()
    def nearest(self, z_e: Tensor) -> Tensor:
        """argmin_k |z_e - e_k| at each place: (B, D, h, w) -> (B, h, w), int64; of equal ones the first."""
        vectors, codebook = as_rows(z_e).float(), self.codebook.float()
        # |z|^2 is the same for all k
        distances = torch.addmm(codebook.square().sum(1), vectors, codebook.T, alpha=-2)
        return distances.argmin(1).view(len(z_e), *z_e.shape[2:])

    def embed(self, codes: Tensor) -> Tensor:
        """e_k of each code: (B, h, w) -> (B, D, h, w)."""
        return self.codebook[codes].movedim(-1, 1)

    @torch.no_grad()
    def update(self, counts: Tensor, sums: Tensor, candidates: Tensor) -> Tensor:
        """Update the averages by a step; all arguments are over the global batch.

        Args:
            counts: n, (K,).
            sums: s, (K, D).
            candidates: encoder's vectors in random order, (V, D): the i-th dead code takes the i-th, and waits for
                the next step where there are fewer.

        Returns:
            the number of codes started anew, a scalar.
        """
        self.counts.lerp_(counts.to(self.counts.dtype), 1 - self.config.decay)
        self.sums.lerp_(sums.to(self.sums.dtype), 1 - self.config.decay)
        restarted = self._restart(candidates)
        self.codebook.copy_(self.sums / smoothed(self.counts, self.config.epsilon)[:, None])
        return restarted

    def _restart(self, candidates: Tensor) -> Tensor:
        """Restart dead codes, without reading values, which would make a GPU wait."""
        mean = self.counts.mean()
        dead = self.counts <= self.config.restart_threshold * mean
        place = dead.cumsum(0) - 1
        restarted = dead & (place < len(candidates))
        vectors = candidates[place.clamp(0, len(candidates) - 1)].to(self.sums.dtype)
        self.counts.copy_(torch.where(restarted, mean, self.counts))
        self.sums.copy_(torch.where(restarted[:, None], mean * vectors, self.sums))
        self.num_restarts += restarted.sum()
        return restarted.sum()


class CodeScheduler(SchedulerMixin, ConfigMixin):
    """Draws codes from the uniform prior of section 3.1; one step, so `timesteps == [0]`.

    Args:
        num_embeddings: K.
        code_shape: (h, w).
    """

    order = 1

    @register_to_config
    def __init__(self, num_embeddings: int = 512, code_shape: Sequence[int] = (7, 7)) -> None:
        if num_embeddings < 2 or len(code_shape) != 2 or min(code_shape) < 1:
            sizes = f"code_shape is {list(code_shape)}, --scheduler.num_embeddings {num_embeddings}"
            raise UsageError(f"--scheduler.{sizes}; expected [height, width] and at least 2.")
        self.timesteps = torch.zeros(1, dtype=torch.int64)

    def set_timesteps(self, num_inference_steps: int | None = None, device: torch.device | str = "cpu") -> None:
        """Set the one step; raise a UsageError for any other number."""
        if num_inference_steps not in (None, 1):
            raise UsageError(f"This model samples in one step; num_inference_steps={num_inference_steps}.")
        self.timesteps = self.timesteps.to(device)

    def sample_prior(self, noise: Noise) -> Tensor:
        """Codes (B, h, w), int64, each of 0 .. K - 1 equally likely."""
        last = self.config.num_embeddings - 1  # to which u K may round up
        return (noise.uniform(*self.config.code_shape) * self.config.num_embeddings).long().clamp(max=last)

    def sample(self, noise: Noise) -> Tensor:
        """Draw codes as `sample_prior`."""
        return self.sample_prior(noise)

    def interpolate(self, start: Tensor, end: Tensor, t: float) -> Tensor:
        """Refuse: there is nothing between two codes.

        Raises:
            UsageError: always.
        """
        raise UsageError("A VQ-VAE has no walk through latent space: its latents are codes, and no path joins two.")


# --- pipeline -------------------------------------------------------------------------------------------------------


class VQVAEPipeline(HFGenPipeline):
    """Maps images to codes and back. Sampled images have codes of the uniform prior that the model is trained with:
    all codes are equally likely and independent, unlike those of real images, so they show textures rather than
    objects. A prior that is fitted to the codes is another model, trained on what `encode` gives.

    References:
        van den Oord, Vinyals & Kavukcuoglu (2017), Neural discrete representation learning, arXiv:1711.00937
    """

    objective_class = VQVAEObjective
    training_defaults = {"learning_rate": 1e-3, "train_batch_size": 64, "use_ema": False}
    ema_components = ()  # averaged networks do not fit the codebook, which follows the networks of the last steps
    description = "VQ-VAE: images as maps of discrete codes, with a codebook of moving averages"
    references = (
        "van den Oord, Vinyals & Kavukcuoglu (2017), Neural discrete representation learning, arXiv:1711.00937",
        "Razavi, van den Oord & Vinyals (2019), Generating diverse high-fidelity images with VQ-VAE-2, "
        "arXiv:1906.00446",
    )
    notes = (
        "An image that it draws has codes of a uniform prior, independent of each other, as codes of images are not: "
        "it shows strokes or texture. A prior fitted to the codes is another model; reconstructions show this one.",
    )

    def __init__(
        self,
        encoder: VQEncoder,
        quantizer: VectorQuantizer,
        decoder: VQDecoder,
        likelihood: GaussianLikelihood | BernoulliLikelihood | DiscretizedLogisticLikelihood,
        scheduler: CodeScheduler,
    ) -> None:
        super().__init__()
        likelihood.check_channels(encoder.config.in_channels, decoder.config.out_channels, "decoder")
        check_codes(encoder, quantizer, decoder, scheduler)
        self.register_modules(
            encoder=encoder, quantizer=quantizer, decoder=decoder, likelihood=likelihood, scheduler=scheduler
        )

    @classmethod
    def default_configs(
        cls, sample_size: int, in_channels: int, num_classes: int | None, overrides: Mapping[str, dict[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """Configure both networks for the data's shape, and the decoder for the likelihood's parameters; an option
        of the latents that one component is given holds for all."""
        classes = cls.component_classes(overrides)
        options = {k: v for k, v in overrides.get("likelihood", {}).items() if k != "class_name"}
        outputs = in_channels * classes["likelihood"](**options).parameters_per_channel
        latent_dim = _said(overrides, "latent_dim", 64)
        num_embeddings = _said(overrides, "num_embeddings", 512)
        num_halvings = _said(overrides, "num_halvings", 2)
        shape = {"sample_size": sample_size, "latent_dim": latent_dim, "num_halvings": num_halvings}
        return {
            "encoder": {**shape, "in_channels": in_channels},
            "quantizer": {"num_embeddings": num_embeddings, "latent_dim": latent_dim},
            "decoder": {**shape, "out_channels": outputs, "num_classes": num_classes},
            "scheduler": {"num_embeddings": num_embeddings, "code_shape": [sides(sample_size, num_halvings)[-1]] * 2},
        }

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        size = self.encoder.config.sample_size
        return self.encoder.config.in_channels, size, size

    @torch.no_grad()
    def encode(self, images: Tensor, class_labels: Tensor | None = None, seeds: Sequence[int] | None = None) -> Tensor:
        """The codes of each image in [-1, 1]: (B, h, w), int64. They do not depend on the labels.

        Args:
            seeds: of the binarization of each image, where the likelihood draws one; default 0, 1, 2 ...

        Raises:
            UsageError: images of another shape or range.
        """
        with eval_mode(self.models().values()):
            return torch.cat([self._codes(x) for x, _ in self._parts(images, None, seeds)])

    @torch.no_grad()
    def decode(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """E[x|z_q] of codes (B, h, w), in [-1, 1] up to what a Gaussian mean overshoots.

        Raises:
            UsageError: no codes of this model, or class labels missing.
        """
        labels = labels_for(len(latents), class_labels, self.num_classes, self._execution_device)
        return self.likelihood.mean(self._likelihood_parameters(self._checked(latents), labels))

    @property
    def is_density(self) -> bool:
        """True for a continuous likelihood."""
        return self.likelihood.num_values is None

    @torch.no_grad()
    def log_likelihood(
        self, images: Tensor, class_labels: Tensor | None = None, seeds: Sequence[int] | None = None
    ) -> LogLikelihood:
        """ln p(x|z_q(x)) - h w ln K, at most ln p(x) = ln sum_z p(x|z) / K^(h w) (section 3.1 of the paper).

        Args:
            images: (B, C, H, W) in [-1, 1].
            seeds: as `encode`'s.

        Raises:
            UsageError: images of another shape, of a wrong range, or of values that the likelihood gives no mass.
        """
        check_images(images, self.image_shape)
        given, nats = labels_for(len(images), class_labels, self.num_classes, self._execution_device), []
        with eval_mode(self.models().values()):
            for x, labels in self._parts(images, given, seeds):
                self.likelihood.check(x)
                parameters = self._likelihood_parameters(codes := self._codes(x), labels)
                rate = codes[0].numel() * math.log(self.quantizer.config.num_embeddings)
                nats.append(self.likelihood.log_prob(parameters, x).double() - rate)
        return LogLikelihood(torch.cat(nats), "lower bound", images[0].numel(), self.likelihood.num_values)

    def _codes(self, x: Tensor) -> Tensor:
        """Return the codes of x as the likelihood observes it."""
        return self.quantizer.nearest(self.encoder(x.to(self.encoder.dtype)))

    def _likelihood_parameters(self, codes: Tensor, class_labels: Tensor | None) -> Tensor:
        return self.decoder(self.quantizer.embed(codes).to(self.decoder.dtype), class_labels)

    def _parts(
        self, images: Tensor, class_labels: Tensor | None, seeds: Sequence[int] | None
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield the images as the likelihood observes them, and their labels, some at a time."""
        check_images(images, self.image_shape)
        generators = noise_for(len(images), seeds, self._execution_device).generators
        for start in range(0, len(images), ROWS):
            rows = slice(start, start + ROWS)
            noise = SeededNoise(generators[rows], self._execution_device)
            x = self.likelihood.observe(images[rows].to(self._execution_device, torch.float32), noise)
            yield x, None if class_labels is None else class_labels[rows]

    def _checked(self, codes: Tensor) -> Tensor:
        shape, count = tuple(self.scheduler.config.code_shape), self.scheduler.config.num_embeddings
        if tuple(codes.shape[1:]) != shape or codes.dtype != torch.int64:
            raise UsageError(f"Codes are {codes.dtype} of shape {tuple(codes.shape)}; expected int64, (B, *{shape}).")
        if len(codes) and not (codes.min() >= 0 and codes.max() < count):
            raise UsageError(f"Codes lie in [{codes.min()}, {codes.max()}]; this model has codes 0..{count - 1}.")
        return codes.to(self._execution_device)


def _said(overrides: Mapping[str, dict[str, Any]], option: str, default: int) -> int:
    """Return an option's value from the first component that was given it."""
    return next((options[option] for options in overrides.values() if option in options), default)
