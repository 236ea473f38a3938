"""Progress of a measurement's loops on stderr: a bar on a terminal; elsewhere a line, and one a minute after it."""

import functools
import sys
import time
from collections.abc import Callable, Iterable, Sequence

from tqdm import tqdm

Progress = Callable[[Sequence[int]], Iterable[int]]
Bars = Callable[[str], Progress]


def no_bars(_: str) -> Progress:
    return iter


def bars_on_stderr(visible: bool) -> Bars:
    """Return a function that takes a loop's name and returns the wrapper of its items; it shows progress on stderr.

    Args:
        visible: whether this process shows any progress.

    >>> [index for index in bars_on_stderr(visible=False)("sampling images")(range(3))]
    [0, 1, 2]
    """
    return lambda what: functools.partial(_shown, what, visible)


def _shown(what: str, visible: bool, items: Sequence[int]) -> Iterable[int]:
    if sys.stderr.isatty():
        return tqdm(items, what, disable=not visible, leave=False, delay=2)
    return _in_lines(what, items) if visible else items


def _in_lines(what: str, items: Sequence[int]) -> Iterable[int]:
    print(f"{what} ...", file=sys.stderr, flush=True)
    last = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - last > 60:
            last = time.monotonic()
            print(f"{what}: {done} of {len(items)}", file=sys.stderr, flush=True)
        yield item
