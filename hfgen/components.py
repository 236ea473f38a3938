"""The components of a pipeline, by dotted names: `prior.unet` is the component `unet` of the pipeline `prior` inside.

Whatever walks components does it here. diffusers saves and loads a pipeline inside a pipeline, but its methods stop at
the networks of the outer one; `ComposedPipeline` goes on to those inside.
"""

import copy
import functools
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import nn

from hfgen.errors import UsageError

MOST_LEVELS = 3  # of pipelines inside each other, the outermost included


# --- walking --------------------------------------------------------------------------------------------------------
def components(pipeline: DiffusionPipeline) -> dict[str, Any]:
    """Return dotted name -> component; pipelines inside give theirs, and absent optional components are None.

    Raises:
        UsageError: pipelines are more than `MOST_LEVELS` deep, or one is inside itself.
    """
    return dict(_walk(pipeline, MOST_LEVELS))


def _walk(pipeline: DiffusionPipeline, levels: int) -> Iterator[tuple[str, Any]]:
    _require_levels(pipeline, levels)
    for name, part in pipeline.components.items():
        if isinstance(part, DiffusionPipeline):
            yield from ((f"{name}.{inner}", component) for inner, component in _walk(part, levels - 1))
        else:
            yield name, part


def _require_levels(pipeline: DiffusionPipeline, levels: int) -> None:
    if levels == 0:
        raise UsageError(
            f"A {type(pipeline).__name__} is inside more than {MOST_LEVELS - 1} pipelines, or inside itself; "
            f"pipelines may be {MOST_LEVELS} deep."
        )


def networks(pipeline: DiffusionPipeline) -> dict[str, nn.Module]:
    """Return dotted name -> network. Raises as `components`."""
    return {name: part for name, part in components(pipeline).items() if isinstance(part, nn.Module)}


def inner_pipelines(pipeline: DiffusionPipeline) -> dict[str, Any]:
    """Return name -> pipeline, of the components that are pipelines."""
    return {name: part for name, part in pipeline.components.items() if isinstance(part, DiffusionPipeline)}


def all_pipelines(pipeline: DiffusionPipeline) -> dict[str, Any]:
    """Return dotted name -> pipeline: the pipeline itself, named "", and those inside, at all levels."""
    found = {"": pipeline}
    for name, inner in inner_pipelines(pipeline).items():
        found |= {f"{name}.{below}" if below else name: part for below, part in all_pipelines(inner).items()}
    return found


def declared(pipeline: DiffusionPipeline, attribute: str) -> list[str]:
    """Return the dotted names of the networks that a class attribute names, such as `frozen_components`.

    The name of a pipeline inside stands for its networks. What the class of a pipeline inside declares holds for its
    own networks.
    """
    found = []
    for place, owner in all_pipelines(pipeline).items():
        found += [f"{place}.{name}" if place else name for name in getattr(type(owner), attribute, ())]
    return [name for name in networks(pipeline) if any(name == it or name.startswith(f"{it}.") for it in found)]


def published_networks(pipeline: DiffusionPipeline) -> dict[str, nn.Module]:
    """Return the networks that are saved with a pipeline: all but those that only training uses."""
    left_out = declared(pipeline, "training_only_components")
    return {name: network for name, network in networks(pipeline).items() if name not in left_out}


def absent(pipeline: DiffusionPipeline) -> list[str]:
    """Return the dotted names of components that only training uses and that a saved pipeline lacks.

    A pipeline inside that is frozen needs none.
    """
    frozen = set(declared(pipeline, "frozen_components"))
    found = []
    for place, owner in all_pipelines(pipeline).items():
        own = {name for name in networks(pipeline) if not place or name.startswith(f"{place}.")}
        if not own <= frozen:
            names = [n for n in getattr(type(owner), "training_only_components", ()) if owner.components[n] is None]
            found += [f"{place}.{name}" if place else name for name in names]
    return found


