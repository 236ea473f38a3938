"""Folders that are written whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hfgen.hub import INDEX


@contextlib.contextmanager
def staged(folder: Path, variant: str | None = None) -> Iterator[Path]:
    """A folder to write into; on success its entries are moved into `folder`, on failure it vanishes.

    Args:
        variant: of the weights: they join those that are in the subfolders, instead of replacing the subfolders.
    """
    created = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for killed in folder.glob(".saving-*"):
        _restore(killed, folder)
        shutil.rmtree(killed, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder))
    try:
        yield staging
        for entry in sorted(staging.iterdir(), key=lambda path: path.name == INDEX):
            _move_into_place(entry, folder / entry.name, variant)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        for parent in created:
            with contextlib.suppress(OSError):
                parent.rmdir()  # only if empty
        raise
    shutil.rmtree(staging, ignore_errors=True)


def _restore(killed: Path, folder: Path) -> None:
    """A save that was killed between its two renames left the former component among what it was writing."""
    for old in killed.glob("*.old"):
        place = folder / old.name.removesuffix(".old")
        if not place.exists():
            os.replace(old, place)


def _move_into_place(entry: Path, place: Path, variant: str | None) -> None:
    if not place.is_dir():
        os.replace(entry, place)
    elif variant:
        names = {file.name for file in entry.iterdir()}
        for pattern in (f"*.index.{variant}.json", f"*.{variant}-*.safetensors", f"*.{variant}.safetensors"):
            for stale in {path.name for path in place.glob(pattern)} - names:
                (place / stale).unlink()
        for name in names:
            os.replace(entry / name, place / name)
    else:
        old = entry.with_name(f"{entry.name}.old")
        os.replace(place, old)
        try:
            os.replace(entry, place)
        except BaseException:
            os.replace(old, place)
            raise
