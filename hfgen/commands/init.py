"""The command `hfgen init RECIPE`."""

import inspect
import itertools
import textwrap
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import yaml

from hfgen.commands.recipes import list_recipes, resolve_run
from hfgen.errors import HFGenError, UsageError
from hfgen.settings.arguments import FIELDS, NOT_SAVED
from hfgen.settings.options import CLASS_NAME, SHAPE, chosen_class, component_choices, signature_of
from hfgen.settings.resolve import RunConfig

WIDTH = 119
SIDE, CHANNELS = 32, 3  # shape of the images for which options that follow from the data are shown


@click.command("init", short_help="Write a recipe to edit.")
@click.argument("target", metavar="RECIPE|MODEL")
@click.option("--output", "-o", type=click.Path(path_type=Path), help="The file to write.  [default: RECIPE.yaml]")
def command(target: str, output: Path | None) -> None:
    """Write a recipe to edit: all settings of RECIPE, or the defaults of MODEL, each with its help.

    The file is for `hfgen train --config`; unedited, it gives the same run as the recipe.
    """
    output = output or Path(f"{Path(target).stem}.yaml")
    if output.exists():
        raise UsageError(f"{output} exists; nothing was written. Name another file: hfgen init {target} -o FILE")
    resolved, pipeline_class = resolve_run(target, None, {}, {})
    text = "\n".join([*_heading(target, output), *settings(resolved), *blocks(resolved, pipeline_class)])
    try:
        output.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise HFGenError(f"{output} cannot be written: {error}") from error
    click.echo(str(output))


def _heading(target: str, output: Path) -> Iterator[str]:
    recipe = list_recipes().get(target, Path(target))
    own = recipe.read_text(encoding="utf-8").splitlines() if recipe.is_file() else []
    yield from itertools.takewhile(lambda line: line.startswith("#"), own)
    yield f"# To train: hfgen train --config {output}"


def settings(resolved: RunConfig) -> Iterator[str]:
    """Yield the family and the training arguments, each below its help."""
    yield _line("model", resolved.model)
    for name, field in FIELDS.items():
        if name not in NOT_SAVED:
            yield ""
            yield from _comment(field.metadata["help"])
            yield _line(name, getattr(resolved.arguments, name))


def blocks(resolved: RunConfig, pipeline_class: Any) -> Iterator[str]:
    """Yield components and objective: the options that were set, and as comments the defaults of the others."""
    choices = component_choices(pipeline_class)
    derived = _derived(resolved, pipeline_class)
    for name in [*choices, "objective"]:
        options, of_class = resolved.components.get(name, {}), pipeline_class.objective_class
        if name in choices:
            of_class = chosen_class(name, choices[name], options)
        hidden = {*choices, *pipeline_class.objective_class.averages}
        defaults = {key: p.default for key, p in signature_of(of_class).items() if _settable(key, hidden)}
        defaults |= {key: value for key, value in derived.get(name, {}).items() if key in defaults}
        yield ""
        yield from _comment(f"{of_class.__name__}. Lines without # are set; the others show the defaults.")
        if len(choices.get(name, ())) > 1:
            names = ", ".join(choice.__name__ for choice in choices[name])
            yield from _comment(f"{CLASS_NAME} is one of {names}; if it is not set, the model chooses by the data.")
        yield f"{name}:" if options else f"# {name}:"
        for key, value in {**options, **{k: v for k, v in defaults.items() if k not in options}}.items():
            if value is not inspect.Parameter.empty:
                yield ("  " if key in options else "  # " if options else "#   ") + _line(key, value)


def _settable(key: str, components: Collection[str]) -> bool:
    """Tell whether a user may set an option: it is not a component, and follows from neither data nor networks."""
    return key not in {*components, *SHAPE} and not key.endswith("_shape")


def _derived(resolved: RunConfig, pipeline_class: Any) -> Mapping[str, Mapping[str, Any]]:
    """Return the defaults that the family chooses by the data's shape, for images of a usual shape."""
    try:
        return pipeline_class.default_configs(
            resolved.arguments.resolution or SIDE, CHANNELS, None, resolved.components
        )
    except (HFGenError, KeyError):  # a family may need the options of a component that only a source has
        return {}


def _line(key: str, value: Any) -> str:
    value = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)
    return f"{key}: {text.removesuffix('...' + chr(10)).strip()}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
