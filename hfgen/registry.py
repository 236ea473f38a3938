"""Entry points -> what is installed: families, modalities, extractors, formats, and the models that a family wraps.

A distribution registers a class under a name, in one of the groups below. Name and class name are metadata, so listing
imports nothing, and a plugin that fails to import hurts only those who ask for it. All groups are read by the same
code: HFGEN_PLUGINS chooses among distributions, and a name of hfgen's own cannot be taken by another one.

    [project.entry-points."hfgen.families"]
    dcgan = "hfgen_gan.dcgan:DCGANPipeline"
"""

import contextlib
import difflib
import functools
import importlib.metadata
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from hfgen.errors import PluginError, UsageError, did_you_mean

BUILT_IN = "hfgen"  # the distribution whose names nobody else can take
IMAGE = "image"  # the modality of what names none
ALLOW_LIST = "HFGEN_PLUGINS"  # unset: all distributions; empty: built-ins only; a list: built-ins and these


class Group(NamedTuple):
    """A group of entry points: its name, what one entry is called, and the class that each derives from."""

    name: str
    noun: str
    base: str  # `module:Class`; compared by name, so that nothing is imported for it

    @property
    def base_name(self) -> str:
        return self.base.partition(":")[2]


FAMILIES = Group("hfgen.families", "family", "hfgen.pipeline:HFGenPipeline")
COMPONENTS = Group("hfgen.components", "model class", "hfgen.pipeline:HFGenPipeline")  # -> the family that wraps it
EXTRACTORS = Group("hfgen.extractors", "extractor", "hfgen.evaluation.extractors:FeatureExtractor")
CONVERTERS = Group("hfgen.converters", "format", "hfgen.conversion.converter:Converter")
MODALITIES = Group("hfgen.modalities", "modality", "hfgen.modality:Modality")
GROUPS = (FAMILIES, COMPONENTS, EXTRACTORS, CONVERTERS, MODALITIES)


@dataclass(frozen=True)
class Entry:
    """A registered class: metadata only, until `load()` imports it."""

    group: Group
    name: str
    class_name: str
    module: str
    distribution: str
    version: str
    by_hand: type | None = None  # the class itself, where `register_family` was given it

    @property
    def is_built_in(self) -> bool:
        return self.distribution == BUILT_IN

    @property
    def source(self) -> str:
        return f"{self.distribution} {self.version}".strip()

    @property
    def target(self) -> str:
        return f"{self.module}:{self.class_name}"

    def load(self) -> Any:
        """Import and return the class.

        Raises:
            PluginError: the module fails to import, or holds no such class, or the class lacks a method of its group.
        """
        if self.by_hand is not None:
            return self.by_hand
        noun = self.group.noun.capitalize()
        try:
            found = importlib.metadata.EntryPoint(self.name, self.target, self.group.name).load()
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"{noun} {self.name!r} of {self.source} failed to import: {type(error).__name__}: {error}\n"
                f"Fix or uninstall that distribution, or leave it out with {ALLOW_LIST}."
            ) from error
        if not _derives(found, self.group.base):
            raise PluginError(f"{noun} {self.name!r} of {self.source} is not a {self.group.base_name}: {self.target}.")
        if missing := sorted(getattr(found, "__abstractmethods__", ())):
            raise PluginError(
                f"{noun} {self.name!r} of {self.source} does not define {self.group.base_name}.{missing[0]}"
                f"{_rename(found, missing[0])}: {self.target}."
            )
        if self.group.base == FAMILIES.base:
            _register_models(found)
        return found


# --- any group --------------------------------------------------------------------------------------------------


def installed(group: Group) -> list[Entry]:
    """List the entries of enabled distributions, built-ins first, conflicting ones included; import none of them."""
    enabled = _allowed()
    by_hand = _registered.values() if group == FAMILIES else ()
    allowed = [e for e in _entries(group) if e.is_built_in or enabled is None or e.distribution in enabled]
    return sorted([*allowed, *by_hand], key=lambda e: (not e.is_built_in, e.name, e.distribution))


def find(group: Group, name: str) -> Entry | None:
    """Return the entry of this name, or None where no enabled distribution registers it.

    Raises:
        PluginError: several distributions register it, and none of them is hfgen.
    """
    return _undisputed([e for e in installed(group) if e.name == name], f"the {group.noun} {name!r}")


def load(group: Group, name: str) -> Any:
    """Import the class that a name stands for.

    Raises:
        UsageError: no enabled distribution registers the name.
        PluginError: several do, or it fails to import.
    """
    entry = find(group, name)
    if entry is None:
        raise UsageError(unknown(group, name))
    return entry.load()


