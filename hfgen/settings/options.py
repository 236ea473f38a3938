"""Options of components: the classes that a component can be of, the one that was chosen, and its options."""

import copy
import inspect
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hfgen.errors import UsageError, did_you_mean, one_line
from hfgen.settings.model_configs import config_class_of, config_parameters, load_config

if TYPE_CHECKING:
    from hfgen.objective import Objective

Config = dict[str, Any]
CLASS_NAME = "class_name"  # the option that chooses
FROM_CONFIG = "from_config"  # the option that starts from a saved component's config
FROM_PRETRAINED = "from_pretrained"  # the option that names where a component's weights come from
FAMILY = "family"  # the option that names the family of a component that is a pipeline
SHAPE = ("sample_size", "in_channels", "out_channels", "num_classes")  # options that follow from the data


def signature_of(class_: type) -> dict[str, inspect.Parameter]:
    """Return a class's options, with evaluated annotations: the parameters of its `__init__`, or of its config's."""
    config_class = config_class_of(class_)
    if config_class is not None:
        return config_parameters(config_class)
    init: Any = class_.__init__  # type: ignore[misc]
    parameters = inspect.signature(init, eval_str=True).parameters
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: p for name, p in parameters.items() if name != "self" and p.kind in named}


def component_choices(pipeline_class: type) -> dict[str, tuple[type, ...]]:
    """Map each component to the classes that `__init__` annotates, the default first: `X`, `X | Y`, `X | None`."""
    return {name: _classes(parameter.annotation) for name, parameter in signature_of(pipeline_class).items()}


def _classes(hint: Any) -> tuple[type, ...]:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return tuple(part for part in typing.get_args(hint) if part is not type(None))
    return (hint,)


def is_pipeline(class_: type) -> bool:
    """Return True if a component of this class is a pipeline."""
    from diffusers import DiffusionPipeline

    return issubclass(class_, DiffusionPipeline)


def chosen_class(name: str, choices: tuple[type, ...], options: Mapping[str, Any], source: str = "") -> type:
    """Return the class that the option `class_name` names, else the default.

    Raises:
        UsageError: the component has no such class.
    """
    wanted = options.get(CLASS_NAME)
    classes = {choice.__name__: choice for choice in choices}
    if wanted is None:
        return choices[0]
    if not isinstance(wanted, str) or wanted not in classes:
        where = f"{source}: " if source else ""
        raise UsageError(f"{where}--{name}.{CLASS_NAME} is {wanted!r}.{did_you_mean(str(wanted), classes)}")
    return classes[wanted]


def saved_config(class_: type, source: str, name: str) -> Config:
    """Read the config that a component of this class was saved with, without the options that follow from the data.

    Args:
        source: a file, a folder or a repository's id.

    Raises:
        UsageError: there is no such config, or it is of another class.
    """
    try:
        loaded = load_config(class_, source)
    except (AttributeError, OSError, ValueError) as error:
        raise UsageError(
            f"--{name}.{FROM_CONFIG} {source!r}: no config of a {class_.__name__} there. {one_line(error, 200)}"
        ) from error
    if loaded.get("_class_name", class_.__name__) != class_.__name__:
        raise UsageError(
            f"--{name}.{FROM_CONFIG} {source!r} is of a {loaded['_class_name']}, not a {class_.__name__}."
        )
    return {key: loaded[key] for key in signature_of(class_) if key in loaded and key not in SHAPE}


def check_source(name: str, class_: type, options: Mapping[str, Any], source: str = "") -> Config:
    """Return a component's options, `from_pretrained` alone.

    Args:
        class_: the component's class.

    Raises:
        UsageError: there are further options, or a component of this class has no weights.
    """
    from torch import nn

    where, option = f"{source}: " if source else "", f"--{name}.{FROM_PRETRAINED}"
    others = [key for key in options if key != FROM_PRETRAINED]
    if others:
        raise UsageError(
            f"{where}{option} takes all options from its source: leave out --{name}.{others[0]},\n"
            f"or build the component anew, with {option} null."
        )
    if not is_pipeline(class_) and not issubclass(class_, nn.Module):
        raise UsageError(
            f"{where}{option}: a {class_.__name__} has no weights; --{name}.{FROM_CONFIG} takes the options of a "
            "saved one."
        )
    if not isinstance(options[FROM_PRETRAINED], str):
        raise UsageError(f"{where}{option} is {options[FROM_PRETRAINED]!r}; expected a folder or a repository's id.")
    return dict(options)


