"""Errors, each with the exit code of the command line.

A message says what happened, where, and what to do next, in at most six lines.
"""

import contextlib
import difflib
from collections.abc import Callable, Iterable, Iterator


class HFGenError(Exception):
    """Something failed (exit code 1)."""

    exit_code = 1


class UsageError(HFGenError, ValueError):
    """The call, the config file or the data cannot be used as asked (exit code 2)."""

    exit_code = 2


class CheckError(HFGenError):
    """A check did not hold: a loss is NaN, a threshold is missed (exit code 3)."""

    exit_code = 3


class PluginError(HFGenError, ImportError):
    """A family is unknown, ambiguous or fails to import."""


class LoadError(HFGenError, OSError):
    """A folder or repository cannot be loaded as a pipeline."""


class Interrupted(HFGenError):
    """A signal stopped the training after a checkpoint was written; `exit_code` is 128 + the signal.

    Attributes:
        reported: whether the message was shown already.
    """

    reported = False

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the nearest known word, or the whole list where none is near.

    >>> did_you_mean("dcgam", ["dcgan", "glow"])
    " Did you mean 'dcgan'?"
    >>> did_you_mean("zzz", ["dcgan", "glow"])
    ' Known: dcgan, glow.'
    """
    known = sorted(set(known))
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f" Did you mean {near[0]!r}?"
    return f" Known: {', '.join(known)}." if known else " None is known."


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return a known name that a word most probably means: that differs by case, a sign or two letters.

    >>> nearest("mnist_mini", ["mnist-mini"]), nearest("mnist", ["mnist-mini"])
    ('mnist-mini', None)
    """
    plain = {name.lower().replace("_", "-"): name for name in sorted(known)}
    near = difflib.get_close_matches(word.lower().replace("_", "-"), plain, n=1, cutoff=0.8)
    return plain[near[0]] if near else None


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "channel"), counted(3, "channel"), counted(2, "class")
    ('1 channel', '3 channels', '2 classes')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its class where it has none.

    >>> first_line(ValueError("no such\\nthing")), first_line(KeyboardInterrupt())
    ('no such', 'KeyboardInterrupt')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def one_line(error: BaseException, at_most: int | None = None) -> str:
    """Return all lines of an error as one, cut after so many characters; its type, where it says nothing.

    >>> one_line(ValueError("no such\\n  thing")), one_line(KeyboardInterrupt())
    ('no such thing', 'KeyboardInterrupt')
    """
    return " ".join(str(error).split())[:at_most] or type(error).__name__


@contextlib.contextmanager
def clear(kinds: tuple[type[Exception], ...], says: Callable[[str], str]) -> Iterator[None]:
    """Raise one HFGenError in place of errors of these kinds; errors of hfgen's own pass unchanged.

    Args:
        says: makes the message from the first line of the error.
    """
    try:
        yield
    except HFGenError:
        raise
    except kinds as error:
        raise HFGenError(says(first_line(error))) from error
