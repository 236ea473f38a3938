"""The installed classes that an index names; diffusers finds a repository's components here, and nowhere else.

`HFGenPipeline.load_config` rewrites each entry `[library, class]` of `model_index.json` to
`["hfgen.repository.components", "library:class"]`, and diffusers then asks this module for that attribute, which
exists only after `redirect`. It looks the base classes up here too (`getattr(library, "ModelMixin")`).
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from transformers import FeatureExtractionMixin, PreTrainedModel, PreTrainedTokenizerFast

from hfgen.errors import LoadError, PluginError
from hfgen.registry import FAMILIES, find_by_class, how_to_enable, left_out, list_families, misspelled_plugins
from hfgen.repository.index import check_entries, class_name_of, component_entries
from hfgen.settings.options import component_choices, is_pipeline

CORE_MODULES = ("hfgen.scheduler",)
ABSTRACT = (ModelMixin, SchedulerMixin, PreTrainedModel, FeatureExtractionMixin)
PROCESSORS = (PreTrainedTokenizerFast, FeatureExtractionMixin)
COMPONENT_BASES = (*ABSTRACT, *PROCESSORS)  # most tokenizers are saved as their base class
STACK = ("diffusers", "transformers")
_found: dict[str, type] = {}


def redirect(library: str, class_name: str, found: type) -> list[str]:
    """Entry that sends diffusers to this module for a class that `component_class` has found."""
    key = f"{library}:{class_name}"
    _found[key] = found
    return [__name__, key]


def pipeline_class_of(index: Mapping[str, Any]) -> Any:
    """Return the installed pipeline class that an index names.

    Raises:
        PluginError: no enabled family provides it, several do, or its plugin fails to import.
    """
    class_name = class_name_of(index)
    family = find_by_class(class_name)
    if family is None:
        raise PluginError(
            f"No installed family provides the pipeline class {class_name!r}{_provenance(index)}.\n"
            + _way_out("hfgen list models", class_name=class_name)
        )
    return family.load().class_for(index)


def _way_out(listing: str, class_name: str = "", package: str = "") -> str:
    """Say how to get the family of a class or package: enable the one that is left out, or install a plugin."""
    for family in left_out(FAMILIES):
        if family.class_name == class_name or family.module.partition(".")[0] == package:
            return f"It belongs to the family {family.name!r} of {family.source}, {how_to_enable(family)}"
    lines = [f"Install the plugin it belongs to, if you trust it; `{listing}` shows what is installed."]
    return "\n".join([*lines, *misspelled_plugins()])


def _provenance(index: Mapping[str, Any]) -> str:
    origin = index.get("_hfgen")
    if not isinstance(origin, dict) or "distribution" not in origin:
        return ""
    return f", which was saved by the distribution {str(origin['distribution'])!r}"


def classes_in(index: Mapping[str, Any], family: type) -> dict[str, type]:
    """Component -> the installed class that the checked index of a family's model names. Raises as below."""
    return component_classes(index, component_choices(family), family.__module__.partition(".")[0])


def component_classes(
    index: Mapping[str, Any], choices: Mapping[str, Sequence[type]], own_package: str | None = None
) -> dict[str, type]:
    """Component -> the installed class that a checked index names. Raises as `component_class`.

    Args:
        choices: component -> classes that the pipeline takes; any scheduler may take the place of a scheduler.

    Raises:
        LoadError: an entry is malformed, or names a class that the pipeline does not take.
    """
    check_entries(index, choices)
    entries = component_entries(index)
    inner = {name for name, classes in choices.items() if is_pipeline(classes[0])}
    found = {
        name: inner_class(library, class_name, choices[name])
        if name in inner
        else component_class(library, class_name, own_package)
        for name, library, class_name in entries
    }
    for name, class_ in found.items():
        known = tuple(choices.get(name, (class_,)))
        _check_choice(name, class_, (SchedulerMixin,) if issubclass(known[0], SchedulerMixin) else known)
    return found


def inner_class(library: str, class_name: str, choices: Sequence[type]) -> type:
    """Return the pipeline class that an index entry names: an installed family's, or one of the choices.

    Raises:
        LoadError: it is in another module than the entry says.
        PluginError: no enabled family provides it.
    """
    families = [choice for choice in choices if component_choices(choice)]  # not HFGenPipeline, which stands for any
    own = next((choice for choice in families if choice.__name__ == class_name), None)
    found: type = pipeline_class_of({"_class_name": class_name}) if own is None else own
    if found.__module__ != library:
        raise LoadError(
            f"The repository names the pipeline class {class_name!r} of {library!r}, which does not exist."
        )
    return found


def _check_choice(name: str, found: type, choices: tuple[type, ...]) -> None:
    if not issubclass(found, choices):
        names = " or ".join(choice.__name__ for choice in choices)
        raise LoadError(f"The component {name!r} is a {found.__name__}; it must be a {names}.")


def component_class(library: str, class_name: str, own_package: str | None = None) -> type:
    """Return the installed class that an index entry names; never import a module because the entry names it.

    Args:
        own_package: the package of a pipeline class that the user has imported, registered or not.

    Raises:
        LoadError: the library belongs to no enabled family, or the class is not a component.
    """
    module = _stack_module(library) if library in STACK else _family_module(library, own_package)
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, COMPONENT_BASES)) or found in ABSTRACT:
        raise LoadError(
            f"The repository names the component class {class_name!r} of {library!r}, which does not exist.\n"
            "It was saved by another version of that package, or its files are not what they claim to be."
        )
    return found


def _stack_module(library: str) -> Any:
    import diffusers
    import transformers

    return {"diffusers": diffusers, "transformers": transformers}[library]


def _family_module(library: str, own_package: str | None) -> Any:
    """Return a module of an installed family's package: the entry point's, or one that it has imported."""
    families = list_families()
    packages = {own_package, *(family.module.partition(".")[0] for family in families)}
    for family in families:
        if family.module == library:
            family.load()
    if library in sys.modules and (library in CORE_MODULES or library.partition(".")[0] in packages):
        return sys.modules[library]
    raise LoadError(
        f"The repository's components come from {library!r}, which no enabled family provides.\n"
        + _way_out("hfgen plugins", package=library.partition(".")[0])
    )


def __getattr__(name: str) -> Any:
    if name not in _found:
        raise AttributeError(name)  # diffusers also asks for base classes that this module does not have
    return _found[name]


__all__ = [
    "DiffusionPipeline",
    "FeatureExtractionMixin",
    "ModelMixin",
    "PreTrainedModel",
    "PreTrainedTokenizerFast",
    "SchedulerMixin",
    "component_class",
    "redirect",
]
