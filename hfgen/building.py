"""Components are built from their options, or loaded from the source that `--COMPONENT.from_pretrained` names.

A source is a folder or a repository of the Hub, `org/name` or `org/name@REVISION`, that holds the component alone, or
a pipeline with a component of that name; another name is written behind: `folder/unet`, `org/name/unet`. It is loaded
as every model is, from safetensors, as a class that the pipeline takes.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from hfgen import registry
from hfgen.components import MOST_LEVELS, absent, inner_pipelines, networks, weights_sha256
from hfgen.errors import HFGenError, LoadError, UsageError, did_you_mean
from hfgen.files import read_json, refuse_links_out
from hfgen.hub.download import COMMIT, local_folder
from hfgen.repository.index import CONFIG, MODEL_INDEX, class_name_of
from hfgen.repository.model_folder import ModelFolder
from hfgen.repository.single_model import load_model
from hfgen.settings.model_configs import component_config, construct
from hfgen.settings.options import (
    CLASS_NAME,
    FAMILY,
    FROM_PRETRAINED,
    SHAPE,
    check_source,
    component_choices,
    is_pipeline,
    merge_inner,
    nest_options,
    refuse_another_shape,
    signature_of,
    without_class_name,
)
from hfgen.settings.resolve import check_options

Config = dict[str, Any]
Choices = tuple[Any, ...]


@dataclass(frozen=True)
class Source:
    """The place that a component's weights came from.

    Attributes:
        name: the folder, or the repository with the commit: `org/name@0123...`.
        sha256: of the tensors.
    """

    name: str
    sha256: str

    @property
    def repo_id(self) -> str | None:
        """The repository; None for a folder."""
        place, _, commit = self.name.rpartition("@")
        return "/".join(place.split("/")[:2]) if COMMIT.fullmatch(commit) else None

    @property
    def public_name(self) -> str:
        """The name without the path to a folder."""
        return self.name if self.repo_id else Path(self.name).name


# --- building -------------------------------------------------------------------------------------------------------
def build_components(
    family: Any, shape: tuple[int, int, int | None], overrides: Mapping[str, Any], there: Mapping[str, Any] = {}
) -> tuple[dict[str, Any], dict[str, Source]]:
    """Build the components of a family for data of a shape; return them, and the sources of those that were loaded.

    Args:
        family: an `HFGenPipeline` class.
        shape: side of the images, channels, number of classes.
        overrides: as `HFGenPipeline.build` takes them.
        there: components that are there already.

    Raises:
        UsageError: an option is unknown, or contradicts the shape or a source.
        LoadError: a source is missing or damaged.
    """
    _require_shallow(family)
    choices = component_choices(family)
    nested = nest_options(overrides)
    for name in nested:
        if name not in choices:
            raise UsageError(f"{family.__name__} has no component {name!r}.{did_you_mean(name, choices)}")
        if nested[name].get(FROM_PRETRAINED, ...) is None:
            del nested[name][FROM_PRETRAINED]
    given = {name: options for name, options in nested.items() if FROM_PRETRAINED in options}
    built, sources = dict(there), dict[str, Source]()
    for name, options in given.items():
        built[name], sources[name] = _load(name, choices[name], options)
    preferred = {name: {CLASS_NAME: choice} for name, choice in family.preferred_classes(shape[1]).items()}
    known = {
        **preferred,
        **nested,
        **{name: options_of(part, choices[name]) for name, part in built.items() if hasattr(part, "config")},
    }
    classes, checked = family.component_classes(known), dict[str, Config]()
    for name, options in known.items():
        if name not in built and not is_pipeline(classes[name]):
            checked[name] = check_options(classes[name], without_class_name(options), prefix=name)
    configs = family.default_configs(*shape, known)
    refuse_another_shape(configs, checked)
    for name, source in sources.items():
        _require_shape(name, known[name], configs.get(name, {}), source)
    for name, class_ in classes.items():
        if is_pipeline(class_) and name not in built:
            built[name] = _build_inner(name, class_, shape, configs.get(name, {}), nested.get(name, {}))
            sources |= {f"{name}.{below}": source for below, source in built[name].sources.items()}
        elif name not in built:
            built[name] = construct(class_, {**configs.get(name, {}), **checked.get(name, {})})
    return {name: built[name] for name in classes}, sources


def _require_shape(name: str, own: Config, wanted: Config, source: Source) -> None:
    """Refuse a source that was made for data of another shape."""
    wrong = [
        f"{key} {own.get(key)}, not {wanted[key]}" for key in SHAPE if key in wanted and own.get(key) != wanted[key]
    ]
    if wrong and not isinstance(own.get(FAMILY), str):
        raise UsageError(
            f"--{name}.{FROM_PRETRAINED} {source.name} does not fit these data: it has {', '.join(wrong)}.\n"
            "Give another one, or change the data's shape with --resolution or --class_conditional."
        )


def _require_shallow(family: Any, levels: int = MOST_LEVELS) -> None:
    """Refuse a family whose annotations put pipelines too deep into each other, or one into itself."""
    if levels == 0:
        raise UsageError(f"{family.__name__} is inside too many pipelines; they may be {MOST_LEVELS} deep.")
    for choices in component_choices(family).values():
        if is_pipeline(choices[0]):
            _require_shallow(choices[0], levels - 1)


def inner_family(name: str, class_: Any, options: Mapping[str, Any]) -> Any:
    """Return the class of a component that is a pipeline: that of the option `family`, else the annotated one.

    Raises:
        UsageError: the family is unknown, or the pipeline takes no such one.
    """
    if options.get(FAMILY) is None:
        return class_
    found = registry.get_family(options[FAMILY]).load()
    if not issubclass(found, class_):
        raise UsageError(f"--{name}.{FAMILY} {options[FAMILY]} is a {found.__name__}; it must be a {class_.__name__}.")
    return found


def _build_inner(
    name: str, class_: Any, shape: tuple[int, int, int | None], config: Config, options: Mapping[str, Any]
) -> Any:
    """Build a component that is a pipeline, for the shape that `default_configs` gives it, by default the data's."""
    if not component_choices(class_):  # HFGenPipeline itself
        raise UsageError(
            f"The component {name!r} is a pipeline of any family: name one with --{name}.{FAMILY}, or a saved model\n"
            f"with --{name}.{FROM_PRETRAINED}."
        )
    config = dict(config)
    inner = [config.pop(key, value) for key, value in zip(INNER_SHAPE, shape, strict=True)]
    own = {key: value for key, value in options.items() if key not in (FAMILY, FROM_PRETRAINED)}
    try:
        return class_.build(*inner, **merge_inner(config, own))
    except HFGenError as error:
        raise type(error)(f"--{name}: {error}") from error


