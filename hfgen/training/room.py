"""Room on the disk for the model, its checkpoints and what `datasets` copies: counted before the first step."""

import inspect
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hfgen.components import published_networks
from hfgen.data.sources import DataSource, data_bytes
from hfgen.errors import UsageError
from hfgen.training.trainer import Trainer


def disk_bytes(trainer: Trainer) -> tuple[int, int]:
    """Return the bytes of the model and of all checkpoints that exist at once: with those of the model and two.

    They are counted from the shapes of tensors, so that nothing is gathered, and the states of optimizers count before
    the first step.
    """
    a, networks = trainer.arguments, trainer.networks
    models = trainer.pipeline.models()
    weights = sum(_bytes(model) for model in published_networks(trainer.pipeline).values())
    emas = [name for of_profile in networks.profiles.values() for name in of_profile]
    others = sum(_bytes(models[name]) for name in [*emas, *networks.training_only])
    others += sum(_bytes(average.network) for average in networks.frozen_averages.values())
    others += sum(states_bytes(optimizer, models[name]) for name, optimizer in networks.optimizers.items())
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


def _bytes(model: torch.nn.Module) -> int:
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def states_bytes(optimizer: Any, model: torch.nn.Module) -> int:
    """Return the bytes of an optimizer's states: those after a step of its class on tensors without memory."""
    while not isinstance(optimizer, torch.optim.Optimizer) or hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    shapes = [parameter for parameter in model.parameters() if parameter.requires_grad]
    empty = [torch.nn.Parameter(torch.empty_like(parameter, device="meta")) for parameter in shapes]
    for parameter in empty:
        parameter.grad = torch.empty_like(parameter)
    taken = inspect.signature(type(optimizer)).parameters.keys() - {"fused", "foreach"}
    options = {name: value for name, value in optimizer.defaults.items() if name in taken}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            twin: Any = type(optimizer)(empty, **options)
            twin.step()
    except Exception:  # a class that takes other options, or reads values, as Adafactor does, whose states are small
        return 0
    found = [value for state in twin.state.values() for value in state.values()]
    return sum(value.nbytes for value in found if isinstance(value, torch.Tensor))


def megabytes(count: int) -> str:
    """Return a number of bytes in words.

    >>> megabytes(2_500_000)
    '2.5 MB'
    """
    return f"{count / 1e6:,.1f} MB"
