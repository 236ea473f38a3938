"""A dataset's name -> images: found, looked at, and decoded where they are wanted.

What a user may name: the built-in `mnist-mini`, a folder of images (with or without class sub-folders), a folder or
file of parquet, an `.npz` or `.npy` file, an id on the Hub.
"""

import glob
import sys
from pathlib import Path
from typing import Any

from hfgen.data.builtin import BUILT_IN_FOLDERS as BUILT_IN
from hfgen.errors import UsageError, did_you_mean
from hfgen.files import looks_local


def load_dataset(
    name: str, split: str, config_name: str | None = None, cache_dir: str | None = None, streaming: bool = False
) -> Any:
    """The split of a dataset that is no array: a `datasets.Dataset`, or an `IterableDataset` to be streamed.

    Raises:
        UsageError: there is no such dataset or split.
    """
    import datasets

    path = BUILT_IN.get(name, Path(name).expanduser())

    if not path.exists() and looks_local(name):
        raise UsageError(
            f"The dataset {name!r} does not exist: no such file or folder.\n"
            f"Built-in datasets: {', '.join(BUILT_IN)}; or give the id of one on the Hub."
        )
    if path.is_dir() and not any(p.is_file() for p in path.rglob("*")):
        raise UsageError(f"The dataset {name!r} is an empty folder.")
    source = source_of(name, path)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(
            *source[0], name=config_name, cache_dir=cache_dir, streaming=streaming, **source[1]
        )
    except (ConnectionError, FileNotFoundError, OSError, ValueError) as error:
        raise UsageError(_why_not_found(name, path, error)) from error
    except datasets.exceptions.DatasetGenerationError as error:
        raise UsageError(f"The dataset {name!r} cannot be read: {error.__cause__ or error}") from error
    if split not in loaded:
        raise UsageError(
            f"The dataset {name!r} has no split {split!r}.{did_you_mean(split, loaded)} Choose with --dataset_split."
        )
    return loaded[split]


def source_of(name: str, path: Path) -> tuple[list[str], dict[str, Any]]:
    """What `datasets` takes for it: positional arguments, keywords."""
    if name in BUILT_IN:
        return ["parquet"], {"data_files": {p.stem: str(p) for p in sorted(path.glob("*.parquet"))}}
    if path.is_file():
        if path.suffix != ".parquet":
            raise UsageError(f"{name!r} is a file of unknown kind; known: .parquet, .npz, .npy, or a folder.")
        return ["parquet"], {"data_files": str(path)}
    if not path.is_dir():
        return [name], {}
    kind = "parquet" if any(path.rglob("*.parquet")) else "imagefolder"
    return [kind], {"data_dir": glob.escape(str(path))}


def _why_not_found(name: str, path: Path, error: Exception) -> str:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if path.exists():
        return f"The dataset {name!r} cannot be read: {first_line}\nA folder must hold images or parquet files."
    return (
        f"There is no dataset {name!r}: no such folder, and the Hub did not give it: {first_line}\n"
        f"Built-in datasets, which need no network: {', '.join(BUILT_IN)}."
    )


def image_column_of(name: str, dataset: Any, wanted: str | None) -> str:
    """The wanted column, or the only one of images."""
    import datasets

    columns = list(dataset.features)
    found = [c for c in columns if isinstance(dataset.features[c], datasets.Image)]
    if wanted is not None:
        if wanted not in found:
            raise UsageError(f"{name}: {wanted!r} is no column of images. Columns: {', '.join(columns)}.")
        return wanted
    if len(found) != 1:
        what = "no column of images" if not found else f"several columns of images ({', '.join(found)})"
        raise UsageError(f"{name}: {what}. Columns: {', '.join(columns)}. Choose with --image_column.")
    return found[0]
