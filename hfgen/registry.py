"""Entry points -> families.

A family is a pipeline class registered by an entry point of the group `hfgen.families`. Its name is what people
type; the class name (`ep.attr`) is what `model_index.json` holds. Both are metadata, so that listing imports
nothing, and a plugin that fails to import hurts only who asks for it.
"""

import functools
import importlib.metadata
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hfgen.errors import PluginError, UsageError, did_you_mean

GROUP = "hfgen.families"
COMPONENTS = "hfgen.components"  # class of a single model -> the family whose from_pretrained wraps it
EXTRACTORS = "hfgen.extractors"  # networks in whose features images are compared: hfgen/evaluation/extractors.py
CONVERTERS = "hfgen.converters"  # readers of what other libraries saved: hfgen/conversion/converter.py
BUILT_IN = "hfgen"  # the distribution whose names nobody else can take


@dataclass(frozen=True)
class Family:
    """A registered family: metadata only, until `load()` imports its class."""

    name: str
    class_name: str
    module: str
    distribution: str
    version: str
    pipeline_class: type | None = None  # given where the family was registered by hand

    @property
    def is_built_in(self) -> bool:
        return self.distribution == BUILT_IN

    @property
    def source(self) -> str:
        return f"{self.distribution} {self.version}".strip()

    def load(self) -> type:
        """Import and return the pipeline class.

        Raises:
            PluginError: the module fails to import, or holds no such pipeline class.
        """
        if self.pipeline_class is not None:
            return self.pipeline_class
        try:
            entry_point = importlib.metadata.EntryPoint(self.name, f"{self.module}:{self.class_name}", GROUP)
            pipeline_class = entry_point.load()
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"Family {self.name!r} of {self.source} failed to import: {type(error).__name__}: {error}\n"
                f"Mend or remove that distribution, or leave it out with HFGEN_PLUGINS."
            ) from error
        _require_pipeline(self, pipeline_class)
        _register_models(pipeline_class)
        return pipeline_class


def list_families() -> list[Family]:
    """All enabled families, built-ins first, conflicting ones included; imports none of them."""
    entry_points = importlib.metadata.entry_points(group=GROUP)
    # a distribution's metadata are parsed each time that they are asked for
    distributions = {distribution: _distribution(distribution) for distribution in {e.dist for e in entry_points}}
    installed = [_from_entry_point(entry_point, *distributions[entry_point.dist]) for entry_point in entry_points]
    enabled = _enabled_distributions()
    families = [f for f in installed if f.is_built_in or enabled is None or f.distribution in enabled]
    return sorted([*families, *_registered.values()], key=lambda f: (not f.is_built_in, f.name, f.distribution))


def enabled_entry_points(group: str) -> list[importlib.metadata.EntryPoint]:
    """Those that HFGEN_PLUGINS allows, by name; a built-in's name is nobody else's; imports none of them."""
    enabled = _enabled_distributions()
    unique = {(e.name, e.value): e for e in importlib.metadata.entry_points(group=group)}.values()
    found = [(e, _distribution(e.dist)[0]) for e in unique]
    built_in = {e.name for e, distribution in found if distribution == BUILT_IN}
    allowed = [
        e
        for e, distribution in found
        if distribution == BUILT_IN or (e.name not in built_in and (enabled is None or distribution in enabled))
    ]
    return sorted(allowed, key=lambda e: e.name)


def get_family(name: str) -> Family:
    """The family that `name` stands for.

    Raises:
        PluginError: no enabled distribution registers the name, or two do.
    """
    families = list_families()
    named = _undisputed([f for f in families if f.name == name], f"the family name {name!r}")
    if named is None:
        raise PluginError(
            f"No family is called {name!r}.{did_you_mean(name, {f.name for f in families})}\n"
            "`hfgen list models` shows what is installed."
        )
    clash = conflict(named, families)
    if clash:
        raise PluginError(
            f"Family {name!r} of {named.source} {clash}: one of the two must go, or be left out with HFGEN_PLUGINS."
        )
    return named


def find_by_class(class_name: str) -> Family | None:
    """The family whose pipeline class bears this name, as `model_index.json` stores it; None if there is none."""
    named = [f for f in list_families() if f.class_name == class_name]
    return _undisputed(named, f"the pipeline class {class_name!r}")


