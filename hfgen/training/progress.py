"""Progress on stderr: a bar on a terminal, otherwise a line per report."""

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tqdm import tqdm


class Progress:
    """The progress of a training; `visible` is False on all processes but the main one, which show nothing."""

    def __init__(self, visible: bool = True) -> None:
        self.visible = visible
        self.terminal = sys.stderr.isatty()
        self.bar: tqdm[Any] | None = None

    def decoding(self, items: Sequence[int]) -> Iterable[int]:
        """Iterate over the items, with a bar if that takes more than a second."""
        return tqdm(
            items, "decoding", unit="image", disable=not (self.visible and self.terminal), leave=False, delay=1
        )

    @contextlib.contextmanager
    def training(self, first: int, last: int) -> Iterator[None]:
        """Show the bar that `advance` moves, inside the context."""
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
        """Print a line that the user should read, above the bar."""
        if self.visible:
            tqdm.write(f"warning: {text}", file=sys.stderr)

    def report(self, line: Mapping[str, Any]) -> None:
        """Show the metrics of a step."""
        losses = {name: f"{value:.4f}" for name, value in line.items() if name.endswith(("loss", "bits_per_dim"))}
        if self.bar is None or not self.visible:
            return
        if self.terminal:
            self.bar.set_postfix(losses)
        else:
            text = "  ".join(f"{name} {value}" for name, value in losses.items())
            speed = f"{line['images_per_second']:.0f} images/s"
            print(f"step {line['step']}/{self.last}  {text}  {speed}", file=sys.stderr, flush=True)