def merge_inner(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> Config:
    """Merge the options of a component that is a pipeline: those of its components, and `family`.

    Another family drops the earlier options.

    >>> merge_inner({"family": "a", "unet": {"width": 1, "depth": 2}}, {"unet.width": 3})
    {'family': 'a', 'unet': {'width': 3, 'depth': 2}}
    >>> merge_inner({"family": "a", "unet": {"width": 1}}, {"family": "b"})
    {'family': 'b'}
    """
    own = {key: value for key, value in later.items() if key in (FAMILY, FROM_PRETRAINED)}
    if own.get(FAMILY, earlier.get(FAMILY)) != earlier.get(FAMILY):
        earlier = {}
    nested = nest_options({key: value for key, value in later.items() if key not in own})
    return {**earlier, **own, **{name: {**earlier.get(name, {}), **options} for name, options in nested.items()}}


def without_class_name(options: Mapping[str, Any]) -> Config:
    """Return the options that the class itself takes."""
    return {key: value for key, value in options.items() if key != CLASS_NAME}


def nest_options(options: Mapping[str, Any]) -> dict[str, Config]:
    """Group dotted options by component.

    >>> nest_options({"generator.width": 8, "scheduler": {"temperature": 1}})
    {'generator': {'width': 8}, 'scheduler': {'temperature': 1}}
    """
    nested: dict[str, Config] = {}
    for key, value in options.items():
        name, dot, option = key.partition(".")
        if not dot and not isinstance(value, Mapping):
            raise UsageError(f"{key!r} is not an option of the model; write --COMPONENT.{key}.")
        nested.setdefault(name, {}).update({option: value} if dot else value)
    return nested


def refuse_another_shape(configs: Mapping[str, Config], overrides: Mapping[str, Config]) -> None:
    """Raise a UsageError for an option that contradicts the data's shape, which the networks are built for."""
    for name, options in overrides.items():
        for key in SHAPE:
            derived = configs.get(name, {}).get(key, ...)
            if key in options and derived is not ... and options[key] != derived:
                raise UsageError(
                    f"--{name}.{key} is {options[key]}, but for these data it is {derived}: it follows from "
                    "the images,\n--resolution and --class_conditional, and cannot be set."
                )


def build_objective(objective_class: type, components: Mapping[str, Any], options: Mapping[str, Any]) -> "Objective":
    """Build the objective of a pipeline from the components that its signature names, and its options.

    Args:
        components: networks and schedulers, and the averages that the objective asks for; an average that is missing
            is a frozen copy of the component as it is now.
    """
    averages: Mapping[str, str] = objective_class.averages  # type: ignore[attr-defined]
    missing = {name: _frozen_copy(components[of]) for name, of in averages.items() if name not in components}
    found = {**components, **missing}
    wanted = {name: found[name] for name in signature_of(objective_class) if name in found}
    return objective_class(**wanted, **options)


def _frozen_copy(network: Any) -> Any:
    return copy.deepcopy(network).eval().requires_grad_(False)


def objective_signature(pipeline_class: Any) -> dict[str, inspect.Parameter]:
    """Return the options of a pipeline's objective: the parameters that are neither components nor averages."""
    others = {*component_choices(pipeline_class), *pipeline_class.objective_class.averages}
    return {name: p for name, p in signature_of(pipeline_class.objective_class).items() if name not in others}


def objective_options(pipeline_class: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return every option of a pipeline's objective: the given ones, and the defaults of the others."""
    return {**{name: p.default for name, p in objective_signature(pipeline_class).items()}, **options}
