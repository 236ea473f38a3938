"""Classes of a model, as they are typed: names, numbers, ranges of numbers."""

import re
from collections.abc import Sequence
from pathlib import Path

from hfgen.commands.options import parse_numbers
from hfgen.errors import HFGenError, UsageError, did_you_mean

LISTED = 20  # classes that a message lists

NUMBERS = re.compile(r"\d+(-\d+)?", re.ASCII)


def known_classes(target: str, revision: str | None) -> list[str] | None:
    """Return the names of a model's classes; None where it comes without the record of its run."""
    from hfgen import run_folder
    from hfgen.hub.download import local_folder

    try:
        return run_folder.class_names(Path(local_folder(target, [run_folder.ENVIRONMENT], revision=revision)))
    except HFGenError:
        return None  # loading it will say what is wrong


def parse_classes(text: str, names: Sequence[str] | None) -> list[int]:
    """Parse a list of classes. Where all names are numbers, a number is a name.

    >>> parse_classes("dog,0", ["cat", "dog"]), parse_classes("7", ["5", "7"]), parse_classes("1-2", None)
    ([1, 0], [1], [1, 2])

    Raises:
        UsageError: a name that the model does not have.
    """
    if names is None:
        return parse_numbers(text)
    known = {name.casefold(): number for number, name in reversed([*enumerate(names)])}
    known |= {name: number for number, name in reversed([*enumerate(names)])}
    whole, are_numbers = text.strip(), all(name.isdecimal() for name in names)
    found: list[int] = []
    for part in [whole] if whole in known else map(str.strip, whole.split(",")):
        if (number := known.get(part, known.get(part.casefold()))) is not None:
            found.append(number)
        elif NUMBERS.fullmatch(part):
            numbers = parse_numbers(part)
            found += [_named(str(number), names) for number in numbers] if are_numbers else numbers
        else:
            found.append(_named(part, names))
    return found


def _named(name: str, names: Sequence[str]) -> int:
    if name in names:
        return names.index(name)
    near = did_you_mean(name, names)
    told = near if "Known" not in near or len(names) <= LISTED else f" It has {len(names)} classes."
    raise UsageError(f"--class_labels: the model has no class {name!r}.{told}")
