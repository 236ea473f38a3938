"""Text for the user, which must not end the work: a terminal closes, a pipe breaks, a name is not UTF-8."""

import errno
import io
import os
import sys
from typing import Any

GONE = {errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ECONNRESET, errno.ESHUTDOWN}  # nobody reads it


class LastingStream:
    """A text stream that loses what it cannot write, once its terminal or pipe is gone, and raises nothing.

    Args:
        stream: the stream to write to.
        is_result: raise other errors, such as that of a full disk; else what is written matters less than the work.
    """

    buffer = None  # click would write there, past this class, where the encoding is ASCII

    def __init__(self, stream: Any, is_result: bool = False) -> None:
        self.stream, self.is_result = stream, is_result

    def write(self, text: str) -> int:
        """Write a text, if that is possible."""
        try:
            self.stream.write(text)
        except (OSError, ValueError) as error:
            self._pass_over(error)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, if that is possible."""
        try:
            self.stream.flush()
        except (OSError, ValueError) as error:
            self._pass_over(error)

    def _pass_over(self, error: OSError | ValueError) -> None:
        is_gone = error.errno in GONE if isinstance(error, OSError) else self.stream.closed
        if self.is_result and not is_gone:
            raise error

    def isatty(self) -> bool:
        """Return True for a terminal that is still there."""
        try:
            return bool(self.stream.isatty())
        except (OSError, ValueError):
            return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def keep_output() -> None:
    """Have stdout and stderr outlast their terminal or pipe, and escape letters that their encoding lacks."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed before the start, as by `>&-`
            stream = open(os.devnull, "w", encoding="utf-8")
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        if not isinstance(stream, LastingStream):
            setattr(sys, name, LastingStream(stream, is_result=name == "stdout"))
