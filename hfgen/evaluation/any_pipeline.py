"""Load any pipeline to measure: of a family, or one of diffusers' own."""

from typing import Any

import diffusers
import transformers
from diffusers import DiffusionPipeline

from hfgen import registry
from hfgen.errors import LoadError
from hfgen.hub.download import local_folder
from hfgen.pipeline import HFGenPipeline
from hfgen.repository.checks import check_component, check_files, clear_errors
from hfgen.repository.components import COMPONENT_BASES, STACK
from hfgen.repository.index import component_entries, read_index, single_component

STACK_MODULES = {"diffusers": diffusers, "transformers": transformers}


def load_any(target: str, **kwargs: object) -> DiffusionPipeline:
    """Load a folder or repository as the family that saved it; a class of no family as diffusers loads it.

    Raises:
        LoadError, PluginError: as `HFGenPipeline.from_pretrained`; or a component of another library than diffusers
            and transformers.
    """
    folder = local_folder(target, **kwargs)
    if single_component(folder) is None:
        index = read_index(folder)
        own = isinstance(index.get("_hfgen"), dict) or registry.find_by_class(index["_class_name"]) is not None
        foreign = None if own else getattr(diffusers, index["_class_name"], None)
        if isinstance(foreign, type) and issubclass(foreign, DiffusionPipeline):
            return _load_foreign(foreign, target, folder, index, **kwargs)
    return HFGenPipeline.from_pretrained(target, **kwargs)


def _load_foreign(
    foreign: Any, target: str, folder: str, index: dict[str, Any], **kwargs: object
) -> DiffusionPipeline:
    options: dict[str, Any] = {name: kwargs[name] for name in ("dtype", "variant") if kwargs.get(name) is not None}
    with clear_errors(target):
        for name, library, class_name in component_entries(index):
            if library not in STACK:
                raise LoadError(
                    f"The component {name!r} is of {library!r}; a {foreign.__name__} may only have those of {STACK}."
                )
            class_ = getattr(STACK_MODULES[library], class_name, None)
            if isinstance(class_, type) and issubclass(class_, COMPONENT_BASES):
                check_component(folder, name, class_, options.get("variant"))
            else:
                check_files(folder, name)
        return foreign.from_pretrained(folder, use_safetensors=True, **options)
