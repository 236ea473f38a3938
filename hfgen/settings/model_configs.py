"""Configs of components: diffusers' `ModelMixin`s, and transformers' `PreTrainedModel`s.

A `ModelMixin` takes its options one by one. A `PreTrainedModel` takes one object of its `config_class`, and
`AutoConfig` and `AutoModel` find it only if it was registered: no library of the stack reads entry points.
"""

import inspect
from collections.abc import Mapping
from typing import Any

from hfgen.errors import PluginError

Config = dict[str, Any]


def config_class_of(class_: type) -> type | None:
    """Return the config class of a `PreTrainedModel`; None for any other component."""
    config_class = getattr(class_, "config_class", None)
    return config_class if isinstance(config_class, type) else None


def config_parameters(config_class: type) -> dict[str, inspect.Parameter]:
    """Return a config's own parameters, with evaluated annotations, without those of every transformers config."""
    from transformers import PreTrainedConfig

    everyones, hints = inspect.signature(PreTrainedConfig).parameters, dict[str, Any]()
    for class_ in reversed(config_class.__mro__[: config_class.__mro__.index(PreTrainedConfig)]):
        hints |= inspect.get_annotations(class_, eval_str=True)
    parameters = inspect.signature(config_class).parameters.items()
    own = {name: p for name, p in parameters if name not in everyones and p.kind is not p.VAR_KEYWORD}
    return {name: p.replace(annotation=hints.get(name, p.annotation)) for name, p in own.items()}


def construct(class_: type, options: Mapping[str, Any]) -> Any:
    """Construct a component from its options."""
    config_class = config_class_of(class_)
    return class_(**options) if config_class is None else class_(config_class(**options))


def component_config(component: Any) -> Config:
    """Return the options of a component, as its saved config has them; empty for one without a config."""
    config_class = config_class_of(type(component))
    if config_class is None:
        return {name: value for name, value in getattr(component, "config", {}).items() if not name.startswith("_")}
    return {name: getattr(component.config, name) for name in config_parameters(config_class)}


def load_config(class_: Any, source: str) -> Config:
    """Read the config that a component of this class was saved with.

    Raises:
        OSError: there is none.
        ValueError: it is damaged, or a transformers model's config is of another class.
    """
    config_class: Any = config_class_of(class_)
    if config_class is None:
        return dict(class_.load_config(source))
    loaded, _ = config_class.get_config_dict(source)
    if loaded.get("model_type") != config_class.model_type:
        raise ValueError(f"Its model_type is {loaded.get('model_type')!r}.")
    return loaded


def register_with_auto_classes(model_class: type) -> None:
    """Register a plugin's model, so that `AutoConfig` and `AutoModel` find it in this process; safe to repeat.

    Raises:
        PluginError: its `model_type` is empty, or that of another model.
    """
    config_class: Any = config_class_of(model_class)
    if config_class is None or config_class.__module__.partition(".")[0] == "transformers":
        return  # transformers' own are registered
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModel

    name = config_class.model_type
    taken = CONFIG_MAPPING[name] if name in CONFIG_MAPPING else config_class
    if not name or _path(taken) != _path(config_class):
        why = f"is that of {_path(taken)}" if name else "is empty"
        raise PluginError(
            f"{_path(config_class)}: the model_type {name!r} {why}.\n"
            "Give it one of its own, with the plugin's name as prefix: model_type = 'myplugin_mymodel'."
        )
    AutoConfig.register(name, config_class, exist_ok=True)
    AutoModel.register(config_class, model_class, exist_ok=True)


def _path(class_: type) -> str:
    return f"{class_.__module__}.{class_.__qualname__}"
