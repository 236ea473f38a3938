"""SIGINT, SIGTERM or a time limit ask the training to stop after the current step; a second signal stops at once."""

import signal
import threading
import time
from types import FrameType
from typing import Any, Self


class StopSignal:
    """A context in which signals are noted: `number` is the signal that came, or None.

    Args:
        seconds: seconds after which `time_is_up`; None for no limit.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.number: int | None = None
        self.deadline = None if seconds is None else time.monotonic() + seconds
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._remember)
        return self

    @property
    def time_is_up(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
