"""Muon for a network's matrices and AdamW for its other weights, in the form of one optimizer."""

from collections.abc import Iterable
from typing import Any

import torch

Group = dict[str, Any]


class MuonWithAdamW(torch.optim.Optimizer):
    """Steps groups of matrices by Muon (Jordan et al. 2024) and the other groups by AdamW.

    Both share this optimizer's groups and states, so that schedules, checkpoints and FSDP2, which puts shards in the
    place of parameters, see one optimizer.
    """

    def __init__(self, matrices: Iterable[Group], others: Iterable[Group]) -> None:
        self.muon = torch.optim.Muon(list(matrices))
        self.parts: list[torch.optim.Optimizer] = [self.muon]
        if others := list(others):
            self.parts.append(torch.optim.AdamW(others, fused=True))
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        first = len(self.muon.param_groups)
        for part, groups in zip(self.parts, (self.param_groups[:first], self.param_groups[first:]), strict=False):
            part.param_groups, part.state = groups, self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over groups and states, as `load_state_dict` does."""
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()
