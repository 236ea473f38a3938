"""Progress on stderr: a bar on a terminal, otherwise a line per report."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tqdm import tqdm

SOON, EVERY = 5.0, 60.0  # seconds after which something that takes long is named, and named again
SHOWN = ("loss", "bits_per_dim", "bits_per_byte")  # ends of names of values that are shown


class Progress:
    """The progress of a training; `visible` is False on all processes but the main one, which show nothing.

    Args:
        noun: one item of the data, and several.

    Attributes:
        items_per_step: the global batch, from which the time that is left follows.
    """

    def __init__(self, visible: bool = True, noun: tuple[str, str] = ("item", "items")) -> None:
        self.visible, self.noun, self.items_per_step = visible, noun, 0
        self.terminal = sys.stderr.isatty()
        self.bar: tqdm[Any] | None = None

    def decoding(self, items: Sequence[int]) -> Iterable[int]:
        """Iterate over the items, with a bar if that takes more than a second."""
        return tqdm(
            items, "decoding", unit=self.noun[0], disable=not (self.visible and self.terminal), leave=False, delay=1
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

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Say what is done inside the context, if it takes long: after some seconds, then every minute."""
        done, began = threading.Event(), time.monotonic()

        def tell() -> None:
            wait = SOON
            while not done.wait(wait):
                wait, seconds = EVERY, time.monotonic() - began
                self._say(f"{what} ... {seconds:.0f} s so far")

        if self.visible:
            threading.Thread(target=tell, daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def note(self, text: str) -> None:
        """Print a line that the user should read, above the bar."""
        if self.visible:
            tqdm.write(f"warning: {text}", file=sys.stderr)

    def report(self, step: int, values: Mapping[str, float], speed: float) -> None:
        """Show the losses of a step, before anything is drawn, which may take long."""
        losses = {
            name: f"{value:.4f}"
            for name, value in values.items()
            if name.endswith(("loss", "bits_per_dim", "bits_per_byte"))
        }
        if self.bar is None or not self.visible or not values:
            return
        if self.terminal:
            self.bar.set_postfix(losses)
        else:
            text = "  ".join(f"{name} {value}" for name, value in losses.items())
            self._say(f"step {step}/{self.last}  {text}  {speed:.0f} {self.noun[1]}/s{self._left(step, speed)}")

    def report_measured(self, line: Mapping[str, Any], best: str = "") -> None:
        """Show what was measured on validation data, and the best value so far, in words."""
        found = [f"{name} {value:.4f}" for name, value in line.items() if name.startswith("validation_")]
        if self.bar is not None and self.visible and found:
            self._say(f"step {line['step']}/{self.last}  {'  '.join(found)}{f'  ({best})' if best else ''}")

    def _say(self, text: str) -> None:
        if self.terminal:
            tqdm.write(text, file=sys.stderr)
        else:
            print(text, file=sys.stderr, flush=True)

    def _left(self, step: int, speed: float) -> str:
        """Return `, 12 min left`; nothing on the last step."""
        seconds = (self.last - step) * self.items_per_step / max(speed, 1e-9)
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
