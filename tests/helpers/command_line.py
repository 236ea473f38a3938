"""hfgen's command line in this process: `hfgen` gives what a shell would see, `call` raises its errors."""

import contextlib
import io
from collections.abc import Callable
from typing import NamedTuple

import pytest

from hfgen.commands import main


class Done(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


def hfgen(*words: object) -> Done:
    """Run `hfgen WORDS`, which exits."""
    return finished(main.main, *words)


def finished(command: Callable[[list[str]], None], *words: object) -> Done:
    """Run a command that exits, as if no launcher had started this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stop,
    ):
        patch.setattr("psutil.Process.parent", lambda self: None)
        command([str(word) for word in words])
    return Done(int(stop.value.code or 0), out.getvalue(), err.getvalue())


def call(*words: object) -> None:
    """Run `hfgen WORDS` and raise its errors; what it prints goes where a test's own prints go."""
    main.cli.main([str(word) for word in words], standalone_mode=False)
