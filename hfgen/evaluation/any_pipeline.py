"""Loading a pipeline to evaluate: one of a family, or any of diffusers' own."""

from typing import Any

import diffusers
import transformers
from diffusers import DiffusionPipeline

from hfgen import registry
from hfgen.errors import LoadError
from hfgen.hub.download import local_folder
from hfgen.pipeline import HFGenPipeline
from hfgen.repository.checks import check_component, check_files
from hfgen.repository.components import COMPONENT_BASES, STACK
from hfgen.repository.model_folder import ModelFolder

STACK_MODULES = {"diffusers": diffusers, "transformers": transformers}


def load_any(target: str, **kwargs: object) -> DiffusionPipeline:
    """Load a folder or repository as the family that saved it; as diffusers does, if no family has its class.

    Raises:
        LoadError, PluginError: as `HFGenPipeline.from_pretrained`; or a component comes from another library than
            diffusers and transformers.
    """
    folder = local_folder(target, **kwargs)
    if folder.single is None:
        class_name = folder.index["_class_name"]
        own = "_hfgen" in folder.index or registry.find_by_class(class_name) is not None
        foreign = None if own else getattr(diffusers, class_name, None)
        if isinstance(foreign, type) and issubclass(foreign, DiffusionPipeline):
            return _load_foreign(foreign, folder, **kwargs)
    return HFGenPipeline.from_pretrained(folder, **kwargs)


def _load_foreign(foreign: Any, folder: ModelFolder, **kwargs: object) -> DiffusionPipeline:
    options: dict[str, Any] = {name: kwargs[name] for name in ("dtype", "variant") if kwargs.get(name) is not None}
    with folder.clear_errors():
        for name, (library, class_name) in folder.components.items():
            if library not in STACK:
                raise LoadError(
                    f"The component {name!r} comes from {library!r}; a {foreign.__name__} may only have components "
                    f"of {' and '.join(STACK)}."
                )
            class_ = getattr(STACK_MODULES[library], class_name, None)
            if isinstance(class_, type) and issubclass(class_, COMPONENT_BASES):
                check_component(folder, name, class_, options.get("variant"))
            else:
                check_files(folder, name)
        return foreign.from_pretrained(str(folder), use_safetensors=True, **options)