INNER_SHAPE = ("sample_size", "in_channels", "num_classes")


def options_of(part: Any, choices: Choices) -> Config:
    """Return the options with which a component would be built again; of a pipeline, those of its components."""
    if isinstance(part, DiffusionPipeline):
        family, inside = registry.family_of(type(part)), component_choices(type(part))
        named = {FAMILY: family.name} if family is not None else {}
        return {**named, **{name: options_of(p, inside[name]) for name, p in part.components.items() if p is not None}}
    is_chosen = len(choices) > 1 and type(part) in choices
    named, known = {CLASS_NAME: type(part).__name__} if is_chosen else {}, signature_of(type(part))
    return {**named, **{name: value for name, value in component_config(part).items() if name in known}}


# --- loading --------------------------------------------------------------------------------------------------------
def _load(name: str, choices: Choices, options: Mapping[str, Any]) -> tuple[Any, Source]:
    given = check_source(name, choices[0], options)[FROM_PRETRAINED]
    with _named(f"--{name}.{FROM_PRETRAINED} {given}"):
        target, revision = _split(given)
        if is_pipeline(choices[0]):
            folder = local_folder(target, revision=revision)
            part: Any = _class_in(folder, choices).from_pretrained(folder)
            models = networks(part)
        else:
            folder = _network_folder(name, target, revision)
            part = load_model(folder, _class_in(folder, choices))
            models = {"": part}
    commit = "" if os.path.isdir(target) else f"@{_commit(folder.path)}"
    return part, Source(target + commit, weights_sha256(models))