def unknown(group: Group, name: str) -> str:
    """Return the message for a name that is not registered: HFGEN_PLUGINS leaves it out, or which names are near."""
    for entry in left_out(group):
        if entry.name == name:
            return f"The {group.noun} {name!r} belongs to {entry.source}, {how_to_enable(entry)}"
    near = did_you_mean(name, {e.name for e in installed(group)})
    return "\n".join([f"No {group.noun} is called {name!r}.{near}", *misspelled_plugins()])


def conflict(entry: Entry, entries: Iterable[Entry]) -> str | None:
    """Return words that name which of `entries` takes the name of `entry`, or a family's class name; else None."""
    if entry.is_built_in:
        return None
    for other in entries:
        same_class = entry.group == FAMILIES and other.class_name == entry.class_name
        if other.distribution != entry.distribution and (other.name == entry.name or same_class):
            return f"clashes with {other.name!r} of {other.source}"
    return None


# --- modalities -------------------------------------------------------------------------------------------------


def get_modality(name: str) -> Any:
    """Return the modality of this name (`hfgen.modality.Modality`); raises as `load`."""
    return _only_one(load(MODALITIES, name))


@functools.cache
def _only_one(modality: type) -> Any:
    return modality()


def modality_of(family: Any) -> Any:
    """Return the modality of a family, or of its pipeline; a pipeline of diffusers' own samples images."""
    return get_modality(modality_name(family))


def modality_name(family: Any) -> str:
    """Return the name of the modality of a family, or of its pipeline."""
    return str(getattr(family, "modality", IMAGE))


def list_modalities() -> list[Any]:
    """Return all modalities of enabled distributions, hfgen's own first; one that fails to import is left out."""
    found = []
    for entry in sorted(installed(MODALITIES), key=lambda e: (not e.is_built_in, e.name)):
        with contextlib.suppress(PluginError, UsageError):
            found.append(get_modality(entry.name))
    return found


# --- HFGEN_PLUGINS ----------------------------------------------------------------------------------------------


def left_out(group: Group) -> list[Entry]:
    """List the entries of installed distributions that HFGEN_PLUGINS leaves out."""
    enabled = _allowed()
    if enabled is None:
        return []
    return [entry for entry in _entries(group) if not entry.is_built_in and entry.distribution not in enabled]


def how_to_enable(entry: Entry) -> str:
    """Return the end of a sentence about an entry that HFGEN_PLUGINS leaves out, with how to enable it."""
    listed = ",".join([*sorted(_allowed() or ()), entry.distribution])
    return f"which {ALLOW_LIST} leaves out.\nUnset that variable, or add the distribution: {ALLOW_LIST}={listed}"


def misspelled_plugins() -> list[str]:
    """Return a sentence for each name in HFGEN_PLUGINS that is not an installed plugin distribution."""
    allowed = _allowed()
    if not allowed:
        return []
    entries = [entry for group in GROUPS for entry in _entries(group)]
    distributions = {entry.distribution for entry in entries}
    return [_misspelled(word, entries) for word in sorted(allowed - distributions)]


def _misspelled(word: str, entries: list[Entry]) -> str:
    for entry in entries:
        if _normalized(entry.name) == word:
            hint = f" The {entry.group.noun} {entry.name!r} is of the distribution {entry.distribution!r}."
            break
    else:
        hint = did_you_mean(word, {entry.distribution for entry in entries})
    return f"{ALLOW_LIST} names {word!r}, but no installed plugin distribution is called that.{hint}"


def _allowed() -> set[str] | None:
    listed = os.environ.get(ALLOW_LIST)
    return None if listed is None else {_normalized(name) for name in listed.split(",") if name.strip()}


# --- families ---------------------------------------------------------------------------------------------------

_registered: dict[str, Entry] = {}


def list_families() -> list[Entry]:
    """List all enabled families, built-ins first, conflicting ones included; import none of them."""
    return installed(FAMILIES)


def get_family(name: str) -> Entry:
    """Return the family that `name` stands for.

    Raises:
        PluginError: no enabled distribution registers the name, or several do.
    """
    family = find(FAMILIES, name)
    if family is None:
        raise PluginError(f"{unknown(FAMILIES, name)}\n`hfgen list models` shows what is installed.")
    clash = conflict(family, list_families())
    if clash:
        raise PluginError(
            f"Family {name!r} of {family.source} {clash}: uninstall one of the two, or leave it out with {ALLOW_LIST}."
        )
    return family


