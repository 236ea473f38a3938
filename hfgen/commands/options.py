"""Options that commands share: of `TrainingArguments`, of loading; dotted ones; those of a model's own; numbers."""

import dataclasses
import difflib
import functools
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import click
import yaml

from hfgen.settings.arguments import HINTS, TrainingArguments

TARGET = "hfgen.target"  # of a command line whose help is asked for
Decorator = Callable[[Any], Any]


def dataclass_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add an option per field of `TrainingArguments`; one that is not given is None, defaults are resolved later."""
    fields = [
        f for f in dataclasses.fields(TrainingArguments) if f.name not in ("optimizer", "data")
    ]  # dotted options
    return _together(*(_option(f, HINTS[f.name]) for f in fields))(function)


def _option(f: "dataclasses.Field[Any]", hint: Any) -> Decorator:
    shown = "" if f.default is None else f"  [default: {f.default}]"
    help_text, hidden = f.metadata["help"] + shown, f.metadata["hidden"]
    if hint is bool:
        return click.option(f"--{f.name}/--no_{f.name}", default=None, help=help_text, hidden=hidden)
    return click.option(f"--{f.name}", type=_click_type(hint), default=None, help=help_text, hidden=hidden)


def _click_type(hint: Any) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):  # the latter of a Literal and None
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    return click.Choice(typing.get_args(hint)) if typing.get_origin(hint) is Literal else hint


def _together(*options: Decorator) -> Decorator:
    """Return one decorator for several options, which `--help` lists in this order."""
    return lambda function: functools.reduce(lambda decorated, option: option(decorated), reversed(options), function)


READING = tuple(
    "dataset_split dataset_config_name image_column label_column on_error all_frames image_mode value_range".split()
)


def reading_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a training by which data are read."""
    fields = {f.name: f for f in dataclasses.fields(TrainingArguments)}
    return _together(*(_option(fields[name], HINTS[name]) for name in READING))(function)


scheduler_option = click.option(
    "--scheduler", help="Another scheduler of diffusers, for a model that samples in many steps: euler ..."
)
loading_options = _together(
    click.option("--device", help="cpu, cuda ... (default: an accelerator if there is one)."),
    click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), help="Precision of the weights."),
    click.option("--variant", help="Variant of the weights."),
    click.option("--revision", help="Branch, tag or commit of a repository."),
)


class DottedCommand(click.Command):
    """A command that takes `--COMPONENT.KEY VALUE` beside its own options, as the parameter `dotted`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest, dotted = split_dotted(args)
        parsed = super().parse_args(ctx, rest)
        ctx.params["dotted"] = dotted
        return parsed


class OwnOptionsCommand(DottedCommand):
    """A command that also takes options of the model's own, which are known once its family is.

    They arrive as the parameter `own`: name -> text, None for one without a value; dotted ones as `dotted`. With
    `VERB FOLDER --help`, those of the model in that folder are listed.
    """

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        rows = [] if (target := ctx.meta.get(TARGET)) is None else _own_rows(target)
        if rows:
            with formatter.section(f"Options of {target}"):
                formatter.write_dl(rows)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = {word for p in self.get_params(ctx) for word in [*p.opts, *p.secondary_opts]}
        ctx.meta[TARGET] = next((word for word in args if not word.startswith("-") and Path(word).is_dir()), None)
        rest, own = split_own(args, known)
        try:
            parsed = super().parse_args(ctx, rest)
        except click.MissingParameter:  # a mistyped flag has taken the next word
            for name in own:
                raise click.NoSuchOption(f"--{name}", possibilities=_near(f"--{name}", known), ctx=ctx) from None
            raise
        ctx.params["own"] = own
        return parsed


def _own_rows(target: str) -> list[tuple[str, str]]:
    """Return the options of a local model's own, and of its scheduler, with their types, defaults and help."""
    from hfgen.errors import HFGenError
    from hfgen.evaluation.any_pipeline import classes_at
    from hfgen.settings.options import signature_of
    from hfgen.settings.signatures import declared, described

    try:
        pipeline_class, scheduler_class = classes_at(target)
    except HFGenError:
        return []  # whatever is wrong with it, the command itself will say
    found = described(pipeline_class, "sample") if hasattr(pipeline_class, "sample") else {}
    of_scheduler = {} if scheduler_class is None else signature_of(scheduler_class)
    rows = [(f"--{name}", words) for name, words in found.items()]
    return rows + [(f"--scheduler.{name}", declared(p)) for name, p in of_scheduler.items()]


