"""Likelihoods p(x|z), whose parameters a decoder gives. Any VAE takes any of these.

All images are in [-1, 1]; byte k of 0..255 is the value k / 127.5 - 1. Nothing here is trained by gradients.
"""

import math
from typing import Literal

import torch
from accelerate.utils import reduce
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn.functional import logsigmoid, mse_loss, softplus

from hfgen import Noise, UsageError

HALF_BIN = 1 / 255  # in [-1, 1], half the distance between two of 256 levels


class Likelihood(ModelMixin, ConfigMixin):
    """A distribution of an image's values, independent given the decoder's output.

    Attributes:
        parameters_per_channel: how many channels a decoder gives for each channel of the image; all images' first
            parameter comes first, then the second, and so on.
        num_values: how many values an element of x can take; None where p(x|z) is a density.
    """

    num_values: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))  # diffusers saves no empty network
        self.statistics: list[Tensor] = []

    @property
    def parameters_per_channel(self) -> int:
        return 1

    def observe(self, images: Tensor, noise: Noise) -> Tensor:
        """Return the x that p(x|z) is defined for, from images (B, C, H, W) in [-1, 1]; same shape and range."""
        return images

    def check(self, images: Tensor) -> None:
        """Raise a UsageError unless the values of `images` have a probability."""

    def check_channels(self, in_channels: int, out_channels: int, component: str) -> None:
        """Raise a UsageError unless a decoder of so many `out_channels` fits images of `in_channels`."""
        needed = in_channels * self.parameters_per_channel
        if out_channels != needed:
            raise UsageError(
                f"--{component}.out_channels is {out_channels}; for {in_channels} channels "
                f"{type(self).__name__} needs {needed}."
            )

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        """ln p(x|z) in nats, summed over each image, float32.

        Args:
            parameters: the decoder's output, (..., P * C, H, W).
            x: (..., C, H, W), broadcast against it.

        Returns:
            of shape (...,).
        """
        return self.elementwise(parameters.float(), x).flatten(-3).sum(-1)

    def elementwise(self, parameters: Tensor, x: Tensor) -> Tensor:
        """ln p of each element of x, (..., C, H, W)."""
        raise NotImplementedError

    def mean(self, parameters: Tensor) -> Tensor:
        """E[x|z], (..., C, H, W)."""
        raise NotImplementedError

    def sample(self, parameters: Tensor, noise: Noise) -> Tensor:
        """x ~ p(x|z), (B, C, H, W)."""
        raise NotImplementedError

    def statistic(self, parameters: Tensor, x: Tensor) -> Tensor | None:
        """Return the statistic whose global mean `update` takes, (...,), or None."""
        return None

    def update(self, statistic: Tensor) -> None:
        """Take in the mean of a step's `statistic` over the global batch."""

    def remember(self, parameters: Tensor, x: Tensor, weights: Tensor | None = None) -> None:
        """Keep a micro-batch's `statistic` until `finish_step`.

        Args:
            weights: of K samples of each image, (B, K), adding up to 1; the statistic is then (B, K).
        """
        statistic = self.statistic(parameters, x)
        if statistic is not None:
            statistic = statistic if weights is None else (weights * statistic).sum(1)
            self.statistics.append(statistic.mean())

    def finish_step(self) -> None:
        """Call `update` with the statistics of a step's micro-batches on all processes; every process calls it."""
        if self.statistics:
            self.update(reduce(torch.stack(self.statistics).mean(), "mean"))
            self.statistics = []


