"""Options of scripts that a recipe stands in for.

A recipe `NAME.yaml` that holds the defaults of a script NAME.py may have a block `script_options`. It says what an
option becomes that only the script has, or that means something else there:

    num_steps: scheduler.num_train_timesteps              # sets that key
    local_rank: {ignored: the launcher sets it}           # has no effect here, and the reason
    fast: {flag: true, ignored: it always is}             # takes no value
    data_dir: {ignored: ..., beside: dataset_name}        # has no effect if the other option is given
    center_crop: {absent: ...}                            # a note for the user if the option is not given
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from hfgen.commands.recipes import SCRIPT_OPTIONS, list_recipes
from hfgen.files import read_config_file
from hfgen.settings.arguments import canonical
from hfgen.settings.options import nest_options

Spec = Mapping[str, Any]


def script_options(recipe: Path) -> Spec:
    """Read the block `script_options` of a recipe, each of its values as a dictionary."""
    block = read_config_file(recipe).get(SCRIPT_OPTIONS) or {}
    return {name: {"to": what} if isinstance(what, str) else what for name, what in block.items()}


def take_out(words: Sequence[str], known: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """Split a command line into its other words and the options that only a script has.

    Args:
        known: the options of the command itself; if the words have no others, no recipe is read.

    Returns:
        the other words; the script's options, name -> text, empty for a flag.
    """
    known = set(known)
    if not any(_name(word) and _name(word) not in known and "." not in _name(word) for word in words):
        return list(words), {}
    specs: dict[str, Any] = {}
    for recipe in list_recipes().values():
        specs |= {name: spec for name, spec in script_options(recipe).items() if name not in known}
    rest, taken, waiting = [], {}, list(words)
    while waiting:
        word = waiting.pop(0)
        name, (_, equals, value) = _name(word), word.partition("=")
        if name not in specs:
            rest.append(word)
            continue
        if not specs[name].get("flag") and not equals:
            if not waiting:
                raise click.UsageError(f"Option --{name} needs a value.")
            value = waiting.pop(0)
        taken[name] = value
    return rest, taken


def _name(word: str) -> str:
    """Return `some_option` for `--some-option=3`, and an empty text for a word that does not begin with `--`."""
    return canonical(word[2:].partition("=")[0]) if word.startswith("--") else ""


def translate(
    spec: Spec, taken: Mapping[str, str], given: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Translate a script's command line to settings of hfgen.

    Args:
        spec: the script's own options; empty if the recipe stands in for no script.
        taken: those that were given, as text.
        given: all options of the command; None if one was not given.

    Returns:
        the settings that the script's own options set; the part of `given` that has an effect; a line for each option
        that does not do what it does in the script.

    Raises:
        click.UsageError: an option belongs to another script.
    """
    for name in taken:
        if name not in spec:
            known = [recipe for recipe, file in list_recipes().items() if name in script_options(file)]
            raise click.UsageError(f"No such option: --{name}. It belongs to the recipe {known[0]}.")
    flat: dict[str, Any] = {}
    kept, notes = dict(given), []
    for name, what in spec.items():
        if name in taken and "to" in what:
            flat[what["to"]] = _value(name, taken[name])
        is_given = name in taken or given.get(name) is not None
        if "absent" in what and not is_given:
            notes.append(f"without --{name}: {what['absent']}")
        if "ignored" in what and is_given and ("beside" not in what or given.get(what["beside"]) is not None):
            kept.pop(name, None)
            notes.append(f"--{name} has no effect: {what['ignored']}")
    blocks = nest_options({key: value for key, value in flat.items() if "." in key})
    return {**{key: value for key, value in flat.items() if "." not in key}, **blocks}, kept, notes


def _value(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise click.UsageError(f"Option --{name}: {text!r} is not a YAML value.") from None
