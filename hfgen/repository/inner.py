"""Loading pipelines that are inside a pipeline: diffusers would load one too, but hand it none of the arguments."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from hfgen.errors import UsageError
from hfgen.repository.checks import FETCHING, LOADING
from hfgen.repository.model_folder import ModelFolder
from hfgen.repository.weights import variant_of
from hfgen.settings.options import is_pipeline


def load_inner(folder: ModelFolder, classes: Mapping[str, Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Load the components of a checked folder that are pipelines.

    Args:
        classes: component -> class.
        kwargs: those of `from_pretrained`.
    """
    inside = {name: folder.inside(name) for name, class_ in classes.items() if is_pipeline(class_)}
    return {
        name: classes[name].from_pretrained(inner, **inner_arguments(kwargs, inner)) for name, inner in inside.items()
    }


def inner_arguments(kwargs: Mapping[str, Any], folder: ModelFolder) -> dict[str, Any]:
    """Arguments of `from_pretrained` for a pipeline inside, from those of the one around it.

    Args:
        folder: of the pipeline inside, whose name is that of the component.

    Raises:
        UsageError: diffusers would place each pipeline without the others.
    """
    if kwargs.get("device_map") == "balanced":
        raise UsageError("device_map='balanced' cannot place pipelines inside a pipeline; name a device instead.")
    found = {name: value for name, value in kwargs.items() if name in (*LOADING, "verify") and name not in FETCHING}
    for name in ("dtype", "torch_dtype"):
        if isinstance(kwargs.get(name), Mapping):
            found[name] = _inner_dtypes(kwargs[name], folder.name)
    variant = kwargs.get("variant")
    if variant and not any(variant_of(path.name) == variant for path in folder.path.rglob("*.safetensors")):
        del found["variant"]
    return found


def _inner_dtypes(dtypes: Mapping[str, torch.dtype], name: str) -> dict[str, torch.dtype]:
    """
    >>> _inner_dtypes({"default": torch.float16, "prior": torch.float32, "prior.unet": torch.bfloat16}, "prior")
    {'default': torch.float32, 'unet': torch.bfloat16}
    """
    below = {key.removeprefix(f"{name}."): value for key, value in dtypes.items() if key.startswith(f"{name}.")}
    default = dtypes.get(name, dtypes.get("default"))
    return {**({} if default is None else {"default": default}), **below}


def is_variant_of(folder: ModelFolder, names: Iterable[str], variant: str | None) -> bool:
    """Return True if one of these components has weights of a variant."""
    files = (path.name for name in names for path in folder.place(name).glob("*.safetensors"))
    return variant is not None and any(variant_of(file) == variant for file in files)
