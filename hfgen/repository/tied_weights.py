"""Tied weights: tensors of a network that share memory under two names, which a file of safetensors holds once."""

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from hfgen.errors import UsageError


def require_untied(models: Mapping[str, nn.Module]) -> None:
    """Check that each network can be saved: no tensor has two names, those apart that transformers ties by itself.

    Raises:
        UsageError: one has; it names both, and the ways out.
    """
    for component, model in models.items():
        for names in tied(model):
            raise UsageError(
                f"The {component}'s {names[0]} and {names[1]} are one tensor, which cannot be saved under two names.\n"
                "Keep the module once and call it twice; or make the network a transformers PreTrainedModel that "
                "declares\nthe second name in `_tied_weights_keys`."
            )


def tied(model: nn.Module) -> Iterable[list[str]]:
    """Return the names of tensors that share memory, without those that transformers knows to be tied."""
    declared = getattr(model, "all_tied_weights_keys", {})
    places: dict[int, list[tuple[int, int, str]]] = {}
    for name, tensor in model.state_dict().items():
        if name not in declared and tensor.numel() and not tensor.is_meta and tensor.layout == torch.strided:
            start = tensor.data_ptr()
            length = 1 + sum((side - 1) * step for side, step in zip(tensor.shape, tensor.stride(), strict=True))
            place = start, start + length * tensor.element_size(), name
            places.setdefault(tensor.untyped_storage().data_ptr(), []).append(place)
    return [found for parts in places.values() for found in _overlapping(sorted(parts, key=_start)) if len(found) > 1]


def _overlapping(parts: list[tuple[int, int, str]]) -> Iterable[list[str]]:
    """Group (start, end, name) in the order of their starts; a group's parts overlap."""
    groups: list[list[str]] = []
    reached = 0
    for start, end, name in parts:
        if not groups or start >= reached:
            groups.append([])
        groups[-1].append(name)
        reached = max(reached, end)
    return groups


def _start(part: tuple[int, int, str]) -> int:
    return part[0]
