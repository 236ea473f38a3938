"""VAE: auto-encoding variational Bayes (Kingma & Welling 2014, arXiv:1312.6114), beta-VAE and IWAE.

x ~ p(x|z), z ~ N(0, 1); the encoder gives q(z|x) = N(mean, e^logvar). Networks are multi-layer perceptrons or
convolutions, for images of any size and number of channels; any likelihood goes with any network.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn.functional import one_hot, silu

from hfgen import Batch, Diagnosis, Objective, PriorScheduler, Update, UsageError
from hfgen_vae.beta import BetaScheduler
from hfgen_vae.bounds import draw, elbo_loss, flat, kl_divergence, log_weights
from hfgen_vae.likelihoods import BernoulliLikelihood, DiscretizedLogisticLikelihood, GaussianLikelihood, Likelihood
from hfgen_vae.variational import VariationalPipeline, diagnose

MIN_LOGVAR, MAX_LOGVAR = -30.0, 20.0  # as diffusers' DiagonalGaussianDistribution
Activation = Literal["tanh", "relu", "silu", "gelu"]
NEGLIGIBLE = 1e-12  # a share of a sum of float32; gradients this small become denormals, five times as slow on a CPU
ACTIVATIONS = {"tanh": nn.Tanh, "relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU}

# --- networks -------------------------------------------------------------------------------------------------------


class MLPEncoder(ModelMixin, ConfigMixin):
    """q(z|x): fully connected layers on pixels in [0, 1]; two linear heads.

    Args:
        sample_size: side of the images.
        in_channels: channels of the images.
        latent_dim: length of z.
        hidden_dims: widths of the hidden layers; none makes the encoder linear.
        activation: after each hidden layer.
        num_classes: makes it conditional: the label joins x as a one-hot vector (Sohn et al. 2015).
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 28,
        in_channels: int = 1,
        latent_dim: int = 50,
        hidden_dims: Sequence[int] = (200, 200),
        activation: Activation = "tanh",
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        widths = [in_channels * sample_size**2 + (num_classes or 0), *hidden_dims]
        self.layers = _perceptron(widths, activation)
        self.to_moments = nn.Linear(widths[-1], 2 * latent_dim)
        self.apply(_initialize)

    def forward(self, pixel_values: Tensor, class_labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) in [-1, 1] -> mean and log variance of q(z|x), (B, latent_dim) each."""
        x = pixel_values.flatten(1).add(1).div_(2)
        return _moments(self.to_moments(self.layers(_with_label(x, class_labels, self.config.num_classes))))


class MLPDecoder(ModelMixin, ConfigMixin):
    """Parameters of p(x|z) by fully connected layers.

    Args:
        sample_size: side of the images.
        out_channels: channels of the images times the likelihood's parameters for each.
        latent_dim, hidden_dims, activation, num_classes: as the encoder's.
        bounded: gives 2 sigmoid(a) - 1 in place of a: the mean of a Gaussian likelihood then lies in (-1, 1), as
            where images in [0, 1] are given by a sigmoid (pythae).
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 28,
        out_channels: int = 1,
        latent_dim: int = 50,
        hidden_dims: Sequence[int] = (200, 200),
        activation: Activation = "tanh",
        num_classes: int | None = None,
        bounded: bool = False,
    ) -> None:
        super().__init__()
        widths = [latent_dim + (num_classes or 0), *hidden_dims]
        self.layers = _perceptron(widths, activation)
        self.to_parameters = nn.Linear(widths[-1], out_channels * sample_size**2)
        self.apply(_initialize)

    def forward(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Latents (B, latent_dim) -> parameters (B, out_channels, H, W)."""
        size = self.config.sample_size
        x = self.layers(_with_label(latents, class_labels, self.config.num_classes))
        x = self.to_parameters(x).unflatten(1, (-1, size, size))
        return torch.tanh(x / 2) if self.config.bounded else x  # 2 sigmoid(a) - 1 = tanh(a / 2)


class ConvEncoder(ModelMixin, ConfigMixin):
    """q(z|x): convolutions that halve the side, rounding up, once and then until it is at most 7; linear heads.

    Args:
        sample_size, in_channels, latent_dim, num_classes: as MLPEncoder's; labels join as one-hot planes.
        base_channels: channels after the first layer; they double from there, up to eight times as many.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 28,
        in_channels: int = 1,
        latent_dim: int = 32,
        base_channels: int = 32,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        sides, widths = pyramid(sample_size, base_channels)
        channels = [in_channels + (num_classes or 0), *widths]
        layers = [[nn.Conv2d(a, b, 3, 2, 1), nn.SiLU()] for a, b in pairwise(channels)]
        self.layers = nn.Sequential(*(layer for pair in layers for layer in pair))
        self.to_moments = nn.Linear(channels[-1] * sides[-1] ** 2, 2 * latent_dim)

    def forward(self, pixel_values: Tensor, class_labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode as MLPEncoder does."""
        x = pixel_values
        if self.config.num_classes:
            planes = _one_hot(class_labels, self.config.num_classes).to(x.dtype)[:, :, None, None]
            x = torch.cat([x, planes.expand(-1, -1, *x.shape[2:])], dim=1)
        return _moments(self.to_moments(self.layers(x).flatten(1)))


class ConvDecoder(ModelMixin, ConfigMixin):
    """Parameters of p(x|z): the encoder's mirror, by transposed convolutions.

    Args:
        sample_size, out_channels, latent_dim, num_classes: as MLPDecoder's.
        base_channels: channels before the last layer; they double towards the latents.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int = 28,
        out_channels: int = 1,
        latent_dim: int = 32,
        base_channels: int = 32,
        num_classes: int | None = None,
    ) -> None:
        super().__init__()
        sides, widths = pyramid(sample_size, base_channels)
        sides, widths = sides[::-1], widths[::-1]
        self.from_latents = nn.Linear(latent_dim + (num_classes or 0), widths[0] * sides[0] ** 2)
        # of an even size, so that every pixel is covered as often as its neighbor; an odd side is cut after doubling
        channels = pairwise([*widths, widths[-1]])
        self.layers = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, 2, 1) for a, b in channels)
        self.to_parameters = nn.Conv2d(widths[-1], out_channels, 3, 1, 1)

    def forward(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Decode as MLPDecoder does."""
        sides = pyramid(self.config.sample_size, self.config.base_channels)[0][::-1]
        x = self.from_latents(_with_label(latents, class_labels, self.config.num_classes))
        x = x.unflatten(1, (-1, sides[0], sides[0]))
        for layer, side in zip(self.layers, sides[1:], strict=True):
            x = layer(silu(x))[..., :side, :side]
        return self.to_parameters(silu(x))


def pyramid(sample_size: int, base_channels: int) -> tuple[list[int], list[int]]:
    """Sides of the image and of each layer's output, and the channels of these.

    >>> pyramid(28, 32)
    ([28, 14, 7], [32, 64])
    """
    sides = [sample_size]
    while sides[-1] > 7 or len(sides) == 1:
        sides.append(math.ceil(sides[-1] / 2))
    return sides, [base_channels * 2 ** min(i, 3) for i in range(len(sides) - 1)]


def _perceptron(widths: Sequence[int], activation: str) -> nn.Sequential:
    if activation not in ACTIVATIONS:
        raise UsageError(
            f"--encoder.activation (or --decoder.activation) is {activation!r}; it can be {', '.join(ACTIVATIONS)}."
        )
    layers = [[nn.Linear(a, b), ACTIVATIONS[activation]()] for a, b in pairwise(widths)]
    return nn.Sequential(*(layer for pair in layers for layer in pair))


def _initialize(module: nn.Module) -> None:
    """Glorot & Bengio 2010, as the networks of Burda et al. 2016."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def _with_label(x: Tensor, class_labels: Tensor | None, num_classes: int | None) -> Tensor:
    if not num_classes:
        return x
    return torch.cat([x, _one_hot(class_labels, num_classes).to(x.dtype)], dim=1)


def _one_hot(class_labels: Tensor | None, num_classes: int) -> Tensor:
    if class_labels is None:
        raise UsageError("This model is class-conditional; give class_labels, one for each image.")
    return one_hot(class_labels, num_classes)


def _moments(output: Tensor) -> tuple[Tensor, Tensor]:
    mean, logvar = output.float().chunk(2, dim=1)
    return mean, logvar.clamp(MIN_LOGVAR, MAX_LOGVAR)


# --- objective ------------------------------------------------------------------------------------------------------


class VAEObjective(Objective):
    """Maximizes the ELBO, or the importance-weighted bound L_K of K samples, which is the IWAE.

    Args:
        num_importance_samples: K. 1 is the ELBO with its KL divergence in closed form.
        gradient_estimator: `"reparameterized"`: through z = mean + sigma * noise; `"doubly_reparameterized"`: of the
            encoder's gradient the score function's part, zero in expectation, is left out (Tucker et al. 2019,
            arXiv:1810.04152, eq. 8), for K = 1 too (Roeder et al. 2017). It vanishes where q is the posterior.

    Raises:
        UsageError: K below 1, or a beta schedule with a bound that has no KL term of its own.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        beta_scheduler: BetaScheduler | None = None,
        num_importance_samples: int = 1,
        gradient_estimator: Literal["reparameterized", "doubly_reparameterized"] = "reparameterized",
    ) -> None:
        if num_importance_samples < 1:
            raise UsageError(f"--objective.num_importance_samples is {num_importance_samples}; it must be at least 1.")
        beta_scheduler = BetaScheduler() if beta_scheduler is None else beta_scheduler
        likelihood.statistics = []  # of a step that did not end
        self.importance_weighted = num_importance_samples > 1 or gradient_estimator == "doubly_reparameterized"
        if self.importance_weighted and not beta_scheduler.is_elbo:
            raise UsageError(
                "The importance-weighted bound and the doubly reparameterized gradient have no KL term to weigh:\n"
                "set --beta_scheduler.beta 1, --beta_scheduler.warmup_steps 0 and --beta_scheduler.free_bits 0,\n"
                "or train the plain ELBO."
            )
        self.encoder, self.decoder, self.likelihood = encoder, decoder, likelihood
        self.beta_scheduler, self.num_samples = beta_scheduler, num_importance_samples
        self.doubly = gradient_estimator == "doubly_reparameterized"

    def training_step(self, batch: Batch) -> Iterator[Update]:
        """Yield the update of both networks."""
        x, labels = self.likelihood.observe(batch["pixel_values"], self.noise), batch.get("class_labels")
        mean, logvar = self.encoder(x, labels)
        bound = self._importance_weighted if self.importance_weighted else self._elbo
        loss, metrics = bound(x, labels, mean, logvar)
        yield Update(("encoder", "decoder"), loss, metrics)

    def _elbo(
        self, x: Tensor, labels: Tensor | None, mean: Tensor, logvar: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """-E ln p(x|z) + beta KL(q(z|x) || p(z)): sums over pixels and latents, means over images."""
        z = torch.addcmul(mean, torch.exp(0.5 * logvar), self.noise.normal(*mean.shape[1:]))
        parameters = self.decoder(z, labels)
        self.likelihood.remember(parameters, x)
        kl = kl_divergence(mean, logvar)
        return elbo_loss(self.likelihood.log_prob(parameters, x), kl, self.beta_scheduler.regularizer(kl, self.step))

    def _importance_weighted(
        self, x: Tensor, labels: Tensor | None, mean: Tensor, logvar: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """-L_K (Burda et al. 2016, eq. 8); its gradients weigh each sample by its share of the bound, eq. 14."""
        z = draw(mean, logvar, self.noise.normal(self.num_samples, *mean.shape[1:]))
        parameters = flat(self.decoder, z, labels)
        log_prob = self.likelihood.log_prob(parameters, x[:, None])
        q = (mean.detach(), logvar.detach()) if self.doubly else (mean, logvar)
        log_w = log_weights(log_prob, z, *q)
        weights = log_w.detach().softmax(1)
        weights = torch.where(weights > NEGLIGIBLE, weights, 0.0)
        if self.doubly:
            z.register_hook(lambda gradient: gradient * weights[:, :, None])
        self.likelihood.remember(parameters, x[:, None], weights)
        bound = (log_w.detach().logsumexp(1) - math.log(self.num_samples)).mean()
        # its value is the bound, its gradient that of the weighted sum, which is the bound's own
        loss = -(weights * log_w).sum(1).mean()
        return loss - loss.detach() - bound, {"elbo": log_w.detach().mean()}

    def finish_step(self) -> dict[str, Tensor]:
        """Update the optimal sigma by the step's error."""
        self.likelihood.finish_step()
        return {}

    @classmethod
    def diagnose(cls, pipeline: Any, examples: Batch) -> Diagnosis:
        """Active units, KL per dimension, ELBO, reconstruction error."""
        return diagnose(pipeline, examples)


# --- pipeline -------------------------------------------------------------------------------------------------------


class VAEPipeline(VariationalPipeline):
    """Samples in one step: z from the scheduler's prior, then the mean of p(x|z).

    The likelihood is by default a Gaussian with its optimal sigma, and of gray images a Bernoulli on binarized ones.

    References:
        Kingma & Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114
        Burda, Grosse & Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519
    """

    objective_class = VAEObjective
    training_defaults = {"learning_rate": 1e-3, "train_batch_size": 64, "use_ema": False}
    ema_components = ("encoder", "decoder")
    description = "Variational autoencoder: exact bounds of the likelihood, by ELBO or importance weighting"
    references = (
        "Kingma & Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114",
        "Burda, Grosse & Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519",
        "Higgins et al. (2017), beta-VAE: learning basic visual concepts with a constrained variational framework",
    )
    notes = ("An image that it draws is the mean of p(x|z), not a sample of it.",)
    _optional_components = ["beta_scheduler"]

    def __init__(
        self,
        encoder: ConvEncoder | MLPEncoder,
        decoder: ConvDecoder | MLPDecoder,
        likelihood: GaussianLikelihood | BernoulliLikelihood | DiscretizedLogisticLikelihood,
        scheduler: PriorScheduler,
        beta_scheduler: BetaScheduler | None = None,
    ) -> None:
        super().__init__()
        likelihood.check_channels(encoder.config.in_channels, decoder.config.out_channels, "decoder")
        if decoder.config.get("bounded") and not hasattr(likelihood, "variance"):  # bundled code has other classes
            raise UsageError(
                f"--decoder.bounded is for a Gaussian mean; {type(likelihood).__name__} takes any number."
            )
        for name in ("sample_size", "num_classes"):
            if encoder.config[name] != decoder.config[name]:
                raise UsageError(
                    f"--encoder.{name} is {encoder.config[name]}, but --decoder.{name} is {decoder.config[name]}."
                )
        _check_latents(encoder.config.latent_dim, decoder.config.latent_dim, scheduler)
        self.register_modules(
            encoder=encoder, decoder=decoder, likelihood=likelihood, scheduler=scheduler, beta_scheduler=beta_scheduler
        )

    @classmethod
    def preferred_classes(cls, in_channels: int) -> Mapping[str, str]:
        """Choose a binary likelihood for gray images: it samples the best digits (Dai & Wipf 2019, arXiv:1903.05789,
        table 1)."""
        return {"likelihood": "BernoulliLikelihood"} if in_channels == 1 else {}

    @classmethod
    def default_configs(
        cls, sample_size: int, in_channels: int, num_classes: int | None, overrides: Mapping[str, dict[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """Both networks for the data's shape, the decoder for the likelihood's parameters too."""
        classes = cls.component_classes(overrides)
        options = {k: v for k, v in overrides.get("likelihood", {}).items() if k != "class_name"}
        outputs = in_channels * classes["likelihood"](**options).parameters_per_channel
        given = [overrides.get(name, {}).get("latent_dim") for name in ("encoder", "decoder")]
        default = 50 if classes["encoder"] is MLPEncoder else 32
        latent_dim = next((dim for dim in given if dim is not None), default)
        if latent_dim < 1:
            raise UsageError(f"--encoder.latent_dim (or --decoder.latent_dim) is {latent_dim}; it must be at least 1.")
        shape = {"sample_size": sample_size, "num_classes": num_classes, "latent_dim": latent_dim}
        return {
            "encoder": {**shape, "in_channels": in_channels},
            "decoder": {**shape, "out_channels": outputs},
            "scheduler": {"latent_shape": [latent_dim]},
        }

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        size = self.encoder.config.sample_size
        return self.encoder.config.in_channels, size, size

    def posterior(self, x: Tensor, class_labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x), (B, latent_dim) each."""
        return self.encoder(x.to(self.encoder.dtype), class_labels)

    def likelihood_parameters(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """The decoder's output, (B, P * C, H, W)."""
        return self.decoder(latents.to(self.decoder.dtype), class_labels)


def _check_latents(encoded: int, decoded: int, scheduler: PriorScheduler) -> None:
    shape = list(scheduler.config.latent_shape)
    if not encoded == decoded == shape[0] or len(shape) != 1:
        raise UsageError(
            f"--encoder.latent_dim {encoded}, --decoder.latent_dim {decoded}, --scheduler.latent_shape {shape} differ."
        )
    if scheduler.config.distribution != "normal":
        raise UsageError("--scheduler.distribution must be normal: the prior that q(z|x) is compared with is N(0, 1).")
