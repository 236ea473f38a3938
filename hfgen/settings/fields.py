"""An option is a field of a dataclass: its default, help, range, aliases and resume rule.

This module imports no torch: the command line's help comes from it.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any, Literal

from hfgen.errors import UsageError


def option(
    default: Any,
    help: str,
    *,
    resume: Literal["fixed", "reported", "free"],
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    aliases: Sequence[str] = (),
    saved: bool = True,
    hidden: bool = False,
    secret: bool = False,
) -> Any:
    """Declare a field of a dataclass of options, with everything that is known about the option.

    Args:
        resume: what a resumed run does with another value than its checkpoint's: "fixed" refuses it, "reported"
            goes on with it and says so, "free" goes on.
        at_least, above, below: bounds of a number.
        aliases: other names on the command line and in files, as transformers and older diffusers scripts have them.
        saved: whether `config.yaml` holds it: not where a run was written, resumed from or pushed to.
        hidden: left out of `--help`.
        secret: left out of `repr`.
    """
    rules = {"at_least": at_least, "above": above, "below": below}
    bounds = {rule: bound for rule, bound in rules.items() if bound is not None}
    metadata = {"help": help, "resume": resume, "bounds": bounds, "aliases": aliases, "saved": saved, "hidden": hidden}
    return field(default=default, repr=not secret, metadata=metadata)


def check_bounds(name: str, value: Any, bounds: Mapping[str, float]) -> None:
    """Raise a UsageError if a number is not finite or breaks a bound, as `option` declares it."""
    if value is None or not bounds:
        return
    finite = math.isfinite(value)
    if not finite or not all(HOLDS[rule](value, bound) for rule, bound in bounds.items()):
        expected = ["finite"] * (not finite) + [f"{rule.replace('_', ' ')} {bound}" for rule, bound in bounds.items()]
        raise UsageError(f"--{name} is {value}; it must be {' and '.join(expected)}.")


HOLDS: dict[str, Callable[[Any, Any], bool]] = {"at_least": operator.ge, "above": operator.gt, "below": operator.lt}
