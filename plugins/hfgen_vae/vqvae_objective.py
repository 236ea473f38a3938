"""VQ-VAE's training: reconstruction, commitment, and the codebook's moving averages over the global batch."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils import gather, reduce
from torch import Tensor, nn

from hfgen import Batch, Diagnosis, Objective, Update, UsageError
from hfgen_vae.codebook import as_rows, commitment_loss, lowest, perplexity
from hfgen_vae.likelihoods import Likelihood

LOW_USAGE = 0.25  # fraction of the codes in use below which a user is warned
UNUSED = (
    "low codebook usage: the example images use {:.0%} of the {} codes.\n"
    "Try a longer training, a lower --quantizer.num_embeddings or --encoder.latent_dim, or a higher "
    "--quantizer.restart_threshold."
)


class VQVAEObjective(Objective):
    """-ln p(x|z_q) + commitment_cost |z_e - sg[e]|^2, eq. 3 of the paper without the term that the averages replace.

    Both terms are sums over one image, over its pixels and over all its h w D latent elements, and means over the
    batch. So the second is, like the first, in nats: z_e is held near e as by N(z_e; e, 1 / (2 commitment_cost)),
    whatever the image's size and the likelihood.

    Args:
        commitment_cost: beta; the paper's 0.25.

    Raises:
        UsageError: a negative commitment_cost.
    """

    def __init__(
        self,
        encoder: nn.Module,
        quantizer: Any,
        decoder: nn.Module,
        likelihood: Likelihood,
        commitment_cost: float = 0.25,
    ) -> None:
        if not (commitment_cost >= 0 and math.isfinite(commitment_cost)):
            raise UsageError(f"--objective.commitment_cost is {commitment_cost}; it must be at least 0.")
        self.encoder, self.quantizer, self.decoder, self.likelihood = encoder, quantizer, decoder, likelihood
        self.commitment_cost = commitment_cost
        likelihood.statistics = []  # of a step that did not end
        self.usages: list[Tensor] = []
        self.candidates: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: Batch) -> Iterator[Update]:
        """Yield the update of both networks."""
        x, labels = self.likelihood.observe(batch["pixel_values"], self.noise), batch.get("class_labels")
        z_e = self.encoder(x)
        z_q, codes = self.quantizer(z_e)
        parameters = self.decoder(z_q, labels)
        reconstruction = self.likelihood.log_prob(parameters, x).mean()
        commitment = commitment_loss(z_e, z_q.detach()).mean()
        self._remember(z_e.detach().float(), codes)
        self.likelihood.remember(parameters, x)
        rate = codes[0].numel() * math.log(self.quantizer.config.num_embeddings)
        metrics = {"elbo": reconstruction.detach() - rate, "commitment_loss": commitment.detach()}
        loss = self.commitment_cost * commitment - reconstruction
        yield Update(("encoder", "decoder"), loss, metrics)

    def _remember(self, z_e: Tensor, codes: Tensor) -> None:
        """Keep a micro-batch's n and s of each code, and vectors for codes that may have died."""
        vectors, num_codes = as_rows(z_e), self.quantizer.config.num_embeddings
        columns = torch.cat([torch.ones_like(vectors[:, :1]), vectors], dim=1)
        usage = columns.new_zeros(num_codes, columns.shape[1])
        self.usages.append(usage.index_add_(0, codes.flatten(), columns))
        self.candidates.append(lowest(self._lots(codes), vectors, num_codes))

    def _lots(self, codes: Tensor) -> Tensor:
        """Draw a random number for each vector from the global batch's noise: vectors are chosen by it, so that the
        same ones are chosen on any number of processes. It takes two draws, since 24 bits would often be equal."""
        high, low = self.noise.uniform(2, codes[0].numel()).double().unbind(1)
        return (high + low * 2**-24).flatten()

    def finish_step(self) -> dict[str, Tensor]:
        """Update the averages of the codebook and of the optimal sigma by all micro-batches and processes."""
        usage = reduce(torch.stack(self.usages).sum(0), "sum")
        lots, vectors = (gather(torch.cat(parts)) for parts in zip(*self.candidates, strict=True))
        candidates = lowest(lots, vectors, self.quantizer.config.num_embeddings)[1]
        restarted = self.quantizer.update(usage[:, 0], usage[:, 1:], candidates)
        self.likelihood.finish_step()
        self.usages, self.candidates = [], []
        return {"perplexity": perplexity(usage[:, 0]), "restarted_codes": restarted.float()}

    @classmethod
    def diagnose(cls, pipeline: Any, examples: Batch) -> Diagnosis:
        """Report how many codes the examples use, their perplexity, and the reconstructions' mean squared error."""
        counts = torch.zeros(pipeline.quantizer.config.num_embeddings, dtype=torch.int64)
        errors = []
        for x, labels in pipeline._parts(examples["pixel_values"], examples.get("class_labels"), None):
            codes = pipeline._codes(x)
            counts += torch.bincount(codes.flatten(), minlength=len(counts)).cpu()
            errors.append((pipeline.decode(codes, labels) - x).square().flatten(1).mean(1))
        usage = float((counts > 0).float().mean())
        possible = min(1.0, int(counts.sum()) / len(counts))  # few images cannot use many codes
        values: dict[str, float | list[float]] = {
            "codebook_usage": usage,
            "perplexity": float(perplexity(counts)),
            "reconstruction_mean_squared_error": float(torch.cat(errors).mean()),
            "restarts": int(pipeline.quantizer.num_restarts),
        }
        return Diagnosis(values, [UNUSED.format(usage, len(counts))] if usage < LOW_USAGE * possible else [])
