"""What the commands share: options made from a dataclass, dotted options, ranges of numbers."""

import dataclasses
import types
import typing
from collections.abc import Callable
from typing import Any, Literal

import click
import yaml

from hfgen.settings.arguments import HINTS, TrainingArguments

CALL_OPTIONS = (
    "num_inference_steps",
    "eta",
    "guidance_scale",
    "timestep_spacing",
    "clip_sample",
)  # of a pipeline's call, on the command line


def dataclass_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """One click option per field of TrainingArguments, unset unless given: the defaults are resolved later."""
    for f in reversed(dataclasses.fields(TrainingArguments)):
        function = _option(f, HINTS[f.name])(function)
    return function


def _option(f: "dataclasses.Field[Any]", hint: Any) -> Callable[[Any], Any]:
    shown = "" if f.default is None else f"  [default: {f.default}]"
    help_text, hidden = f.metadata["help"] + shown, f.metadata.get("hidden", False)
    if hint is bool:
        return click.option(f"--{f.name}/--no_{f.name}", default=None, help=help_text, hidden=hidden)
    return click.option(f"--{f.name}", type=_click_type(hint), default=None, help=help_text, hidden=hidden)


def _click_type(hint: Any) -> Any:
    if typing.get_origin(hint) is Literal:
        return click.Choice(typing.get_args(hint))
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


class DottedCommand(click.Command):
    """Takes `--COMPONENT.KEY VALUE` beside its own options; they arrive as the parameter `dotted`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest, dotted = split_dotted(args)
        parsed = super().parse_args(ctx, rest)
        ctx.params["dotted"] = dotted
        return parsed


def split_dotted(args: list[str]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Take the dotted options out of a command line; their values are read as YAML.

    >>> split_dotted(["dcgan", "--generator.base_channels", "32", "--seed", "1", "--scheduler.latent_shape=[64]"])
    (['dcgan', '--seed', '1'], {'generator': {'base_channels': 32}, 'scheduler': {'latent_shape': [64]}})
    """
    rest: list[str] = []
    dotted: dict[str, dict[str, Any]] = {}
    waiting = list(args)
    while waiting:
        word = waiting.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or "." not in name:
            rest.append(word)
            continue
        if not equals:
            if not waiting:
                raise click.UsageError(f"Option --{name} needs a value.")
            value = waiting.pop(0)
        component, _, option = name.replace("-", "_").partition(".")
        try:
            dotted.setdefault(component, {})[option] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise click.UsageError(f"Option --{name}: {value!r} is no value.") from None
    return rest, dotted


def parse_numbers(text: str) -> list[int]:
    """
    >>> parse_numbers("3,7,10-12")
    [3, 7, 10, 11, 12]
    """
    numbers: list[int] = []
    for part in text.split(","):
        start, dash, end = part.strip().partition("-")
        if not start.isdigit() or (dash and not end.isdigit()):
            raise click.UsageError(f"{text!r} is no list of numbers such as 3,7,10-20.")
        if dash and int(end) < int(start):
            raise click.UsageError(f"{text!r}: {start}-{end} counts down; write {end}-{start}.")
        numbers += range(int(start), int(end or start) + 1)
    return numbers
