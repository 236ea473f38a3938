"""A lock on a run folder: two processes training in it would overwrite each other's checkpoints and metrics."""

import os
import time
from pathlib import Path
from typing import IO

from hfgen.errors import UsageError
from hfgen.run_folder import ENVIRONMENT

try:
    import fcntl
except ImportError:  # on Windows; there nothing is locked
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"  # names with a dot in front do not reach the Hub
PATIENCE_SECONDS = 5.0  # a process that was just killed may need time to free its memory


class RunLock:
    """The lock of one folder, held from `take` to `release` or until this process ends, however it ends."""

    def __init__(self) -> None:
        self.file: IO[str] | None = None
        if fcntl is not None:  # a process that loads data would hold the lock on after this one was killed
            os.register_at_fork(after_in_child=self.release)

    def take(self, folder: Path) -> None:
        """Lock a folder that holds a run and release the one before; do nothing on a file system without locks.

        Raises:
            UsageError: another process holds it.
        """
        path = folder / NAME
        if fcntl is None or not (folder / ENVIRONMENT).is_file():
            return
        if self.file is not None and path.exists() and os.path.samestat(os.fstat(self.file.fileno()), path.stat()):
            return
        self.release()
        self.file = _locked(path)

    def release(self) -> None:
        if self.file is not None:
            self.file.close()  # in a child it stays locked by its parent, which has the same file open
            self.file = None


def _locked(path: Path) -> IO[str] | None:
    """Return the open file that holds the lock; None where it cannot be opened. Some disks have no locks."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        file = path.open("a")
    except OSError:
        return None  # the first file that the run writes raises an error that says why
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                file.close()
                raise UsageError(
                    f"Another process trains in this folder: {path.parent}\n"
                    "Wait for it, or stop it; or give another --output_dir."
                ) from error
            time.sleep(0.1)
        except OSError:
            return file
