"""Resolve recipe file, config file and command line to one config of a run.

Precedence, later wins: the defaults of `TrainingArguments` < the family's `training_defaults` < recipe < `--config` <
command line.
"""

import dataclasses
import inspect
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hfgen.errors import UsageError, did_you_mean
from hfgen.modality import Modality
from hfgen.settings.arguments import FIELDS, HINTS, NOT_SAVED, TrainingArguments, canonical
from hfgen.settings.data_arguments import PARTICULAR
from hfgen.settings.fields import check_bounds
from hfgen.settings.optimizers import WITHOUT_WARM_UP, OptimizerOptions, merge, refuse_unknown_components
from hfgen.settings.options import (
    CLASS_NAME,
    FAMILY,
    FROM_CONFIG,
    FROM_PRETRAINED,
    check_source,
    chosen_class,
    component_choices,
    is_pipeline,
    merge_inner,
    objective_signature,
    saved_config,
    signature_of,
    trainable,
    without_class_name,
)

DATA = "data"  # block of a config: options of the data that only one modality has


@dataclass(frozen=True)
class RunConfig:
    """A resolved run: the family's name, the training arguments, and options of its components and objective."""

    model: str
    arguments: TrainingArguments
    components: dict[str, dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return what `config.yaml` holds: all but where the run was written, resumed from and pushed to."""
        flat = {name: value for name, value in dataclasses.asdict(self.arguments).items() if name not in NOT_SAVED}
        if flat[DATA] is None:
            del flat[DATA]
        return {"model": self.model, **flat, **self.components}


def resolve(
    layers: Sequence[tuple[str, Mapping[str, Any]]], model: str, family: type, modality: Modality | None = None
) -> RunConfig:
    """Merge layers of settings, each named for error messages, over the family's defaults.

    A layer is flat, except for one dictionary per component, one for the `objective`, and one for the data.

    Args:
        modality: the family's; without it, no options of the data that only some modalities have are known.

    Raises:
        UsageError: a key is unknown or a value has the wrong type; the message names the layer.
    """
    flat: dict[str, Any] = {}
    components: dict[str, dict[str, Any]] = {}
    defaults: Any = family.training_defaults  # type: ignore[attr-defined]
    for source, layer in [(f"{family.__name__}.training_defaults", defaults), *layers]:
        flat |= _dropped_by(layer)
        for key, value in layer.items():
            if isinstance(value, str) and key in component_choices(family):
                chooses = FAMILY if is_pipeline(component_choices(family)[key][0]) else CLASS_NAME
                value = {chooses: value}  # `likelihood: BernoulliLikelihood`
            if key == "optimizer" and isinstance(value, Mapping):
                flat[key] = _optimizers(family, value, source, flat.get(key) or {})
            elif key == DATA and isinstance(value, Mapping):
                flat[key] = {**(flat.get(key) or {}), **own_data_options(modality, value, source)}
            elif isinstance(value, Mapping):
                components[key] = _typed_block(family, key, value, source, components.get(key, {}))
            elif key != "model" and key in _own_names(modality):
                flat[DATA] = {**(flat.get(DATA) or {}), **own_data_options(modality, {key: value}, source)}
            elif key != "model":
                name = _known_field(key, source, family)
                refuse_of_others(modality, name, value, source)
                flat[name] = typed(HINTS[name], value, name, source)
    return RunConfig(model, TrainingArguments(**flat), components)


def _own_names(modality: Modality | None) -> list[str]:
    declared = None if modality is None else modality.data_options
    return [] if declared is None else list(declared.__dataclass_fields__)


def own_data_options(modality: Modality | None, given: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return options of the data that only this modality has, as the types that it declares.

    Raises:
        UsageError: it has no such option, or a value has the wrong type or is out of range.
    """
    declared: Any = None if modality is None else modality.data_options
    names, hints = _own_names(modality), {} if declared is None else typing.get_type_hints(declared)
    for name in given:
        if name not in names:
            raise UsageError(f"{source}: the data have no option {name!r}.{did_you_mean(name, names)}")
    found = {name: typed(hints[name], value, name, source) for name, value in given.items()}
    for name, value in found.items():
        check_bounds(name, value, declared.__dataclass_fields__[name].metadata["bounds"])
    return found


def refuse_of_others(modality: Modality | None, name: str, value: Any, source: str) -> None:
    """Raise a UsageError for an option of the data that this modality does not have."""
    if modality is None or name not in PARTICULAR or name in modality.arguments or value == FIELDS[name].default:
        return
    raise UsageError(f"{source}: --{name} is of other data; a model of {modality.noun[1]} has no such option.")


def _dropped_by(layer: Mapping[str, Any]) -> dict[str, Any]:
    """Reset options of earlier layers that contradict this one's."""
    given = {canonical(key): value for key, value in layer.items()}
    dropped: dict[str, Any] = {}
    if given.get("lr_scheduler") in WITHOUT_WARM_UP:
        dropped["lr_warmup_steps"] = 0
    if "lr_scheduler" in given:
        dropped["lr_step_rules"] = None
    if "validation_steps" in given:
        dropped["validation_epochs"] = None
    return dropped


def _optimizers(
    family: type, given: Mapping[str, Any], source: str, earlier: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Merge options of optimizers, `discriminator: {eps: 1e-6}` or `discriminator.eps: 1e-6`, over earlier layers'.

    Networks of a pipeline inside have dotted names: `prior.unet.eps`.
    """
    refuse_unknown_components([name.partition(".")[0] for name in given], trainable(family))
    merged = {name: dict(options) for name, options in earlier.items()}
    grouped: dict[str, dict[str, Any]] = {}
    for path, value in _leaves(given):
        name, _, key = path.rpartition(".")
        grouped.setdefault(name, {})[key] = value
    for name, options in grouped.items():
        checked = check_options(OptimizerOptions, options, f"{source}: optimizer.{name}")
        merged[name] = merge(merged.get(name, {}), checked)
    return merged


def _leaves(given: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in given.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{place}{key}.")
        else:
            yield f"{place}{key}", value


def _known_field(key: str, source: str, family: type) -> str:
    key = canonical(key)
    if key not in FIELDS:
        blocks = [*component_choices(family), "objective"]
        raise UsageError(f"{source}: unknown key {key!r}.{did_you_mean(key, [*FIELDS, *blocks])}")
    return key


def _typed_block(
    family: type, name: str, options: Mapping[str, Any], source: str, earlier: Mapping[str, Any]
) -> dict[str, Any]:
    """Merge the options of a component or the objective over those of earlier layers that chose the same class."""
    if name == "objective":
        return {**earlier, **typed_options(objective_signature(family), options, f"{source}: {name}")}
    choices = component_choices(family)
    if name not in choices:
        raise UsageError(f"{source}: {family.__name__} has no component {name!r}.{did_you_mean(name, choices)}")
    if options.get(FROM_PRETRAINED, ...) is None:  # build the component anew
        earlier, options = {}, {key: value for key, value in options.items() if key != FROM_PRETRAINED}
    elif FROM_PRETRAINED in options:
        return check_source(name, choices[name][0], options, source)
    elif FROM_PRETRAINED in earlier:
        return check_source(name, choices[name][0], {**earlier, **options}, source)
    if is_pipeline(choices[name][0]):
        return merge_inner(earlier, options)  # its family checks them, when it is built
    before = chosen_class(name, choices[name], earlier)
    chosen = chosen_class(name, choices[name], {**earlier, **options}, source)
    kept = earlier if chosen is before else {}  # options of another class do not apply
    named = {CLASS_NAME: chosen.__name__} if len(choices[name]) > 1 else {}
    own = without_class_name(options)
    if FROM_CONFIG in own:
        kept, own = {}, {**saved_config(chosen, str(own.pop(FROM_CONFIG)), name), **own}
    return {**kept, **named, **check_options(chosen, own, f"{source}: {name}")}


def check_options(class_: type, options: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the options, converted to the types that `class_` annotates.

    Raises:
        UsageError: an option that `class_` does not take, or a value of another type.
    """
    return typed_options(signature_of(class_), options, prefix)


def typed_options(
    signature: Mapping[str, inspect.Parameter], options: Mapping[str, Any], prefix: str
) -> dict[str, Any]:
    """The options, as the types that a signature annotates.

    Raises:
        UsageError: an option that is not in the signature, or a value of another type.
    """
    for name in options:
        if name not in signature:
            raise UsageError(f"{prefix}: unknown option {name!r}.{did_you_mean(name, signature)}")
    return {name: typed(signature[name].annotation, value, name, prefix) for name, value in options.items()}


def typed(hint: Any, value: Any, name: str, source: str) -> Any:
    """Return `value` if it has the annotated type; an int passes for a float, a list for a sequence.

    Args:
        source: the layer that gives it, for the message.

    Raises:
        UsageError: it has another type.
    """
    if isinstance(value, str) and accepts(hint, 1.0) and not accepts(hint, value):
        try:
            value = float(value)  # YAML reads 2e-4 as a string
        except ValueError:
            pass
    if not accepts(hint, value):
        where = f"{source}: {name}" if source else f"--{name}"
        raise UsageError(f"{where} is {value!r}; expected {_readable(hint)}.")
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if is_whole and accepts(hint, 0.5) else value


def accepts(hint: Any, value: Any) -> bool:
    """Return True if a value is of an annotated type; an int is a float, too, and a type of unknown form takes all."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(accepts(part, value) for part in typing.get_args(hint))
    if origin is Literal:
        return value in typing.get_args(hint)
    if hint in (int, float, bool, str):
        allowed = (int, float) if hint is float else hint
        return isinstance(value, allowed) and (hint is bool or not isinstance(value, bool))
    if hint is type(None):
        return value is None
    if origin is tuple or (isinstance(origin, type) and issubclass(origin, Sequence)):
        return isinstance(value, (list, tuple)) and all(accepts(typing.get_args(hint)[0], part) for part in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    return True


def _readable(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_readable(part) for part in typing.get_args(hint) if part is not type(None))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(hint)))
    if origin is not None:
        return f"a list, each {_readable(typing.get_args(hint)[0])}" if typing.get_args(hint) else str(hint)
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}.get(hint, str(hint))
