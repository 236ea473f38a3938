"""Room on the disk for the model, its checkpoints and what `datasets` copies: counted before the first step."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from hfgen.components import published_networks
from hfgen.data.sources import DataSource, data_bytes
from hfgen.errors import UsageError
from hfgen.training.trainer import Trainer


def disk_bytes(trainer: Trainer) -> tuple[int, int]:
    """Return the bytes of the model and of all checkpoints that exist at once: with those of the model and two.

    Collective: the states of an optimizer may lie in shards.
    """
    a = trainer.arguments
    with trainer.networks.gathered():
        weights = sum(_bytes(model.state_dict()) for model in published_networks(trainer.pipeline).values())
        others = sum(_bytes(tensors) for tensors in trainer.networks.tensors().values())
    written = -(-trainer.last_step // a.checkpointing_steps) if a.checkpointing_steps else 0
    kept = min(written, a.checkpoints_total_limit + 1) if a.checkpoints_total_limit else written
    model = weights * max(len(trainer.networks.profiles), 1)  # each profile of EMA is a model
    return model + kept * (weights + others), model + min(kept, 2) * (weights + others)


def require_room(needed: tuple[int, int], folder: Path, say: Callable[[str], Any]) -> None:
    """Refuse a run whose model and first checkpoints have no room; warn where not all checkpoints have.

    Args:
        needed: what `disk_bytes` returns.

    Raises:
        UsageError: it names the folder, what is free and what is needed.
    """
    whole, least = needed
    place = next(parent for parent in [folder, *folder.absolute().parents] if parent.exists())
    free = shutil.disk_usage(place).free
    if free < least:
        raise UsageError(
            f"The disk of {folder} has {megabytes(free)} free; the model and its first checkpoints need "
            f"{megabytes(least)}.\nFree some, or choose another by --output_dir."
        )
    if free < whole:
        say(
            f"warning: the disk of {folder} has {megabytes(free)} free; the model and all checkpoints need "
            f"{megabytes(whole)}. --checkpoints_total_limit keeps fewer."
        )


def describe_data(trainer: Trainer) -> str:
    """Say what the data take on the disk beside where they are: nothing, or a copy in a cache."""
    size, cache = data_bytes(DataSource.of(trainer.arguments), trainer.arguments.streaming)
    if cache is None:
        return f"; the data, {megabytes(size)}, are read where they are, without a copy in a cache" if size else ""
    return f"; {megabytes(size)} for a copy of the data in the cache, {cache}"


def _bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def megabytes(count: int) -> str:
    """Return a number of bytes in words.

    >>> megabytes(2_500_000)
    '2.5 MB'
    """
    return f"{count / 1e6:,.1f} MB"