def with_networks(pipeline: DiffusionPipeline, models: Mapping[str, Any]) -> dict[str, Any]:
    """Return the components, with other networks in their places; a pipeline inside is a copy that holds them.

    Args:
        models: dotted name -> network.
    """
    found = dict(pipeline.components)
    for name, part in found.items():
        if isinstance(part, DiffusionPipeline):
            below = {n.removeprefix(f"{name}."): model for n, model in models.items() if n.startswith(f"{name}.")}
            found[name] = copied_with(part, with_networks(part, below)) if below else part
        else:
            found[name] = models.get(name, part)
    return found


def copied_with(pipeline: Any, parts: Mapping[str, Any]) -> Any:
    """Copy a pipeline, with other attributes; its config stays, so that the components are saved by their classes."""
    copied = copy.copy(pipeline)
    copied.__dict__.update(parts)  # diffusers' `__setattr__` would register them
    return copied


def weights_sha256(models: Mapping[str, nn.Module]) -> str:
    """Hash the tensors of networks with their names: equal whether they were just trained or loaded."""
    digest = hashlib.sha256()
    for component, model in sorted(models.items()):
        for name, tensor in sorted(model.state_dict().items()):
            data = tensor.detach().cpu().contiguous()
            digest.update(f"{component}.{name} {data.dtype} {tuple(data.shape)}".encode())
            digest.update(data.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


# --- what diffusers does with the networks of a pipeline ------------------------------------------------------------
def _and_inside(name: str) -> Any:
    """Return diffusers' method of this name, which is then called on the pipelines inside too."""
    original = getattr(DiffusionPipeline, name)

    @functools.wraps(original)
    def method(self: DiffusionPipeline, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        for inner in inner_pipelines(self).values():
            getattr(inner, name)(*args, **kwargs)
        return result

    return method


class ComposedPipeline(DiffusionPipeline):
    """A `DiffusionPipeline` whose components may be pipelines, up to `MOST_LEVELS` deep."""

    to = _and_inside("to")
    remove_all_hooks = _and_inside("remove_all_hooks")
    maybe_free_model_hooks = _and_inside("maybe_free_model_hooks")
    enable_sequential_cpu_offload = _and_inside("enable_sequential_cpu_offload")
    enable_group_offload = _and_inside("enable_group_offload")
    reset_device_map = _and_inside("reset_device_map")
    set_attention_slice = _and_inside("set_attention_slice")
    set_use_memory_efficient_attention_xformers = _and_inside("set_use_memory_efficient_attention_xformers")
    set_progress_bar_config = _and_inside("set_progress_bar_config")

    def register_modules(self, **kwargs: Any) -> None:
        """Set components, as diffusers does.

        Raises:
            UsageError: pipelines would be too deep.
        """
        for part in kwargs.values():
            if isinstance(part, DiffusionPipeline):
                for _ in _walk(part, MOST_LEVELS - 1):
                    pass
        super().register_modules(**kwargs)

    def enable_model_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        """Offload as diffusers does, each pipeline by its own class's `model_cpu_offload_seq`."""
        if self._has_networks or not inner_pipelines(self):
            super().enable_model_cpu_offload(*args, **kwargs)
        for inner in inner_pipelines(self).values():
            inner.enable_model_cpu_offload(*args, **kwargs)

    @property
    def _has_networks(self) -> bool:
        return any(isinstance(part, nn.Module) for part in self.components.values())

    @property
    def device(self) -> torch.device:
        """The device of its networks, rather an accelerator than the CPU where they are on several."""
        found = [super().device] if self._has_networks else []
        found += [inner.device for inner in inner_pipelines(self).values()]
        return next((d for d in found if d.type not in ("cpu", "meta")), found[0] if found else super().device)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of its first network."""
        inner = list(inner_pipelines(self).values())
        return super().dtype if self._has_networks or not inner else inner[0].dtype

    @property
    def _execution_device(self) -> torch.device:
        inner = list(inner_pipelines(self).values())
        return super()._execution_device if self._has_networks or not inner else inner[0]._execution_device
