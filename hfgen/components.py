"""Where diffusers finds the classes of a repository's components: among installed ones, and nowhere else.

`HFGenPipeline.load_config` rewrites each entry `[library, class]` of `model_index.json` to
`["hfgen.components", "library:class"]`, and diffusers then asks this module for that attribute, which is there only
if `redirect` has found it. It looks the base classes up here too (`getattr(library, "ModelMixin")`).
"""

import sys
from typing import Any

from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from transformers import PreTrainedModel

from hfgen.errors import LoadError
from hfgen.registry import list_families

CORE_MODULES = ("hfgen.scheduler",)
COMPONENT_BASES = (ModelMixin, SchedulerMixin, PreTrainedModel)
STACK = ("diffusers", "transformers")
_found: dict[str, type] = {}


def redirect(library: str, class_name: str, own_package: str | None = None) -> list[str]:
    """The entry that sends diffusers here for a class, which has been found; raises as `component_class`."""
    key = f"{library}:{class_name}"
    _found[key] = component_class(library, class_name, own_package)
    return [__name__, key]


def component_class(library: str, class_name: str, own_package: str | None = None) -> type:
    """The installed class that an index entry names; never imports a module because the entry names it.

    Args:
        own_package: of the pipeline class that its user has imported, registered or not.

    Raises:
        LoadError: the library belongs to no enabled family, or the class is no component.
    """
    module = _stack_module(library) if library in STACK else _family_module(library, own_package)
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, COMPONENT_BASES)) or found in COMPONENT_BASES:
        raise LoadError(
            f"No component class {class_name!r} in {library!r}, which the repository names.\n"
            "Its files were saved by another version of that package, or are not what they claim to be."
        )
    return found


def _stack_module(library: str) -> Any:
    import diffusers
    import transformers

    return {"diffusers": diffusers, "transformers": transformers}[library]


def _family_module(library: str, own_package: str | None) -> Any:
    """A module of an installed family's package: its entry point's own, or one that this has imported."""
    families = list_families()
    packages = {own_package, *(family.module.partition(".")[0] for family in families)}
    for family in families:
        if family.module == library:
            family.load()
    if library in sys.modules and (library in CORE_MODULES or library.partition(".")[0] in packages):
        return sys.modules[library]
    raise LoadError(
        f"The repository's components come from {library!r}, which no enabled family provides.\n"
        "Install the plugin it belongs to, if you trust it; `hfgen plugins` lists what is installed."
    )


def __getattr__(name: str) -> Any:
    if name not in _found:
        raise AttributeError(name)  # diffusers probes for base classes that are not here
    return _found[name]


__all__ = ["DiffusionPipeline", "ModelMixin", "PreTrainedModel", "SchedulerMixin", "component_class", "redirect"]
