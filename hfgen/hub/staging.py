"""A temporary folder for a model that is saved again before it is pushed, on a disk that has room for it."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hfgen.errors import HFGenError


@contextlib.contextmanager
def staged(name: str, needed: int) -> Iterator[Path]:
    """Yield the path of a folder that does not exist yet, in a temporary one that is removed afterwards.

    Args:
        needed: bytes that are written there.

    Raises:
        HFGenError: the temporary folder cannot be made, or its disk has not so much room.
    """
    try:
        with tempfile.TemporaryDirectory() as temporary:
            free = shutil.disk_usage(temporary).free
            if free < needed:
                raise HFGenError(_message(f"has {free / 1e6:,.1f} MB free", needed))
            yield Path(temporary) / name
    except FileNotFoundError as error:
        if error.filename is not None or "temporary directory" not in str(error):
            raise
        raise HFGenError(_message("was not found: " + str(error).rstrip("."), needed)) from error


def _message(what: str, needed: int) -> str:
    place = tempfile.tempdir or "The folder for temporary files"
    return (
        f"{place} {what}; {needed / 1e6:,.1f} MB are needed to save the model again before it is pushed.\n"
        "Name another folder for temporary files by the variable TMPDIR. Nothing was sent."
    )
