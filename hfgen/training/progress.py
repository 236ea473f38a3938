"""Progress on stderr: a bar on a terminal, a plain line per report elsewhere."""

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tqdm import tqdm


class Progress:
    """Shows nothing where `visible` is False (all processes but the main one)."""

    def __init__(self, visible: bool = True) -> None:
        self.visible = visible
        self.terminal = sys.stderr.isatty()
        self.bar: tqdm[Any] | None = None

    def decoding(self, items: Sequence[int]) -> Iterable[int]:
        """The items, with a bar where there are many."""
        return tqdm(
            items, "decoding", unit="image", disable=not (self.visible and self.terminal), leave=False, delay=1
        )

    @contextlib.contextmanager
    def training(self, first: int, last: int) -> Iterator[None]:
        """Within, `advance` moves the bar."""
        self.bar = tqdm(
            total=last, initial=first, desc="training", unit="step", disable=not (self.visible and self.terminal)
        )
        self.last = last
        try:
            yield
        finally:
            self.bar.close()
            self.bar = None

    def advance(self, step: int) -> None:
        if self.bar is not None and not self.bar.disable:
            self.bar.update(step - self.bar.n)

    def note(self, text: str) -> None:
        """A line that the user should read, above the bar."""
        if self.visible:
            tqdm.write(f"warning: {text}", file=sys.stderr)

    def report(self, line: Mapping[str, Any]) -> None:
        """The metrics of a step."""
        losses = {name: f"{value:.4f}" for name, value in line.items() if name.endswith(("loss", "bits_per_dim"))}
        if self.bar is None or not self.visible:
            return
        if self.terminal:
            self.bar.set_postfix(losses)
        else:
            text = "  ".join(f"{name} {value}" for name, value in losses.items())
            speed = f"{line['images_per_second']:.0f} images/s"
            print(f"step {line['step']}/{self.last}  {text}  {speed}", file=sys.stderr, flush=True)
