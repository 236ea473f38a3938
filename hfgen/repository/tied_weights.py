"""Tied weights: one tensor of a network under two names, which a file of safetensors holds once."""

from collections.abc import Iterable, Mapping

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
    """Return the names of each tensor that has several, without those that transformers knows to be tied."""
    declared = getattr(model, "all_tied_weights_keys", {})
    names: dict[tuple[int, tuple[int, ...]], list[str]] = {}
    for name, tensor in model.state_dict().items():
        if name not in declared and tensor.numel() and not tensor.is_meta:
            names.setdefault((tensor.data_ptr(), tuple(tensor.shape)), []).append(name)
    return [found for found in names.values() if len(found) > 1]
