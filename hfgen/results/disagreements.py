"""Errors that say why results do not compare: the rules that differ, and the commands that make them agree."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from hfgen.errors import UsageError, did_you_mean
from hfgen.results.protocol import differing_fields, list_protocols, read_protocol
from hfgen.results.records import Result

OPTIONS = {
    "num_images": "num_images",
    "seed": "seed",
    "extractor": "extractor",
    "resolution": "resolution",
    "likelihood_images": "num_likelihood_images",
}


def several_protocols(names: Sequence[str]) -> UsageError:
    return UsageError(f"The targets have results of several protocols; choose one: --protocol {' or '.join(names)}.")


def no_common_protocol(names: Mapping[str, Sequence[str]], asked: str | None) -> UsageError:
    """`names` are those of each target's results."""
    every = dict.fromkeys(name for of in names.values() for name in of)
    if asked is not None and asked not in every:
        return UsageError(f"--protocol: no target has results of {asked!r}.{did_you_mean(asked, every)}")
    wanted = asked or max(every, key=lambda name: sum(name in of for of in names.values()))
    without = next(target for target, of in names.items() if wanted not in of)
    other = next(target for target, of in names.items() if wanted in of)
    return UsageError(
        "The results are of different protocols, so their values do not compare:\n"
        f"  {other}: {', '.join(names[other])}\n  {without}: {', '.join(names[without])}\n"
        f"Measure again: hfgen evaluate {without} --protocol {wanted}"
    )


def no_common_rules(one: Result, other: Result, fields: Sequence[str]) -> UsageError:
    """Two results of one protocol's name in which these fields are not the same."""
    values = "; ".join(f"{field} {_short(_value(one, field))} / {_short(_value(other, field))}" for field in fields)
    return UsageError(
        f"{one.target} and {other.target} were measured by different rules, so their values do not compare:\n"
        f"{_in_lines(values, 2)}\n{what_to_do(one, other.target, fields)}"
    )


def several_rules(one: Result, other: Result, fields: Sequence[str]) -> UsageError:
    """Two sets of rules under which every target has results, one result of each."""
    values = "; ".join(f"{f} {_short(_value(one, f))} or {_short(_value(other, f))}" for f in fields)
    return UsageError(
        "All targets were measured by several rules; which are meant? They differ in\n"
        f"{_in_lines(values, 2)}\nName the result files of one kind, such as {one.path}."
    )


def what_to_do(one: Result, target: str, fields: Sequence[str]) -> str:
    """The command that measures `target` by the rules of `one`, and what must be there before."""
    protocol = one.protocol
    name, built_in = protocol["name"], protocol["name"] in list_protocols()
    changed = differing_fields(protocol, read_protocol(name).to_dict()) if built_in else fields
    words = ["hfgen evaluate", target, "--protocol", name if built_in else f"{name}.yaml"]
    if {"dataset", "split", "reference_sha256", "reference.sha256"} & set(fields):
        words += ["--dataset_name", str(one.reference["name"])]
    for field, option in OPTIONS.items():
        words += [f"--{option}", str(protocol[field])] if field in changed and protocol.get(field) is not None else []
    if {"extractor_sha256", "extractor.weights_sha256"} & set(fields):
        words += ["--extractor_weights", "THE-SAME-FILE"]
    libraries = [f.removeprefix("versions.") for f in fields if f.startswith("versions.")]
    pins = ", ".join(f"{library}=={one.versions.get(library)}" for library in libraries)
    start = f"With {pins} installed, measure" if pins else "Measure"
    return f"{start} again: {' '.join(words)}{_file(protocol, changed)}"


def _file(protocol: Mapping[str, Any], changed: Sequence[str]) -> str:
    """The fields that a protocol file must set, because no option does."""
    fixed = [f for f in changed if f in protocol and f not in (*OPTIONS, "dataset", "split")]
    rules = [f"{f}: {protocol[f]}" for f in fixed if not f.endswith("sha256")]
    return f"\nwhere --protocol names a file with {', '.join(rules)}" if rules else ""


def _value(result: Result, field: str) -> Any:
    section, _, name = field.partition(".")
    return getattr(result, section).get(name) if name else result.protocol.get(field)


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else text  # a hash


def _in_lines(text: str, count: int) -> str:
    return "\n".join(
        textwrap.wrap(text, 119, initial_indent="  ", subsequent_indent="  ", max_lines=count, placeholder=" ...")
    )
