"""Training without the label of some images, which classifier-free guidance asks for."""

import torch
from torch import Tensor, nn

from hfgen import Batch, Noise, UsageError
from hfgen_diffusion.networks import null_class_of


class LabelDropout:
    """Replaces the labels of some images by the one after the last, which stands for none (Ho & Salimans 2022,
    arXiv:2207.12598).

    Args:
        network: class-conditional or not, wrapped as it may be.
        probability: how often a label is dropped; in [0, 1).
    """

    def __init__(self, network: nn.Module, probability: float) -> None:
        if not 0 <= probability < 1:
            raise UsageError(f"--objective.conditioning_dropout_prob is {probability}; it must lie in [0, 1).")
        self.null_class, self.probability = null_class_of(network), probability

    def __call__(self, batch: Batch, noise: Noise) -> Tensor | None:
        """Return the labels of a batch, (B,); None without any."""
        labels = batch.get("class_labels")
        if labels is None or self.null_class is None or not self.probability:
            return labels
        return torch.where(noise.uniform() < self.probability, self.null_class, labels)
