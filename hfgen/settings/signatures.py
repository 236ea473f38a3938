"""Options of a pipeline's methods, from their signatures: names, types, defaults, and help from the docstring."""

import difflib
import inspect
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import yaml

from hfgen.errors import UsageError, did_you_mean
from hfgen.settings.resolve import accepts, typed_options

Parameters = dict[str, inspect.Parameter]
IMAGES = ("images", "class_labels", "seeds")
GIVEN = {  # method -> what hfgen itself hands it; its further parameters are options
    "sample": ("noise", "class_labels", "num_inference_steps", "given"),
    "decode": ("latents", "class_labels"),
    "encode": IMAGES,
    "reconstruct": IMAGES,
    "log_likelihood": IMAGES,
    # of pipelines that belong to no family
    "__call__": ("batch_size", "generator", "class_labels", "num_inference_steps", "output_type", "return_dict"),
}
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
ARGUMENT = re.compile(r" {4}(\w+(?:, \w+)*): (.*)")


def own_options(pipeline_class: type, method: str) -> Parameters:
    """Return what a method takes beyond what hfgen hands it: name -> parameter, with evaluated annotations."""
    parameters = _signature(getattr(pipeline_class, method)).parameters
    return {n: p for n, p in parameters.items() if n not in ("self", *GIVEN[method]) and p.kind in NAMED}


def _signature(method: Any) -> inspect.Signature:
    try:
        return inspect.signature(method, eval_str=True)
    except NameError:  # an annotation that only type checkers import
        return inspect.signature(method)


def refuse_options(pipeline: Any, options: Mapping[str, Any], *methods: str, also: Collection[str] = ()) -> None:
    """Raise a UsageError for an option that one of these methods of the pipeline does not take.

    Args:
        also: arguments that every pipeline takes there, for the message.
    """
    for name in options:
        for method in methods:
            known = own_options(type(pipeline), method)
            if name not in known:
                hint = did_you_mean(name, known) if known else " It takes no options of its own."
                if also:
                    hint = did_you_mean(name, [*known, *also])
                raise UsageError(f"{type(pipeline).__name__}.{method} takes no {name}.{hint}")


# --- words of a command line ------------------------------------------------------------------------------------
def typed_texts(taken: Mapping[str, inspect.Parameter], texts: Mapping[str, str | None]) -> dict[str, Any]:
    """Convert an option's text, which is YAML, to the type that a signature annotates; None is a flag: true.

    Raises:
        UsageError: a text that is not of the type, or a flag of another type than true or false.
    """
    return typed_options(taken, {n: _value(n, taken[n].annotation, text) for n, text in texts.items()}, prefix="")


def _value(name: str, hint: Any, text: str | None) -> Any:
    if text is None:
        if not accepts(hint, True):
            raise UsageError(f"--{name} needs a value.")
        return True
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return text if not accepts(hint, value) and accepts(hint, text) else value  # `--prompt 3` is a text


def unknown_option(name: str, who: str, taken: Iterable[str], others: Iterable[str]) -> UsageError:
    """Return the error of an option that a model does not take: the nearest name, else all that it takes.

    Args:
        who: the words for what takes the options.
        taken: the options that it takes.
        others: further names that may have been meant.
    """
    taken = list(taken)
    near = difflib.get_close_matches(name, {*taken, *others} - {name}, n=1)
    if near:
        return UsageError(f"No such option: --{name}. Did you mean --{near[0]}?")
    listed = f"It takes {', '.join(f'--{option}' for option in taken)}." if taken else "It takes none of its own."
    return UsageError(f"--{name}: {who} takes no such option. {listed}")


# --- descriptions -----------------------------------------------------------------------------------------------
def described(pipeline_class: type, method: str) -> dict[str, str]:
    """Return each option of a method as it is declared, with its help: `float = 0.0: randomness of each step`."""
    words, given = help_of(getattr(pipeline_class, method)), own_options(pipeline_class, method)
    return {name: declared(p) + (f": {words[name]}" if name in words else "") for name, p in given.items()}


def declared(parameter: inspect.Parameter) -> str:
    """Return type and default as a signature writes them: `int = 64`."""
    text = str(parameter)[len(parameter.name) :].removeprefix(":").strip()
    return re.sub(r"Optional\[(.+)\](?= = |$)", r"\1 | None", re.sub(r"\b(typing|collections\.abc)\.", "", text))


def help_of(method: Any) -> dict[str, str]:
    """Return the words of each argument in the docstring's `Args:`, on one line.

    >>> help_of(unknown_option)["taken"]
    'the options that it takes.'
    """
    _, _, arguments = (inspect.getdoc(method) or "").partition("\nArgs:\n")
    found: dict[str, list[str]] = {}
    names: list[str] = []
    for line in arguments.splitlines():
        if line and not line.startswith(" "):  # the next section
            break
        if start := ARGUMENT.fullmatch(line):
            names = start[1].split(", ")
            found |= {name: [start[2]] for name in names}
        else:
            for name in names:
                found[name].append(line.strip())
    return {name: " ".join(filter(None, lines)) for name, lines in found.items()}
