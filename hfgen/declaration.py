"""A family's declaration: its class attributes name components and metrics that exist."""

from collections.abc import Iterator

from hfgen.errors import PluginError, did_you_mean
from hfgen.results.metrics import METRICS
from hfgen.settings.options import component_choices


def require_known_names(pipeline_class: type) -> None:
    """Check the class attributes that list names: every `..._components`, and `measured_on_request`.

    Raises:
        PluginError: one lists a name that exists nowhere, which would have no effect.
    """
    for attribute, names, known, noun in _lists(pipeline_class):
        for name in names:
            if name.partition(".")[0] not in known:  # behind the dot, of a component that is a pipeline
                raise PluginError(
                    f"{pipeline_class.__name__}.{attribute} names {name!r}, but no {noun} is called that."
                    f"{did_you_mean(name, known)}\nCorrect it in {pipeline_class.__module__}."
                )


def _lists(pipeline_class: type) -> Iterator[tuple[str, list[str], list[str], str]]:
    """Yield (attribute, its names, the names that exist, what they name); a single string is one name."""
    components = list(component_choices(pipeline_class))
    kinds = {name: (components, "component") for name in dir(pipeline_class) if name.endswith("_components")}
    for attribute, (known, noun) in {**kinds, "measured_on_request": (list(METRICS), "metric")}.items():
        value = getattr(pipeline_class, attribute, ())
        if isinstance(value, str):
            yield attribute, [value], known, noun
        elif isinstance(value, list | tuple | set | frozenset):
            yield attribute, list(value), known, noun
