"""Classes of a dataset are given the numbers that a model has for their names."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from hfgen.data.facts import Items
from hfgen.data.labels import table
from hfgen.errors import UsageError

Found = TypeVar("Found", bound=Items)


def aligned(items: Found, names: Sequence[str] | None, num_classes: int | None) -> Found:
    """Return the items with the class numbers of a model, found by name.

    Data without names have numbers, which are names too; where only one side has words, numbers are left as they are.

    Args:
        names: the model's, as its run remembers them; None for numbers, and for an older run that kept none.
        num_classes: of the model; None for one without classes, for which nothing is changed.

    Raises:
        UsageError: some of the items are of a class that the model does not have.
    """
    if num_classes is None or items.labels is None or items.num_classes is None:
        return items
    ours = list(names or map(str, range(num_classes)))
    theirs = items.label_names or [str(number) for number in range(items.num_classes)]
    if (names is None and not _are_numbers(theirs)) or (items.label_names is None and not _are_numbers(ours)):
        if items.num_classes > num_classes:
            raise UsageError(f"{items.name} has {items.num_classes} classes, and the model has {num_classes}.")
        return items
    exact = {name: number for number, name in reversed([*enumerate(ours)])}
    folded = {name.casefold(): number for number, name in reversed([*enumerate(ours)])}
    numbers = [exact.get(name, folded.get(name.casefold(), -1)) for name in theirs]
    seen = sorted({int(label) for label in items.labels.unique() if label >= 0})
    unknown = [theirs[label] for label in seen if numbers[label] < 0]
    if unknown:
        raise UsageError(
            f"{items.name} has {items.noun[1]} of classes that the model does not have: {', '.join(unknown[:8])}"
            f"{' ...' if len(unknown) > 8 else ''}.\nIts classes are {table(ours)}."
        )
    if numbers == [*range(len(theirs))] and len(theirs) <= num_classes:
        return items if names is None else replace(items, label_names=ours)
    labels = torch.tensor([*numbers, -1])[items.labels]  # -1 stays -1
    return replace(items, labels=labels, label_names=ours)


def _are_numbers(names: Sequence[str]) -> bool:
    return all(name.removeprefix("-").isdecimal() for name in names)
