"""Layout of the global batch of a step over processes and micro-batches."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hfgen.data.facts import Facts
from hfgen.settings.arguments import TrainingArguments


@dataclass(frozen=True)
class Layout:
    """The split of the global batch of a step into micro-batches, and of each of these over the processes.

    Attributes:
        batch_size: items per process and micro-batch.
        accumulation: micro-batches per optimizer step.
    """

    batch_size: int
    num_processes: int = 1
    process_index: int = 0
    accumulation: int = 1

    @classmethod
    def of(cls, accelerator: Any, arguments: TrainingArguments) -> "Layout":
        a = arguments
        return cls(
            a.train_batch_size, accelerator.num_processes, accelerator.process_index, a.gradient_accumulation_steps
        )

    @property
    def global_batch_size(self) -> int:
        return self.batch_size * self.num_processes * self.accumulation

    def rows(self, micro: int) -> slice:
        """Return this process's rows of the global batch, for one micro-batch."""
        start = (micro * self.num_processes + self.process_index) * self.batch_size
        return slice(start, start + self.batch_size)

    def all_rows(self, device: torch.device) -> Tensor:
        """Return the indices of this process's rows in all micro-batches."""
        everything = torch.arange(self.global_batch_size, device=device)
        return torch.cat([everything[self.rows(micro)] for micro in range(self.accumulation)])


def in_steps(micro_batches: Iterable[dict[str, Tensor]], accumulation: int) -> Iterator[list[dict[str, Tensor]]]:
    """Group micro-batches by optimizer step."""
    micros: list[dict[str, Tensor]] = []
    for batch in micro_batches:
        micros.append(batch)
        if len(micros) == accumulation:
            yield micros
            micros = []


def no_labels(facts: Facts) -> str:
    """Compose the message for a dataset without labels, or with some images without, where they are wanted."""
    why = f"{facts.label_problem}.\n" if facts.label_problem else ""
    if facts.num_classes is None:
        return f"{facts.name} has no class labels, which --class_conditional needs.\n{why}{facts.how_to_label}"
    skip = f"--unlabeled skip leaves these {facts.noun[1]} out"
    return f"{facts.name}: {why}--class_conditional needs a class for each; {skip}."


def too_large(layout: Layout, facts: Facts, count: int) -> str:
    """Compose the message for a dataset with fewer items, `count`, than a global batch."""
    parts: Sequence[str] = [f"--train_batch_size {layout.batch_size}"]
    if layout.num_processes > 1:
        parts = [*parts, f"{layout.num_processes} processes"]
    if layout.accumulation > 1:
        parts = [*parts, f"--gradient_accumulation_steps {layout.accumulation}"]
    noun = facts.noun[count != 1]
    smaller = ["--train_batch_size"] if layout.batch_size > 1 else []
    smaller += ["--num_processes"] if layout.num_processes > 1 else []
    smaller += ["--gradient_accumulation_steps"] if layout.accumulation > 1 else []
    return (
        f"A batch of {layout.global_batch_size} ({' x '.join(parts)}) is larger than {facts.name}: "
        f"{count} {noun}.\nGive a smaller {' or '.join(smaller)}, or more data."
    )