@contextlib.contextmanager
def _named(option: str) -> Iterator[None]:
    try:
        yield
    except HFGenError as error:
        raise type(error)(f"{option}: {error}") from error.__cause__


def _split(given: str) -> tuple[str, str | None]:
    """Split a source into what to open, and the revision.

    >>> _split("org/name@v1"), _split("org/name")
    (('org/name', 'v1'), ('org/name', None))
    """
    target, at, revision = given.rpartition("@")
    return (target, revision) if at and not os.path.isdir(given) else (given, None)


def _commit(path: Path) -> str:
    """The commit of a folder in the Hub's cache."""
    return next(part for part in reversed(path.parts) if COMMIT.fullmatch(part))


def _network_folder(name: str, target: str, revision: str | None) -> ModelFolder:
    """Find, or fetch, the folder of one network."""
    if not os.path.isdir(target) and target.count("/") == 2 and not target.startswith((".", "/", "~")):
        target, _, subfolder = target.rpartition("/")
        return local_folder(target, revision=revision, subfolder=subfolder)
    if os.path.isdir(target):
        found = ModelFolder(target)
    else:
        found = local_folder(target, [MODEL_INDEX, CONFIG], revision=revision)
        revision = found.path.name  # one commit for all files
    if not (found.path / MODEL_INDEX).is_file():
        return found if os.path.isdir(target) else local_folder(target, revision=revision)
    if name not in found.components:
        raise UsageError(
            f"it has no component {name!r}, only {', '.join(found.components)}: write {target}/COMPONENT."
        )
    if os.path.isdir(target):
        refuse_links_out(found, found.place(name))
        return ModelFolder(found.place(name), f"{target}/{name}")
    return local_folder(target, revision=revision, subfolder=name)


def _class_in(folder: ModelFolder, choices: Choices) -> Any:
    """Choose, among the classes that a component may have, the one that a folder was saved as."""
    if is_pipeline(choices[0]):
        named = [] if folder.is_single else [class_name_of(folder.index)]
        return next((choice for choice in choices if choice.__name__ in named), choices[0])
    try:
        config = read_json(folder.path / CONFIG)
        named = [config.get("_class_name"), *config.get("architectures", [])]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise LoadError(f"there is no {CONFIG} of a model: {error}") from error
    found = next((choice for choice in choices if choice.__name__ in named), None)
    if found is None:
        known = " or a ".join(choice.__name__ for choice in choices)
        raise UsageError(f"it holds a {next(filter(None, named), 'model without a class')}, not a {known}.")
    return found


def complete(pipeline: Any, shape: tuple[int, int, int | None], options: Mapping[str, Config]) -> None:
    """Build, or load, the components of a saved pipeline that only training uses.

    Args:
        shape: as of `build_components`.
        options: component -> options, of these components.
    """
    missing = [name for name in absent(pipeline) if "." not in name]
    if missing:
        there = {name: part for name, part in pipeline.components.items() if part is not None}
        parts, pipeline.sources = build_components(type(pipeline), shape, options, there)
        pipeline.register_modules(**{name: parts[name].eval() for name in missing})


def require_complete(pipeline: Any) -> None:
    """Raise a UsageError if a pipeline lacks a component that only training uses, as loaded ones do."""
    missing = absent(pipeline)
    if missing:
        raise UsageError(
            f"The {missing[0]} is used in training only, so it was not saved with the model: set it before training,\n"
            "with register_modules, or train with --pretrained_model_name_or_path, which builds it anew."
        )


def require_sources(pipeline: Any, names: list[str]) -> None:
    """Refuse to train with a frozen network whose weights nobody has trained.

    Args:
        names: dotted names of the frozen networks.
    """
    known = [*pipeline.sources]
    missing = [name for name in names if not any(name == it or name.startswith(f"{it}.") for it in known)]
    if missing:
        top = missing[0].split(".")[0] if missing[0].split(".")[0] in inner_pipelines(pipeline) else missing[0]
        raise UsageError(
            f"The {missing[0]} is frozen: training takes its weights as they are, and nothing says from where.\n"
            f"Give a folder or a repository that holds it: --{top}.{FROM_PRETRAINED} SOURCE"
        )
