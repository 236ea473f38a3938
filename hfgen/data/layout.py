"""Layout of the global batch of a step over processes and micro-batches, and the form of a batch."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hfgen.data.images import ImageFacts
from hfgen.settings.arguments import TrainingArguments


@dataclass(frozen=True)
class Layout:
    """The split of the global batch of a step into micro-batches, and of each of these over the processes.

    Attributes:
        batch_size: images per process and micro-batch.
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


def finished(pixels: Tensor, flips: Tensor | None, labels: Tensor | None) -> dict[str, Tensor]:
    """Make the batch that objectives take: float32 in [-1, 1] from uint8, flipped where `flips`, (B,), is true."""
    if flips is not None:
        flips = flips.to(pixels.device, non_blocking=True)
        pixels = torch.where(flips[:, None, None, None], pixels.flip(-1), pixels)
    batch = {"pixel_values": pixels.float().div_(127.5).sub_(1)}
    if labels is not None:
        batch["class_labels"] = labels.to(pixels.device, non_blocking=True)
    return batch


def no_labels(images: ImageFacts) -> str:
    """Compose the message for a dataset without labels, or with some images without, where they are wanted."""
    why = f"{images.label_problem}.\n" if images.label_problem else ""
    if images.num_classes is None:
        return f"{images.name} has no class labels, which --class_conditional needs.\n{why}{images.how_to_label}"
    return f"{images.name}: {why}--class_conditional needs a class for each; --unlabeled skip leaves these images out."


def too_large(layout: Layout, name: str, count: int) -> str:
    """Compose the message for a dataset with fewer images than a global batch."""
    parts: Sequence[str] = [f"--train_batch_size {layout.batch_size}"]
    if layout.num_processes > 1:
        parts = [*parts, f"{layout.num_processes} processes"]
    if layout.accumulation > 1:
        parts = [*parts, f"--gradient_accumulation_steps {layout.accumulation}"]
    noun = "image" if count == 1 else "images"
    smaller = ["--train_batch_size"] if layout.batch_size > 1 else []
    smaller += ["--num_processes"] if layout.num_processes > 1 else []
    smaller += ["--gradient_accumulation_steps"] if layout.accumulation > 1 else []
    return (
        f"A batch of {layout.global_batch_size} ({' x '.join(parts)}) is larger than {name}: "
        f"{count} {noun}.\nGive a smaller {' or '.join(smaller)}, or more data."
    )