class BernoulliLikelihood(Likelihood):
    """Binary images: p(x = 1|z) = sigmoid(logits).

    Args:
        binarization: how gray images become binary. `"dynamic"`: each pixel is drawn with its gray value as its
            probability, anew each time an image is used (Salakhutdinov & Murray 2008; Burda et al. 2016);
            `"threshold"`: gray values of at least 1/2 are 1, which is another, easier dataset; `"none"`: the images
            must be black and white.
    """

    num_values = 2

    @register_to_config
    def __init__(self, binarization: Literal["dynamic", "threshold", "none"] = "dynamic") -> None:
        super().__init__()
        if binarization not in ("dynamic", "threshold", "none"):
            raise UsageError(f"--likelihood.binarization is {binarization!r}; it can be dynamic, threshold or none.")

    def observe(self, images: Tensor, noise: Noise) -> Tensor:
        """Binary images with values -1 and 1.

        Raises:
            UsageError: binarization is "none" and there are gray values.
        """
        if self.config.binarization == "dynamic":
            ones = noise.uniform(*images.shape[1:]) < (images + 1) / 2
            return torch.where(ones, 1.0, -1.0)
        if self.config.binarization == "threshold":
            return torch.where(images >= 0, 1.0, -1.0)
        self.check(images)
        return images

    def check(self, images: Tensor) -> None:
        gray = images.abs() != 1
        if gray.any():
            raise UsageError(
                f"A Bernoulli likelihood is over black and white; {gray.float().mean():.0%} of the values are gray.\n"
                "Choose --likelihood.binarization dynamic or threshold, or another likelihood."
            )

    def elementwise(self, parameters: Tensor, x: Tensor) -> Tensor:
        """ln sigmoid(x l), with x in {-1, 1}."""
        return logsigmoid(x * parameters)

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        if parameters.requires_grad:
            return super().log_prob(parameters, x)
        logits = parameters.float().flatten(-3)  # fewer passes over memory than element by element
        linear = torch.linalg.vecdot(logits, (x + 1).flatten(-3) / 2)
        return linear - softplus(logits).sum(-1)

    def mean(self, parameters: Tensor) -> Tensor:
        return torch.tanh(parameters.float() / 2)  # 2 sigmoid(l) - 1

    def sample(self, parameters: Tensor, noise: Noise) -> Tensor:
        ones = noise.uniform(*parameters.shape[1:]) < parameters.float().sigmoid()
        return torch.where(ones, 1.0, -1.0)


class GaussianLikelihood(Likelihood):
    """A density: N(x; decoder's output, sigma^2), one sigma for all elements.

    With `sigma=None` it is the optimal one, sigma^2 = E|x - mean|^2 / D (Rybkin et al. 2021, "Simple and effective
    VAE training with calibrated decoders", arXiv:2006.13202, section 4): a moving average of the training batches'
    mean squared error, so that it is the same on any number of processes, and is saved. It follows the raw networks:
    with averaged ones (`--use_ema`) the bound that is saved is a little loose.

    Args:
        sigma: a fixed standard deviation, of values in [-1, 1]; None for the optimal one.
        momentum: weight of the newest step in the average of the optimal one, after a cumulative start.

    Raises:
        UsageError: sigma or momentum outside its range.
    """

    @register_to_config
    def __init__(self, sigma: float | None = None, momentum: float = 0.01) -> None:
        super().__init__()
        if sigma is not None and not (sigma > 0 and math.isfinite(sigma)):
            raise UsageError(f"--likelihood.sigma is {sigma}; it must be above 0.")
        if not 0 < momentum <= 1:
            raise UsageError(f"--likelihood.momentum is {momentum}; it must lie in (0, 1].")
        self.register_buffer("variance", torch.tensor(1.0 if sigma is None else sigma**2))

    def log_prob(self, parameters: Tensor, x: Tensor) -> Tensor:
        parameters, variance = parameters.float(), self.variance.float()
        # summed before it is scaled: a quarter of the passes over memory
        errors = mse_loss(parameters, x.expand_as(parameters), reduction="none").flatten(-3)
        return -0.5 * (errors.sum(-1) / variance + errors.shape[-1] * torch.log(2 * math.pi * variance))

    def elementwise(self, parameters: Tensor, x: Tensor) -> Tensor:
        variance = self.variance.float()
        return -0.5 * ((x - parameters) ** 2 / variance + torch.log(2 * math.pi * variance))

    def mean(self, parameters: Tensor) -> Tensor:
        return parameters.float()

    def sample(self, parameters: Tensor, noise: Noise) -> Tensor:
        return parameters.float() + self.variance.float().sqrt() * noise.normal(*parameters.shape[1:])

    def statistic(self, parameters: Tensor, x: Tensor) -> Tensor | None:
        """The mean squared error of each image."""
        if self.config.sigma is not None:
            return None
        return (x - parameters.detach().float()).square().flatten(-3).mean(-1)

    def update(self, statistic: Tensor) -> None:
        self.num_updates += 1
        weight = (1 / self.num_updates).clamp(min=self.config.momentum)
        self.variance.lerp_(statistic.to(self.variance.dtype).clamp(min=1e-8), weight.to(self.variance.dtype))


