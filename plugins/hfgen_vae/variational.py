"""The base of VAEs with a Gaussian posterior, whatever their networks: latents, bounds, diagnosis."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from hfgen import (
    Batch,
    Diagnosis,
    HFGenPipeline,
    LogLikelihood,
    PriorScheduler,
    SeededNoise,
    bits_per_dim,
    check_images,
    check_latents,
    check_num_samples,
    eval_mode,
    importance_weighted_bound,
    labels_for,
    noise_for,
)
from hfgen_vae.bounds import draw, flat, kl_divergence, log_weights
from hfgen_vae.likelihoods import Likelihood

ACTIVE = 0.01  # variance above which a latent's posterior mean counts as active (Burda et al. 2016, section 5)
ELEMENTS = 2**19  # image elements in one pass of the decoder, of many importance samples: what a cache holds


class VariationalPipeline(HFGenPipeline):
    """A VAE: x ~ p(x|z), z ~ N(0, 1), with q(z|x) = N(mean, e^logvar).

    A subclass says what its networks give: `posterior` and `likelihood_parameters`. Drawn images are the means of
    p(x|z).
    """

    likelihood: Likelihood
    scheduler: PriorScheduler

    def posterior(self, x: Tensor, class_labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x), float32, for x as the likelihood observes it."""
        raise NotImplementedError

    def likelihood_parameters(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """The decoder's output, (B, P * C, H, W)."""
        raise NotImplementedError

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        raise NotImplementedError

    @torch.no_grad()
    def decode(self, latents: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """E[x|z] of each latent, in [-1, 1] up to what a Gaussian mean overshoots.

        Without gradients, which `likelihood_parameters` has.

        Raises:
            UsageError: latents of another shape, or class labels that do not fit.
        """
        check_latents(latents, self.scheduler.config.latent_shape)
        labels = self._labels_of(latents, class_labels)
        return self.likelihood.mean(self.likelihood_parameters(latents.to(self._execution_device), labels))

    @torch.no_grad()
    def encode(self, images: Tensor, class_labels: Tensor | None = None, seeds: Sequence[int] | None = None) -> Tensor:
        """The posterior mean of each image in [-1, 1].

        Args:
            seeds: of the binarization of each image, where the likelihood draws one; default 0, 1, 2 ...
        """
        x = self.observe(images, self._image_noise(images, seeds))
        with eval_mode(self.models().values()):
            return self.posterior(x, self._labels_of(x, class_labels))[0]

    def observe(self, images: Tensor, noise: SeededNoise) -> Tensor:
        """Return the images' values as the likelihood takes them.

        Raises:
            UsageError: images of another shape or range.
        """
        check_images(images, self.image_shape)
        return self.likelihood.observe(images.to(self._execution_device, torch.float32), noise)

    def _image_noise(self, images: Tensor, seeds: Sequence[int] | None) -> SeededNoise:
        return noise_for(len(images), seeds, self._execution_device)

    def _labels_of(self, batch: Tensor, class_labels: Tensor | None) -> Tensor | None:
        return labels_for(len(batch), class_labels, self.num_classes, self._execution_device)

    @property
    def is_density(self) -> bool:
        """True for a continuous likelihood."""
        return self.likelihood.num_values is None

    @torch.no_grad()
    def log_likelihood(
        self,
        images: Tensor,
        class_labels: Tensor | None = None,
        seeds: Sequence[int] | None = None,
        num_importance_samples: int = 100,
    ) -> LogLikelihood:
        """The importance-weighted bound L_K of ln p(x) (Burda et al. 2016, arXiv:1509.00519, eq. 8).

        The result for an image depends on the image, its seed and K alone. The encoder sees each image once.

        Args:
            images: (B, C, H, W) in [-1, 1].
            seeds: of each image's latents, and of its binarization; default 0, 1, 2 ...
            num_importance_samples: K; 1 is an unbiased draw of the ELBO.

        Raises:
            UsageError: images of another shape, of a wrong range, or of values that the likelihood gives no mass.
        """
        check_num_samples(num_importance_samples)
        noise = self._image_noise(images, seeds)
        x = self.observe(images, noise)
        self.likelihood.check(x)
        given = self._labels_of(x, class_labels)
        with eval_mode(self.models().values()):
            nats = [
                importance_weighted_bound(self._weights_of(x[rows], labels, part), num_importance_samples)
                for rows, labels, part in _parts(x, given, noise, num_importance_samples)
            ]
        return LogLikelihood(
            torch.cat(nats), "lower bound", x[0].numel(), self.likelihood.num_values, num_importance_samples
        )

    def _weights_of(self, x: Tensor, class_labels: Tensor | None, noise: SeededNoise):  # type: ignore[no-untyped-def] # noqa: ANN202
        mean, logvar = self.posterior(x, class_labels)

        def log_w(count: int) -> Tensor:
            z = draw(mean, logvar, noise.normal(count, *mean.shape[1:]))
            parts = z.split(max(1, ELEMENTS // x.numel()), dim=1)
            parameters = (flat(self.likelihood_parameters, part, class_labels) for part in parts)
            log_prob = [self.likelihood.log_prob(p, x[:, None]) for p in parameters]
            return log_weights(torch.cat(log_prob, dim=1), z, mean, logvar)

        return log_w

    @torch.no_grad()
    def elbo(
        self, images: Tensor, class_labels: Tensor | None = None, seeds: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """(ln p(x|z), KL of each dimension) of one latent of each image, in nats: (B,) and (B, ...)."""
        noise = self._image_noise(images, seeds)
        x = self.observe(images, noise)
        labels = self._labels_of(x, class_labels)
        with eval_mode(self.models().values()):
            mean, logvar = self.posterior(x, labels)
            z = draw(mean, logvar, noise.normal(1, *mean.shape[1:]))[:, 0]
            parameters = self.likelihood_parameters(z, labels)
        return self.likelihood.log_prob(parameters, x), kl_divergence(mean, logvar)


def _parts(
    x: Tensor, class_labels: Tensor | None, noise: SeededNoise, num_samples: int
) -> Iterator[tuple[slice, Tensor | None, SeededNoise]]:
    """Yield the images in parts that fit a cache, with the labels and the noise of each."""
    size = max(1, ELEMENTS // (x[0].numel() * min(num_samples, 100)))
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        labels = None if class_labels is None else class_labels[rows]
        yield rows, labels, SeededNoise(noise.generators[rows], noise.device)


@torch.no_grad()
def diagnose(pipeline: VariationalPipeline, examples: Batch) -> Diagnosis:
    """Active units, KL per dimension (per channel where latents are maps), ELBO and reconstruction error."""
    images, labels = examples["pixel_values"], examples.get("class_labels")
    log_prob, kl, means, errors = [], [], [], []
    for start in range(0, len(images), 100):
        rows = slice(start, start + 100)
        part, seeds = images[rows], range(start, start + len(images[rows]))
        label = None if labels is None else labels[rows]
        means.append(pipeline.encode(part, label, seeds))
        x = pipeline.observe(part, pipeline._image_noise(part, seeds))
        errors.append((pipeline.decode(means[-1], label) - x).square().flatten(1).mean(1))
        terms = pipeline.elbo(part, label, seeds)
        log_prob.append(terms[0])
        kl.append(terms[1])
    per_dimension = torch.cat(kl).mean(0)
    active = int((torch.cat(means).var(0) > ACTIVE).sum())
    listed = per_dimension.flatten(1).sum(1) if per_dimension.ndim > 1 else per_dimension
    elbo = torch.cat(log_prob).mean() - per_dimension.sum()
    values: dict[str, float | list[float]] = {
        "images": len(images),
        "active_units": active,
        "latent_dimensions": per_dimension.numel(),
        "kl_divergence": float(per_dimension.sum()),
        "elbo": float(elbo),
        "reconstruction_mean_squared_error": float(torch.cat(errors).mean()),
        f"kl_per_{'channel' if per_dimension.ndim > 1 else 'dimension'}": [round(kl, 5) for kl in listed.tolist()],
    }
    if pipeline.likelihood.num_values is not None:
        values["elbo_bits_per_dim"] = float(bits_per_dim(elbo, images[0].numel()))
    if hasattr(pipeline.likelihood, "variance"):
        values["sigma"] = float(pipeline.likelihood.variance.float().sqrt())
    return Diagnosis(values, [COLLAPSED.format(values["latent_dimensions"])] if active == 0 else [])


COLLAPSED = (
    "posterior collapse: none of the {} latent dimensions says anything about the image.\n"
    "Try --beta_scheduler.warmup_steps 5000, --beta_scheduler.free_bits 0.1, or another --likelihood.class_name."
)
