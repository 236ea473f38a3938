"""Validation texts, and the likelihood that is measured on them during a training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hfgen import LogLikelihood, UsageError
from hfgen_text.measures import bits_per
from hfgen_text.texts import Texts, TextSource, encoding_of

BATCH = 64


class HeldOutTexts:
    """Blocks of validation texts, disjoint and from the beginning; a part of them, evenly spaced, is measured.

    Args:
        texts: those of `validation_split` or `validation_fraction`.
        count: blocks that are measured, at most.
        metrics: `bits_per_byte` and `nats`.
    """

    def __init__(self, texts: Texts, count: int, metrics: Sequence[str]) -> None:
        self.texts, self.count, self.metrics = texts, count, metrics
        self._blocks: tuple[Tensor, Tensor | None, list[int]] | None = None

    def blocks(self, pipeline: Any) -> tuple[Tensor, Tensor | None, list[int]]:
        """Return ids of blocks, (B, L), their classes or None, and their numbers, which are their seeds."""
        if self._blocks is None:
            by_class = pipeline.num_classes is not None
            encoding = encoding_of(pipeline.tokenizer)
            source = TextSource(self.texts, encoding, pipeline.sequence_length, None, by_class)
            total = len(source)
            numbers = [i * total // min(total, self.count) for i in range(min(total, self.count))]
            labels = None if source.labels is None else source.labels[numbers]
            self._blocks = source.windows.fetch(numbers).long(), labels, numbers
        return self._blocks

    def measure(self, pipeline: Any, options: dict[str, Any]) -> dict[str, float]:
        """Return `validation_bits_per_byte` and `validation_nats`, the mean of a block."""
        found = log_likelihood(pipeline, *self.blocks(pipeline))
        sizes = torch.as_tensor(found.num_dimensions).expand(len(found.nats)).cpu().numpy()
        values = {"bits_per_byte": bits_per(found.nats.cpu().numpy(), sizes), "nats": float(found.nats.mean())}
        return {f"validation_{name}": values[name] for name in self.metrics}


def log_likelihood(pipeline: Any, ids: Tensor, labels: Tensor | None, seeds: Sequence[int]) -> LogLikelihood:
    """Measure ln p, or its bound, of blocks of texts in batches; each depends on itself and its seed alone.

    Raises:
        UsageError: there is no block.
    """
    if not len(ids):
        raise UsageError("There is no block of text to measure.")
    found: list[LogLikelihood] = []
    for start in range(0, len(ids), BATCH):
        part = slice(start, start + BATCH)
        of_part = None if labels is None else labels[part]
        found.append(pipeline.log_likelihood(ids[part].to(pipeline.device), of_part, seeds=seeds[part]))
    sizes = [np.broadcast_to(torch.as_tensor(each.num_dimensions).cpu().numpy(), len(each.nats)) for each in found]
    one = found[0]
    return LogLikelihood(
        torch.cat([each.nats.cpu() for each in found]),
        one.kind,
        torch.from_numpy(np.concatenate(sizes)),
        one.num_values,
        method=one.method,
        unit=one.unit,
        noun=one.noun,
    )
