"""A loss or a weight that is not finite ends the training, before it becomes a checkpoint."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from hfgen import replicas
from hfgen.checkpoint import list_checkpoints
from hfgen.errors import CheckError


def require_finite(values: Mapping[str, float], step: int, steps: int, folder: Path | None) -> None:
    """Raise a CheckError of the first value that is not finite, among those of the `steps` steps up to `step`."""
    broken = [name for name, value in values.items() if not math.isfinite(value)]
    if not broken:
        return
    kept = list_checkpoints(folder)[-1:] if folder else []
    where = f"The last good checkpoint is {kept[0]}." if kept else "No checkpoint was written yet."
    raise CheckError(
        f"{broken[0]} is {values[broken[0]]} within the {steps} steps up to {step}; "
        f"the training stopped. {where}\nTry a lower --learning_rate, --max_grad_norm 1, or --mixed_precision no."
    )


def finite(network: nn.Module, shards_on: torch.device | None = None) -> bool:
    """Whether all parameters are: a finite loss may have had a gradient that was not.

    Args:
        shards_on: the device, where each process sees its own shards only; all must call it then.
    """
    here = all(bool(parameter.isfinite().all()) for parameter in _local(network))
    return here if shards_on is None else not replicas.highest([not here], shards_on)[0]


def _local(network: nn.Module) -> list[torch.Tensor]:
    return [p.to_local() if hasattr(p, "to_local") else p for p in network.parameters()]
