"""The terms of a VAE's bounds, with diagonal Gaussian posteriors q(z|x) = N(mean, exp(logvar)) and a prior N(0, 1)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, e^logvar) || N(0, 1)) of each image and dimension, in nats; (Kingma & Welling 2014, appendix B).

    >>> kl_divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.0, -2 * math.log(2)]))
    tensor([0.5000, 0.3181])
    """
    mean, logvar = mean.float(), logvar.float()
    return 0.5 * (mean**2 + torch.expm1(logvar) - logvar)


def log_normal(z: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """ln N(z; mean, e^logvar) of each element."""
    return -0.5 * ((z - mean) ** 2 * torch.exp(-logvar) + logvar + LOG_2PI)


def log_weights(log_prob: Tensor, z: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
    """ln w = ln p(x|z) + ln p(z) - ln q(z|x), (B, K): of K latents of each image.

    Args:
        log_prob: ln p(x|z), (B, K).
        z: (B, K, ...).
        mean, logvar: (B, ...).
    """
    log_prior = -0.5 * (z**2 + LOG_2PI)
    log_posterior = log_normal(z, mean[:, None], logvar[:, None])
    return log_prob + (log_prior - log_posterior).flatten(2).sum(2)


def elbo_loss(log_prob: Tensor, kl: Tensor, regularizer: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The training loss -E ln p(x|z) + regularizer, and what is logged of the bound: means over images.

    Args:
        log_prob: ln p(x|z), (B,).
        kl: of each image and dimension, (B, ...).
        regularizer: what stands for the KL divergence in the loss, a scalar.
    """
    reconstruction, kl_mean = log_prob.mean(), kl.detach().sum() / len(kl)
    metrics = {"elbo": reconstruction.detach() - kl_mean, "kl_divergence": kl_mean}
    return regularizer - reconstruction, metrics


def draw(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """z = mean + sigma * noise, (B, K, ...), for noise (B, K, ...)."""
    return mean[:, None] + torch.exp(0.5 * logvar)[:, None] * noise


def flat(function: Callable[..., Tensor], z: Tensor, class_labels: Tensor | None) -> Tensor:
    """Call a decoder, which takes one latent a row, on K latents of each image: (B, K, ...) -> (B, K, ...)."""
    labels = None if class_labels is None else class_labels.repeat_interleave(z.shape[1])
    return function(z.flatten(0, 1), labels).unflatten(0, z.shape[:2])
