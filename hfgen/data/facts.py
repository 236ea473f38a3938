"""Facts of a dataset that was found and looked at, whatever its items are; and its items by number."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

Options = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts of a dataset that was found and inspected, but not read.

    Attributes:
        noun: one item and several.
        name: as the user gave it.
        count: number of items; None for a stream of unknown length.
        notes: lines for the user.
        label_names: name of each class; None where there are no classes, or they are numbers.
        label_problem: why items have no class, or which have none; None where nothing is known to be wrong.
        splits: names of all splits that the dataset has, as far as known.
        dataset_id: id on the Hub, for the card; None for local data.
    """

    noun: ClassVar[tuple[str, str]] = ("item", "items")

    name: str
    count: int | None
    notes: list[str] = field(default_factory=list)
    label_names: list[str] | None = None
    label_problem: str | None = None
    splits: list[str] = field(default_factory=list)
    dataset_id: str | None = None

    @property
    def num_classes(self) -> int | None:
        return len(self.label_names) if self.label_names else None

    @property
    def all_labeled(self) -> bool:
        """Return whether each item has a class."""
        return self.num_classes is not None

    @property
    def how_to_label(self) -> str:
        """The advice to a user who wants labels where there are none."""
        return f"Put the {self.noun[1]} in one sub-folder per class, or name a column: --label_column."

    def num_examples(self, options: Options) -> int | None:
        """Return how many items a pass over the data trains on: of texts, blocks; None where it is not known."""
        return self.count

    def counted(self, options: Options) -> str:
        """Return the size of the data in words: `5,000 images`, `a stream of images`."""
        one, several = self.noun
        noun = one if self.count == 1 else several
        return f"a stream of {noun}" if self.count is None else f"{self.count:,} {noun}"

    def renumbered(self, names: Sequence[str]) -> Self:
        """Return streamed data whose classes have the numbers that a run gave them, where that can be done."""
        return self

    def words(self, options: Options) -> str:
        """Return the form of the items in a few words: `L, 28x28`."""
        return ""

    def info(self) -> dict[str, Any]:
        """Return what `hfgen info` shows of the items' form."""
        return {}

    def recorded(self, options: Options) -> dict[str, Any]:
        """Return what a run remembers of the form of its data, beside name, count and classes; JSON."""
        return {}

    def read_as(self, recorded: Mapping[str, Any]) -> Self:
        """Return the data read as a run did before, which recorded this of them."""
        return self

    def read_like(self, trained_on: Any) -> Self:
        """Return validation data read as the training data were."""
        return self

    def refuse_other(self, trained_on: Any, options: Options) -> None:
        """Raise a UsageError of validation data whose form differs from that of the training data."""


def described(facts: Facts) -> dict[str, Any]:
    """Return what identifies a dataset in public: its id, or the last part of a local name."""
    name = Path(facts.name).name if facts.dataset_id is None else facts.dataset_id
    return {"name": name, "dataset_id": facts.dataset_id, "count": facts.count}


@dataclass(frozen=True, kw_only=True)
class Items(Facts):
    """A dataset whose items can be read in any order, by number.

    Attributes:
        labels: class of each item, shape (N,), int64, -1 for an item without; None where the data have none.
        rows: the numbers, shape (N,), of the items that this part of the dataset has; None for all.
        held_out: the other part of the dataset, which is not trained on; None where nothing is held out.
    """

    count: int
    labels: Tensor | None = None
    rows: "np.ndarray[Any, Any] | None" = None
    held_out: Self | None = None

    def __len__(self) -> int:
        return self.count

    @property
    def num_classes(self) -> int | None:
        if self.labels is None:
            return None
        return len(self.label_names) if self.label_names else int(self.labels.max()) + 1

    @property
    def all_labeled(self) -> bool:
        return self.labels is not None and bool((self.labels >= 0).all())

    def labeled(self) -> Self:
        """Return the items that have a class; all of them where none has."""
        if self.labels is None or self.all_labeled:
            return self
        kept = torch.nonzero(self.labels >= 0).flatten()
        left_out = f"{len(self) - len(kept)} {self.noun[1]} without a class are left out"
        return replace(
            self.part(kept),
            label_problem=None,
            notes=[*(note for note in self.notes if note != self.label_problem), left_out],
        )

    def part(self, indices: Tensor) -> Self:
        """Return the items of these indices, in their order."""
        rows = indices.numpy() if self.rows is None else self.rows[indices.numpy()]
        labels = None if self.labels is None else self.labels[indices]
        return replace(self, rows=rows, count=len(rows), labels=labels)

    def row(self, index: int) -> int:
        """Return the number in the whole dataset of item `index` of this part."""
        return index if self.rows is None else int(self.rows[index])

    def name_of(self, index: int) -> str:
        """Return how the user finds item `index`: its path in the dataset, or its row."""
        return f"row {self.row(index)}"


def evenly_spaced(count: int, at_most: int) -> Iterable[int]:
    """Return numbers below `count`, all or so many.

    >>> list(evenly_spaced(10, 3))
    [0, 3, 6]
    """
    return range(count) if count <= at_most else (i * count // at_most for i in range(at_most))