def find_by_component(class_name: str | None) -> Family | None:
    """The family that wraps a single model of this class, as a bare `config.json` names it; None if there is none."""
    wrappers = {e.value for e in importlib.metadata.entry_points(group=COMPONENTS) if e.name == class_name}
    found = [f for f in list_families() if f"{f.module}:{f.class_name}" in wrappers]
    return _undisputed(found, f"the model class {class_name!r}")


def family_of(pipeline_class: type) -> Family | None:
    """The family that registers this very class."""
    for family in list_families():
        if (family.module, family.class_name) == (pipeline_class.__module__, pipeline_class.__name__):
            return family
    return None


def register_family(name: str, pipeline_class: type) -> None:
    """Register a class by hand, for notebooks and tests; a later call with the same class is harmless.

    Raises:
        UsageError: the name or the class name is taken, or the class is no `HFGenPipeline`.
    """
    if not _is_pipeline(pipeline_class):
        raise UsageError(f"{name!r} cannot be registered: {pipeline_class!r} is no HFGenPipeline class.")
    family = Family(name, pipeline_class.__name__, pipeline_class.__module__, "registered by hand", "", pipeline_class)
    family_key = (name, family.class_name, family.module)
    for other in list_families():
        taken = other.name == name or other.class_name == family.class_name
        again = other.pipeline_class is not None and (other.name, other.class_name, other.module) == family_key
        if (
            taken and not again and other.pipeline_class is not pipeline_class
        ):  # a notebook's cell that runs again makes a new class of the same name
            raise UsageError(f"{name!r} ({family.class_name}) is taken by {other.name!r} of {other.source}.")
    _register_models(pipeline_class)
    _registered[name] = family


_registered: dict[str, Family] = {}


def conflict(family: Family, families: Iterable[Family]) -> str | None:
    """Why `family` cannot be had under its name or class name; None where it can."""
    for other in families:
        same = other.name == family.name or other.class_name == family.class_name
        if same and other.distribution != family.distribution and not family.is_built_in:
            return f"clashes with {other.name!r} of {other.source}"
    return None


def _undisputed(families: list[Family], what: str) -> Family | None:
    built_in = [f for f in families if f.is_built_in]
    families = list({(f.distribution, f.module, f.class_name): f for f in built_in or families}.values())
    if len(families) > 1:
        claims = ", ".join(sorted(f"{f.source} ({f.module})" for f in families))
        raise PluginError(
            f"{len(families)} distributions claim {what}: {claims}.\n"
            "Remove one, or name those to use: HFGEN_PLUGINS=distribution,..."
        )
    return families[0] if families else None


def _enabled_distributions() -> set[str] | None:
    listed = os.environ.get("HFGEN_PLUGINS")
    if listed is None:
        return None
    return {_normalized(name) for name in listed.split(",") if name.strip()}


def _from_entry_point(entry_point: importlib.metadata.EntryPoint, name: str, version: str) -> Family:
    module, _, class_name = entry_point.value.partition("[")[0].partition(":")  # `.attr` fails where it is malformed
    return Family(entry_point.name, class_name.strip(), module.strip(), name, version)


def _distribution(distribution: importlib.metadata.Distribution | None) -> tuple[str, str]:
    """Name and version."""
    metadata = None if distribution is None else distribution.metadata
    if metadata is None or not metadata["Name"]:
        return "unknown distribution", ""
    return _normalized(metadata["Name"]), metadata["Version"] or ""


@functools.cache
def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _require_pipeline(family: Family, pipeline_class: Any) -> None:
    if not _is_pipeline(pipeline_class):
        raise PluginError(
            f"Family {family.name!r} of {family.source} is no HFGenPipeline: {family.module}:{family.class_name}."
        )


def _register_models(pipeline_class: type) -> None:
    from hfgen.settings.model_configs import register_with_auto_classes
    from hfgen.settings.options import component_choices

    for choices in component_choices(pipeline_class).values():
        for class_ in choices:
            register_with_auto_classes(class_)


def _is_pipeline(pipeline_class: Any) -> bool:
    from diffusers import DiffusionPipeline

    is_pipeline = isinstance(pipeline_class, type) and issubclass(pipeline_class, DiffusionPipeline)
    return is_pipeline and hasattr(pipeline_class, "training_defaults")
