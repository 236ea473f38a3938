"""Signals or a time limit ask the training to stop after the current step; a second signal stops at once."""

import _thread
import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, Self

import torch

from hfgen import signals
from hfgen.processes import replicas

STEPS_TO_AGREE = 10  # on accelerators, between two checks whether another process was asked to stop
SAME = 1.0  # seconds in which one signal may come twice: from a scheduler to each process, and from the launcher


class Stopped(BaseException):
    """The signal that came inside `StopSignal.at_once`; like a KeyboardInterrupt, it passes `except Exception`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class TimeUp(BaseException):
    """The end of the seconds of `StopSignal.within`."""


class StopSignal:
    """A context in which signals are noted: `number` is the signal that came, or None.

    Those of `hfgen.signals`: of a person, of a batch system, of a terminal that closes. A second one that a person
    sends raises a KeyboardInterrupt.

    Args:
        seconds: seconds after which `time_is_up`; None for no limit.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.number: int | None = None
        self.deadline = None if seconds is None else time.monotonic() + seconds
        self.reserve = 0.0  # seconds that the run will take after its last step, as far as that is known
        self._previous: dict[int, Any] = {}
        self._came: dict[int, float] = {}
        self._at_once = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in signals.stopping():
                self._previous[number] = signal.signal(number, self._remember)
        return self

    @property
    def time_is_up(self) -> bool:
        return self.deadline is not None and time.monotonic() + self.reserve >= self.deadline

    def agreed(self, step: int, num_processes: int, device: torch.device) -> tuple[int | None, bool] | None:
        """Return the signal that came to any process, and whether the time is up in any; collective.

        None on accelerators in most steps: agreeing waits for the device.
        """
        number, time_is_up = self.number or 0, int(self.time_is_up)
        if num_processes > 1:
            if device.type != "cpu" and step % STEPS_TO_AGREE:
                return None
            number, time_is_up = replicas.highest([number, time_is_up], device)
        return number or None, bool(time_is_up)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise at a signal inside the context, wherever it is: for what can be left at any moment.

        Raises:
            Stopped: by the signal that comes, or that came before.
        """
        self._at_once = True
        try:
            if self.number is not None:
                raise Stopped(self.number)
            yield
        finally:
            self._at_once = False

    @contextlib.contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Raise TimeUp inside the context after so many seconds, where the system has such an alarm."""
        if not self._previous or not hasattr(signal, "SIGALRM"):
            yield
            return

        def up(number: int, frame: FrameType | None) -> None:
            raise TimeUp

        before = signal.signal(signal.SIGALRM, up)
        timer = threading.Timer(seconds, _thread.interrupt_main, [signal.SIGALRM])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            signal.signal(signal.SIGALRM, before)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        now, by_hand = time.monotonic(), signals.present(*signals.BY_HAND)
        again = number in self._came and now - self._came[number] < SAME
        second = number in by_hand and any(earlier in by_hand for earlier in self._came) and not again
        self._came[number] = now
        if second:
            raise KeyboardInterrupt
        if self.number is None:
            self.number = number
            if self._at_once:
                raise Stopped(number)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
