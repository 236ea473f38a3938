"""Masked diffusion's training: the network learns the symbols of masked places."""

from collections.abc import Iterator
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from hfgen import Batch, Diagnosis, Objective, Update, UsageError
from hfgen_text.curve import bound_of_sizes, equal_sizes
from hfgen_text.masking import counts_of, masked_places, mean_cross_entropy
from hfgen_text.symbols import log_probs_of
from hfgen_text.text_scheduler import TextScheduler

STEPS_SHOWN = (1, 4, 16, 64)


def predict(network: Any, scheduler: TextScheduler, ids: Tensor, class_labels: Tensor | None = None) -> Tensor:
    """Log-probabilities of every place's symbol given the visible ones, (B, L, V); the class stands in front."""
    inputs = ids if class_labels is None else torch.cat([scheduler.class_symbols(class_labels), ids], dim=1)
    logits = network(input_ids=inputs).logits[:, inputs.shape[1] - ids.shape[1] :]
    return log_probs_of(logits, scheduler.config.vocab_size, scheduler.never(ids.device))


class MaskedDiffusionObjective(Objective):
    """Mean cross-entropy of masked places, each number of places equally likely (Sahoo et al. 2024, arXiv:2406.07524).

    With all numbers of places, that is the negative ELBO in nats a symbol, and it does not depend on a schedule. A
    smaller range of shares trains better where time is short, and is not the bound.

    Args:
        min_share: smallest share of a text's places that is masked.
        max_share: largest share.
    """

    def __init__(
        self, transformer: nn.Module, scheduler: TextScheduler, min_share: float = 0.05, max_share: float = 0.65
    ) -> None:
        if not 0 <= min_share < max_share <= 1:
            raise UsageError(
                f"--objective.min_share {min_share} and --objective.max_share {max_share}: expected two shares of a "
                "text's places,\nthe first one smaller, in [0, 1]."
            )
        self.transformer, self.scheduler = transformer, scheduler
        self.min_share, self.max_share = min_share, max_share

    def training_step(self, batch: Batch) -> Iterator[Update]:
        """Mean over texts of the mean cross-entropy of their masked places, in float32.

        The number of places of a text is stratified over the global batch; it is masked by its own random numbers.
        """
        ids = batch["input_ids"]
        shares = self.min_share + (self.max_share - self.min_share) * self.noise.stratified()
        masked = masked_places(self.noise.uniform(ids.shape[1]), counts_of(shares, ids.shape[1]))
        hidden = ids.masked_fill(masked, self.scheduler.start_id)
        log_probs = predict(self.transformer, self.scheduler, hidden, batch.get("class_labels"))
        yield Update("transformer", mean_cross_entropy(log_probs, ids, masked).mean())

    @classmethod
    def diagnose(cls, pipeline: "DiffusionPipeline", examples: Batch) -> Diagnosis:
        """Measure the curve f(n) on some training texts, and what it bounds."""
        texts: Any = pipeline
        f = texts.curve(examples["input_ids"], examples.get("class_labels"))
        steps = sorted({min(count, len(f)) for count in (*STEPS_SHOWN, len(f))})
        bounds = [bound_of_sizes(f, equal_sizes(len(f), count)) / len(f) for count in steps]
        every = max(1, len(f) // 250)
        shown = [*range(1, len(f) + 1, every)]
        return Diagnosis(
            values={"nats_per_symbol": bounds[-1]},
            curves={"cross_entropy_by_masked_places": (shown, [f[n - 1] for n in shown])},
            tables={
                "bound_by_steps": (
                    ("steps", "nats per symbol"),
                    [[count, round(bound, 4)] for count, bound in zip(steps, bounds, strict=True)],
                )
            },
        )