class DiscretizedLogisticLikelihood(Likelihood):
    """256 levels: each value has the mass that a mixture of logistic densities puts in its bin, the outermost bins
    being open (Salimans et al. 2017, "PixelCNN++", arXiv:1701.05517, eq. 2; Kingma et al. 2016, section 5).

    Channels are independent given z: the linear dependence between them of that paper's eq. 3 is not modeled.

    Args:
        num_mixtures: logistics in the mixture.
        min_log_scale: lower limit of ln s.
    """

    num_values = 256

    @register_to_config
    def __init__(self, num_mixtures: int = 1, min_log_scale: float = -7.0) -> None:
        super().__init__()
        if num_mixtures < 1:
            raise UsageError(f"--likelihood.num_mixtures is {num_mixtures}; it must be at least 1.")

    @property
    def parameters_per_channel(self) -> int:
        """Location and ln s of each logistic, and its weight where there are several."""
        m = self.config.num_mixtures
        return 2 if m == 1 else 3 * m

    def check(self, images: Tensor) -> None:
        bytes_ = (images.double() + 1) * 127.5
        if (bytes_ - bytes_.round()).abs().max() > 1e-2:
            raise UsageError(
                "A discretized logistic likelihood is over 256 levels, and the images hold values in between.\n"
                "Give images of 8 bits as k / 127.5 - 1, not resized or blurred in floating point."
            )

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights, locations, log scales: each (M, ..., C, H, W)."""
        parts = torch.stack(parameters.float().chunk(self.parameters_per_channel, dim=-3))
        m = self.config.num_mixtures
        weights = parts[2 * m :].log_softmax(0) if m > 1 else torch.zeros_like(parts[:1])
        return weights, parts[:m], parts[m : 2 * m].clamp(min=self.config.min_log_scale)

    def elementwise(self, parameters: Tensor, x: Tensor) -> Tensor:
        log_weights, locations, log_scales = self._split(parameters)
        return (log_weights + log_bin_mass(x, locations, log_scales)).logsumexp(0)

    def mean(self, parameters: Tensor) -> Tensor:
        """Return the mean of the logistics before binning, cut to [-1, 1]."""
        log_weights, locations, _ = self._split(parameters)
        return (log_weights.exp() * locations).sum(0).clamp(-1, 1)

    def sample(self, parameters: Tensor, noise: Noise) -> Tensor:
        log_weights, locations, log_scales = self._split(parameters)
        shape = locations.shape[2:]
        cumulative = log_weights.exp().cumsum(0)
        index = (noise.uniform(*shape) > cumulative[:-1]).sum(0, keepdim=True)
        u = noise.uniform(*shape).clamp(1e-6, 1 - 1e-6)
        x = locations.gather(0, index)[0] + log_scales.gather(0, index)[0].exp() * torch.logit(u)
        return ((x.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def log_bin_mass(x: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
    """ln of the mass of a logistic in the bin of each of 256 levels; x in [-1, 1].

    With a and b the bin's ends in units of the scale, ln(sigma(a) - sigma(b)) = ln sigma(a) + ln sigma(-b) +
    ln(1 - e^(b - a)), where a - b is the bin's width: so no two near numbers are subtracted, and no bin is so far
    out that an approximation must stand in for it.
    """
    scale = torch.exp(-log_scale)
    centered = (x - location) * scale
    half = HALF_BIN * scale
    below = logsigmoid(centered + half)  # ln of the mass below the bin's upper end
    above = logsigmoid(half - centered)  # ln of the mass above its lower end
    inside = below + above + torch.log(-torch.expm1(-2 * half))
    return torch.where(x < -1 + HALF_BIN, below, torch.where(x > 1 - HALF_BIN, above, inside))
