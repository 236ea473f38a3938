"""Loading a pipeline to evaluate: one of a family, or any of diffusers' own."""

from typing import Any

import diffusers
import transformers
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from transformers import PreTrainedModel

from hfgen import registry
from hfgen.errors import LoadError
from hfgen.hub.download import local_folder
from hfgen.pipeline import HFGenPipeline
from hfgen.repository.checks import check_component, check_files
from hfgen.repository.components import STACK, component_class, pipeline_class_of
from hfgen.repository.index import CONFIG, MODEL_INDEX
from hfgen.repository.model_folder import ModelFolder
from hfgen.settings.options import component_choices

STACK_MODULES = {"diffusers": diffusers, "transformers": transformers}


def load_any(target: str, **kwargs: object) -> DiffusionPipeline:
    """Load a folder or repository as the family that saved it; as diffusers does, if no family has its class.

    Raises:
        LoadError, PluginError: as `HFGenPipeline.from_pretrained`; or a component comes from another library than
            diffusers and transformers.
    """
    folder = local_folder(target, **kwargs)
    foreign = _foreign(folder)
    return (
        HFGenPipeline.from_pretrained(folder, **kwargs)
        if foreign is None
        else _load_foreign(foreign, folder, **kwargs)
    )


def classes_at(target: str, **kwargs: Any) -> tuple[Any, Any]:
    """Find the classes of a model's pipeline and of its scheduler, from its index alone; None without a scheduler.

    Raises:
        LoadError, PluginError: the index is missing or damaged, or no enabled family provides a class.
    """
    folder = local_folder(target, [MODEL_INDEX, CONFIG], **kwargs)
    pipeline_class: Any = _foreign(folder)
    wrapper = registry.find_by_component(folder.single)
    if pipeline_class is None:
        pipeline_class = wrapper.load() if wrapper is not None else pipeline_class_of(folder.index)
    if folder.single is None and "scheduler" in folder.components:
        return pipeline_class, component_class(*folder.components["scheduler"])
    return pipeline_class, component_choices(pipeline_class).get("scheduler", (None,))[0]


def _foreign(folder: ModelFolder) -> type | None:
    """Return diffusers' own class that an index names, if no family has it."""
    if folder.single is not None:
        return None
    class_name = folder.index["_class_name"]
    own = "_hfgen" in folder.index or registry.find_by_class(class_name) is not None
    found = None if own else getattr(diffusers, class_name, None)
    return found if isinstance(found, type) and issubclass(found, DiffusionPipeline) else None


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
            if isinstance(class_, type) and issubclass(class_, (ModelMixin, SchedulerMixin, PreTrainedModel)):
                check_component(folder, name, class_, options.get("variant"))
            else:
                check_files(folder, name)
        return foreign.from_pretrained(str(folder), use_safetensors=True, **options)