def _near(word: str, known: set[str]) -> list[str]:
    return difflib.get_close_matches(word, sorted(known))


def split_own(args: list[str], known: Collection[str]) -> tuple[list[str], dict[str, str | None]]:
    """Split a command line into its other words and the options that are not among `known`.

    >>> split_own(["run", "--eta", "1", "--seed", "1", "--fast", "--x=2", "--a.b", "3"], {"--seed"})
    (['run', '--seed', '1', '--a.b', '3'], {'eta': '1', 'fast': None, 'x': '2'})
    """
    rest: list[str] = []
    own: dict[str, str | None] = {}
    waiting = list(args)
    while waiting:
        word = waiting.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not word.startswith("--") or f"--{name}" in known or "." in name or not name.isidentifier():
            rest.append(word)
            continue
        follows = bool(waiting) and not waiting[0].startswith("--")
        own[name] = value if equals else waiting.pop(0) if follows else None
    return rest, own


def split_dotted(args: list[str]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Split a command line into its other words and its dotted options, whose values are read as YAML.

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
            raise click.UsageError(f"Option --{name}: {value!r} is not a YAML value.") from None
    return rest, dotted


def refuse_dotted(dotted: Mapping[str, Mapping[str, Any]], known: Collection[str]) -> None:
    """Raise an error of a dotted option that is not one of these of the command."""
    for name, options in dotted.items():
        if name not in known:
            raise click.NoSuchOption(f"--{name}.{next(iter(options))}")


def is_given(parameter: str) -> bool:
    """Return True if the command line itself holds an option of the command that runs."""
    source = click.get_current_context().get_parameter_source(parameter)
    return source is click.core.ParameterSource.COMMANDLINE


def refuse_given(parameters: Iterable[str], why: str) -> None:
    """Raise a usage error of options that were given and would have no effect.

    Args:
        parameters: their names in the command's function.
        why: ends the sentence `--num_frames has no effect ...`.
    """
    for parameter in filter(is_given, parameters):
        raise click.UsageError(f"{_word(parameter)} has no effect {why}. Leave it out.")


def refuse_beside(parameter: str, others: Iterable[str]) -> None:
    """Raise a usage error of options that have no effect beside another one, if that was given."""
    if is_given(parameter):
        refuse_given(others, f"beside {_word(parameter)}")


def _word(parameter: str) -> str:
    """Return an option as it is written; of a pair that a flag switches, the word for its value."""
    context = click.get_current_context()
    option = next(p for p in context.command.params if p.name == parameter)
    words = option.secondary_opts if context.params.get(parameter) is False else option.opts
    return next(word for word in words or option.opts if word.startswith("--"))


def parse_numbers(text: str) -> list[int]:
    """Parse a list of numbers and ranges.

    >>> parse_numbers("3,7,10-12")
    [3, 7, 10, 11, 12]
    """
    numbers: list[int] = []
    for part in text.split(","):
        start, dash, end = part.strip().partition("-")
        if not start.isdigit() or (dash and not end.isdigit()):
            raise click.UsageError(f"{text!r} is not a list of numbers; expected for example 3,7,10-20.")
        if dash and int(end) < int(start):
            raise click.UsageError(f"{text!r}: {start}-{end} counts down; write {end}-{start}.")
        numbers += range(int(start), int(end or start) + 1)
    return numbers