def find_by_class(class_name: str) -> Entry | None:
    """Return the family whose pipeline class bears this name, as `model_index.json` stores it; None without one."""
    named = [family for family in list_families() if family.class_name == class_name]
    return _undisputed(named, f"the pipeline class {class_name!r}")


def find_by_component(class_name: str | None) -> Entry | None:
    """Return the family that wraps a single model of this class, as a bare `config.json` names it; else None."""
    wrapper = find(COMPONENTS, class_name) if class_name else None
    return next((f for f in list_families() if wrapper is not None and f.target == wrapper.target), None)


def family_of(pipeline_class: type) -> Entry | None:
    """Return the family that registers this very class; None for a class that was not registered."""
    target = f"{pipeline_class.__module__}:{pipeline_class.__name__}"
    return next((family for family in list_families() if family.target == target), None)


def register_family(name: str, pipeline_class: type) -> None:
    """Register a class by hand, for notebooks and tests; a later call with the same class changes nothing.

    Raises:
        UsageError: the name or the class name is taken, or the class does not derive from `HFGenPipeline`.
    """
    if not _derives(pipeline_class, FAMILIES.base):
        raise UsageError(f"{name!r} cannot be registered: {pipeline_class!r} is not a class of HFGenPipeline's.")
    module, class_name = pipeline_class.__module__, pipeline_class.__name__
    family = Entry(FAMILIES, name, class_name, module, "registered by hand", "", pipeline_class)
    for other in list_families():
        taken = other.name == name or other.class_name == class_name
        # a notebook's cell that runs again makes a new class of the same name
        again = other.by_hand is not None and (other.name, other.target) == (name, family.target)
        if taken and not again and other.by_hand is not pipeline_class:
            raise UsageError(f"{name!r} ({class_name}) is taken by {other.name!r} of {other.source}.")
    _register_models(pipeline_class)
    _registered[name] = family


def _register_models(pipeline_class: type) -> None:
    from hfgen.settings.model_configs import register_with_auto_classes
    from hfgen.settings.options import component_choices

    for choices in component_choices(pipeline_class).values():
        for class_ in choices:
            register_with_auto_classes(class_)


# --- metadata ---------------------------------------------------------------------------------------------------


def _entries(group: Group) -> list[Entry]:
    """List what distributions register, read again when a folder of the import path has changed."""
    return list(_read_entries(group, tuple((place, _changed_at(place)) for place in sys.path)))


def _changed_at(place: str) -> int | None:
    try:
        return os.stat(place or ".").st_mtime_ns
    except OSError:
        return None


@functools.lru_cache(maxsize=32)  # reading the metadata of some hundred distributions takes 20 ms
def _read_entries(group: Group, places: tuple[tuple[str, int | None], ...]) -> list[Entry]:
    entry_points = importlib.metadata.entry_points(group=group.name)
    # a distribution's metadata are parsed each time that they are asked for
    distributions = {distribution: _distribution(distribution) for distribution in {e.dist for e in entry_points}}
    found = []
    for point in entry_points:
        module, _, name = point.value.partition("[")[0].partition(":")  # `.attr` fails on a malformed value
        found.append(Entry(group, point.name, name.strip(), module.strip(), *distributions[point.dist]))
    return found


def _undisputed(entries: list[Entry], what: str) -> Entry | None:
    built_in = [entry for entry in entries if entry.is_built_in]
    entries = list({(entry.distribution, entry.target): entry for entry in built_in or entries}.values())
    if len(entries) > 1:
        claims = ", ".join(sorted(f"{entry.source} ({entry.module})" for entry in entries))
        raise PluginError(
            f"{len(entries)} distributions claim {what}: {claims}.\n"
            f"Uninstall one, or name those to use: {ALLOW_LIST}=distribution,..."
        )
    return entries[0] if entries else None


def _derives(found: Any, base: str) -> bool:
    return isinstance(found, type) and base in {f"{c.__module__}:{c.__qualname__}" for c in found.__mro__}


def _rename(class_: type, missing: str) -> str:
    """Say which method of a class has nearly the missing name, such as the one of an older version; else nothing."""
    near = difflib.get_close_matches(missing, set(dir(class_)) - {missing}, n=1, cutoff=0.8)
    return f" (rename its {near[0]} to {missing})" if near else ""


def _distribution(distribution: importlib.metadata.Distribution | None) -> tuple[str, str]:
    """Name and version."""
    metadata = None if distribution is None else distribution.metadata
    if metadata is None or not metadata["Name"]:
        return "unknown distribution", ""
    return _normalized(metadata["Name"]), metadata["Version"] or ""


@functools.cache
def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip()).lower()
