"""Progress on stderr: a bar on a terminal, otherwise a line per report."""

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tqdm import tqdm


class Progress:
    """The progress of a training; `visible` is False on all processes but the main one, which show nothing.

    Attributes:
        images_per_step: the global batch, from which the time that is left follows.
    """

    def __init__(self, visible: bool = True) -> None:
        self.visible, self.images_per_step = visible, 0
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

    def report(self, line: Mapping[str, Any], best: str = "") -> None:
        """Show the metrics of a step.

        Args:
            best: the best value so far, in words.
        """
        shown = [name for name in line if name.endswith("loss") or name.startswith("validation_")]
        losses = {name: f"{line[name]:.4f}" for name in shown}
        if self.bar is None or not self.visible:
            return
        if self.terminal:
            self.bar.set_postfix(losses)
        else:
            text = "  ".join(f"{name} {value}" for name, value in losses.items()) + (f"  ({best})" if best else "")
            speed = f"{line['images_per_second']:.0f} images/s{self._left(line)}"
            print(f"step {line['step']}/{self.last}  {text}  {speed}", file=sys.stderr, flush=True)

    def _left(self, line: Mapping[str, Any]) -> str:
        """Return `, 12 min left`; nothing on the last step."""
        seconds = (self.last - line["step"]) * self.images_per_step / max(line["images_per_second"], 1e-9)
        return f", {duration(seconds)} left" if seconds else ""


def duration(seconds: float) -> str:
    """
    >>> duration(7300), duration(75), duration(4.2)
    ('2 h 1 min', '1 min', '4 s')
    """
    minutes = int(seconds // 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
