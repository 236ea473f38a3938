"""The client of the Hub: requests that are tried again, hints for its errors, and progress bars."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import httpx2
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

T = TypeVar("T")

WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before the second and later tries
LONGEST_WAIT = 60.0  # that a server may ask for
TRANSIENT = (408, 429, 500, 502, 503, 504)


# --- trying again -----------------------------------------------------------------------------------------------
def patiently(call: Callable[[], T]) -> T:
    """Call a function that may be called twice; call it again after a transient error, at most five times in all."""
    for wait in WAITS:
        try:
            return call()
        except Exception as error:
            if not is_transient(error):
                raise
            pause(wait, error)
    return call()


def is_transient(error: BaseException | None) -> bool:
    """Return True if the same request may succeed a little later; for a wrapped error, its cause decides."""
    if error is None or isinstance(error, OfflineModeIsEnabled | httpx2.ProxyError):
        return False
    if isinstance(error, LocalEntryNotFoundError):  # the client has tried for half a minute already
        return False
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in TRANSIENT
    # invalid JSON: the error page of a proxy
    if isinstance(error, httpx2.TransportError | ConnectionError | json.JSONDecodeError):
        return True
    return is_transient(error.__cause__)


def status_of(error: BaseException) -> int | None:
    return error.response.status_code if isinstance(error, HfHubHTTPError) else None


def hint(error: BaseException, forbidden: str) -> str:
    """A further line of a message, which says what to do about an error of the Hub; empty for most errors.

    Args:
        forbidden: the line for a token without the permission.
    """
    hints = {
        401: "The token is not valid; `hf auth login` stores another.",
        403: forbidden,
        429: "The Hub asks for fewer requests; try again in some minutes.",
    }
    status = status_of(error)
    return f"\n{hints[status]}" if status in hints else ""


def pause(wait: float, error: BaseException) -> None:
    asked = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    time.sleep(min(max(wait, float(asked)), LONGEST_WAIT) if asked.isdigit() else wait)


@contextlib.contextmanager
def bars_on_a_terminal_only() -> Iterator[None]:
    """Hide the progress bars of the libraries for fetching, loading and saving, unless stderr is a terminal."""
    from diffusers.utils import logging as of_diffusers
    from huggingface_hub import constants
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as of_transformers

    fetching = not are_progress_bars_disabled() and constants.HF_HUB_DISABLE_PROGRESS_BARS is None
    bars = [(fetching, disable_progress_bars, enable_progress_bars)]
    for library in (of_diffusers, of_transformers):
        bars.append((library.is_progress_bar_enabled(), library.disable_progress_bar, library.enable_progress_bar))
    hidden = [] if sys.stderr.isatty() else [bar for bar in bars if bar[0]]
    for _, hide, _ in hidden:
        hide()
    try:
        yield
    finally:
        for _, _, show in hidden:
            show()
