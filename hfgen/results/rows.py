"""The rows of a comparison, and the marks that say which value is best."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hfgen.results.metrics import LIKELIHOOD, METRICS
from hfgen.results.records import Result


@dataclass
class Row:
    """A result beside others.

    Attributes:
        values: metric -> value, error, error_of and, where there is one, mark.
        likelihood: how it was found; None where it was not measured.
        hardware: index into the comparison's; seconds compare only where it is the same.
    """

    result: Result
    name: str
    sampler: str
    values: dict[str, dict[str, Any]]
    likelihood: Mapping[str, Any] | None
    hardware: int

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "file": self.result.path.name,
            "sampler": self.result.sampler,
            "values": self.values,
            "likelihood": self.likelihood,
            "hardware": self.hardware,
            "weights_sha256": self.result.key[1],
        }


ERRORS = 2  # an interval is value +- so many standard errors

Mark = Literal["best", "not separable"]


def mark(rows: Sequence["Row"]) -> None:
    """Mark in the rows' values the best, and those that cannot be separated from it; likelihoods within a kind."""
    for name, metric in METRICS.items():
        kinds: dict[str, list[Row]] = {}
        for row in rows if metric.better else ():
            if name in row.values:
                kinds.setdefault(_way(row) if name in LIKELIHOOD else "", []).append(row)
        for alike in kinds.values():
            # equal values of one model are one: its likelihood is the same in however many steps images are drawn
            keys = [(row.result.key, row.values[name]["value"], row.values[name].get("error")) for row in alike]
            distinct = list(dict.fromkeys(keys))
            marks = judge([(value, error) for _, value, error in distinct], metric.better == "lower")
            for row, key in zip(alike, keys, strict=True):
                if found := marks[distinct.index(key)]:
                    row.values[name]["mark"] = found


def _way(row: Row) -> str:
    """The facts of a likelihood that must agree in a ranking; the options that led there are not one of them."""
    found = {name: value for name, value in (row.likelihood or {}).items() if name != "options"}
    return json.dumps(found, sort_keys=True)


def judge(values: Sequence[tuple[float, float | None]], lower: bool) -> list[Mark | None]:
    """Mark each (value, standard error): none is marked where one has no error, or there is only one.

    >>> judge([(1.0, 0.1), (2.0, 0.1)], lower=True)
    ['best', None]
    >>> judge([(1.0, 0.1), (1.3, 0.1), (2.0, 0.1)], lower=True)
    ['not separable', 'not separable', None]
    >>> judge([(1.0, None), (2.0, 0.1)], lower=True)
    [None, None]
    """
    marks: list[Mark | None] = [None] * len(values)
    if len(values) < 2 or any(error is None for _, error in values):
        return marks
    best = min(range(len(values)), key=lambda i: values[i][0] if lower else -values[i][0])
    near = [i for i in range(len(values)) if i != best and _overlap(values[i], values[best])]
    for i in [best, *near]:
        marks[i] = "not separable" if near else "best"
    return marks


def _overlap(one: tuple[float, float | None], other: tuple[float, float | None]) -> bool:
    return abs(one[0] - other[0]) <= ERRORS * ((one[1] or 0) + (other[1] or 0))
