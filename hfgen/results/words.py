"""Results of measurements as words: a value with its error, and under what rules it was found."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hfgen.results.metrics import LIKELIHOOD
from hfgen.results.records import Result


def shown(value: Mapping[str, Any]) -> str:
    """Format a value to the digits that its error leaves.

    >>> shown({"value": 1.23456, "error": 0.0321}), shown({"value": 0.0001234}), shown({"value": 81010.0})
    ('1.235 +- 0.032', '0.0001234', '81,010')
    """
    number, error = value["value"], value.get("error")
    if error:
        digits = max(0, 1 - math.floor(math.log10(error)))
        return f"{number:.{digits}f} +- {error:.{digits}f}"
    return f"{number:,.0f}" if number == int(number) else f"{number:.4g}"


BOUNDS = {"bits_per_dim": "<= ", "bits_per_byte": "<= ", "nats": ">= "}


def marked(name: str, value: Mapping[str, Any], likelihood: Mapping[str, Any] | None) -> str:
    """Format the value of a metric, with a mark where it is a bound or an estimate.

    >>> [marked("nats", {"value": -86.7}, {"kind": kind}) for kind in ("lower bound", "estimate", "exact")]
    ['>= -86.7', 'about -86.7', '-86.7']
    """
    kind = likelihood["kind"] if likelihood and name in LIKELIHOOD else "exact"
    return {"lower bound": BOUNDS.get(name, ""), "exact": ""}.get(kind, "about ") + shown(value)


def kind_of(likelihood: Mapping[str, Any] | None, noun: str = "images") -> str:
    """`lower bound, 8 importance samples, of 256 values, 1,000 images`"""
    if likelihood is None:
        return "-"
    found, samples = likelihood, likelihood.get("num_importance_samples")
    parts = [found["kind"], *([found["method"]] if found.get("method") else [])]
    parts += [f"{samples} importance {'sample' if samples == 1 else 'samples'}"] if samples else []
    parts += [f"of {found['num_values']} values" if found.get("num_values") else "a density"]
    return ", ".join(map(str, [*parts, f"{found['images']} {noun}"] if found.get("images") else parts))


def under(result: Result) -> str:
    """`mnist-v1, 10,000 images, seeds 0 to 9999, digitnet-mnist, DDIMScheduler, num_inference_steps 50`"""
    protocol = result.protocol
    parts = [protocol["name"]]
    if result.extractor:
        first, count = protocol["seed"], protocol["num_images"]
        parts += [
            f"{count:,} {result.noun}, seeds {first} to {first + count - 1}",
            extractor_in_words(result.extractor),
        ]
    parts += [result.sampler["scheduler"]]
    parts += [f"{name} {value}" for name, value in result.choices.items() if name != "scheduler"]
    return ", ".join(parts)


def extractor_in_words(extractor: Mapping[str, Any]) -> str:
    """Return an extractor's name, and how images came to its channels where they had others.

    >>> extractor_in_words({"name": "scattering", "channels": "gray repeated to 3 channels"})
    'scattering (gray repeated to 3 channels)'
    """
    return extractor["name"] + (f" ({extractor['channels']})" if extractor.get("channels") else "")


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """Columns as wide as their widest value.

    >>> print(table([{"name": "a", "class": "Long"}, {"name": "bcd", "class": "X"}]))
    a    Long
    bcd  X
    """
    widths = [max(len(value) for value in column) for column in zip(*(row.values() for row in rows), strict=True)]
    lines = ("  ".join(v.ljust(w) for v, w in zip(row.values(), widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


# --- Markdown ---------------------------------------------------------------------------------------------------
def plain_text(text: str) -> str:
    """Return a text, which may be a stranger's, as Markdown that shows it as it is."""
    return re.sub(r"([\\`*_{}\[\]<>|~#&$])", r"\\\1", text)


def markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def markdown_table(columns: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown, its numbers with five digits.

    >>> print(markdown_table(["layer", "norm"], [["a|b", 0.123456]]))
    | layer | norm |
    |---|---|
    | a\\|b | 0.12346 |
    """
    head = [markdown_row(map(_cell, columns)), f"|{'---|' * len(columns)}"]
    return "\n".join([*head, *(markdown_row(map(_cell, row)) for row in rows)])


def _cell(cell: Any) -> str:
    return f"{cell:.5g}" if isinstance(cell, float) else plain_text(" ".join(str(cell).split()))
