"""Means of what is logged between two lines of metrics."""

from collections import Counter
from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class RunningMeans:
    """Sums on the device; they are read, and then only, when a line of metrics is due."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: Counter[str] = Counter()

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Take in scalars; an objective may yield one name many times in a step."""
        for name, value in metrics.items():
            self.counts[name] += 1
            if name in self.sums:
                self.sums[name] += value.detach()
            else:
                self.sums[name] = value.detach().clone()

    def read(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The mean of each name since the last reading, `reduce` making it one of all processes."""
        names = sorted(self.sums)
        if not names:
            return {}
        means = reduce(torch.stack([self.sums[name].float() / self.counts[name] for name in names]))
        self.sums, self.counts = {}, Counter()
        return dict(zip(names, means.tolist(), strict=True))
