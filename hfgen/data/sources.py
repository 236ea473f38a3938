"""Sources of datasets: name, split and columns, and how `datasets` loads them.

A name is that of a built-in dataset (`mnist-mini`), of a folder of images (with or without class sub-folders), of a
folder or file of parquet, of an `.npz` or `.npy` file, or an id on the Hub.
"""

import glob
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfgen.data.builtin import BUILT_IN_FOLDERS as BUILT_IN
from hfgen.errors import UsageError, did_you_mean, first_line
from hfgen.files import looks_local
from hfgen.settings.arguments import TrainingArguments

PLACES = ("dataset_name", "train_data_dir")  # options that may hold a path


class NoSplitError(UsageError):
    """The dataset exists, but has no split of this name."""


@dataclass(frozen=True)
class DataSource:
    """A split of a dataset, and the columns that are read.

    Attributes:
        name: as the user gave it.
        config_name: the configuration of a dataset on the Hub.
        image_column, label_column: None takes the only one of its kind.
        cache_dir: where datasets of the Hub are cached.
    """

    name: str
    split: str = "train"
    config_name: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    cache_dir: str | None = None

    def __post_init__(self) -> None:
        if self.config_name is not None and self.path.exists():
            raise UsageError(
                f"--dataset_config_name {self.config_name}: {self.name} is on this machine; only datasets of the Hub "
                "have configurations."
            )

    @classmethod
    def of(cls, arguments: TrainingArguments) -> "DataSource":
        """Return the data that the arguments name.

        Raises:
            UsageError: they name no dataset.
        """
        a = arguments
        name = a.dataset_name or a.train_data_dir
        if not name:
            raise UsageError("Which data? Give --dataset_name; `hfgen list datasets` shows what is built in.")
        return cls(name, a.dataset_split, a.dataset_config_name, a.image_column, a.label_column, a.cache_dir)

    @property
    def path(self) -> Path:
        """Return the path on this machine, which does not exist for a dataset on the Hub."""
        return BUILT_IN.get(self.name, Path(self.name).expanduser())

    @property
    def is_array(self) -> bool:
        return self.path.is_file() and self.path.suffix.lower() in (".npz", ".npy")

    @property
    def dataset_id(self) -> str | None:
        """Return the id on the Hub; None for local data."""
        return None if self.path.exists() else self.name


def located(name: str | None) -> str | None:
    """Return a local file or folder by its absolute path, so that it is found from anywhere; another name as it is."""
    if not name or name in BUILT_IN or not Path(name).expanduser().exists():
        return name
    return str(Path(name).expanduser().absolute())


def load_dataset(source: DataSource, streaming: bool = False) -> Any:
    """Load the split of a dataset other than an array: a `datasets.Dataset`, or an `IterableDataset` to be streamed.

    Raises:
        NoSplitError: there is no such split.
        UsageError: there is no such dataset.
    """
    import datasets

    path, name = source.path, source.name
    if not path.exists() and looks_local(name):
        raise UsageError(
            f"The dataset {name!r} does not exist: no such file or folder.\n"
            f"Built-in datasets: {', '.join(BUILT_IN)}; or give the id of one on the Hub."
        )
    if path.is_dir() and not any(p.is_file() for p in path.rglob("*")):
        raise UsageError(f"The dataset {name!r} is an empty folder.")
    names, options = arguments_of(source)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        loaded = datasets.load_dataset(
            *names, name=source.config_name, cache_dir=source.cache_dir, streaming=streaming, **options
        )
    except (ConnectionError, FileNotFoundError, OSError, ValueError) as error:
        raise UsageError(_why_not_found(source, error)) from error
    except datasets.exceptions.DatasetGenerationError as error:
        raise UsageError(f"The dataset {name!r} cannot be read: {error.__cause__ or error}") from error
    if source.split not in loaded:
        near = did_you_mean(source.split, loaded)
        raise NoSplitError(f"The dataset {name!r} has no split {source.split!r}.{near} Choose with --dataset_split.")
    return loaded[source.split]


def arguments_of(source: DataSource) -> tuple[list[str], dict[str, Any]]:
    """Return the positional and the keyword arguments by which `datasets` finds it."""
    path = source.path
    if source.name in BUILT_IN:
        return ["parquet"], {"data_files": {p.stem: str(p) for p in sorted(path.glob("*.parquet"))}}
    if path.is_file():
        if path.suffix.lower() != ".parquet":
            raise UsageError(f"{source.name!r} is a file of unknown kind; known: .parquet, .npz, .npy, or a folder.")
        return ["parquet"], {"data_files": str(path)}
    if not path.is_dir():
        return [source.name], {}
    kind = "parquet" if any(path.rglob("*.parquet")) else "imagefolder"
    return [kind], {"data_dir": glob.escape(str(path))}


def _why_not_found(source: DataSource, error: Exception) -> str:
    if source.path.exists():
        return (
            f"The dataset {source.name!r} cannot be read: {first_line(error)}\n"
            "A folder must hold images or parquet files."
        )
    return (
        f"There is no dataset {source.name!r}: no such folder, and it could not be loaded from the Hub: "
        f"{first_line(error)}\nBuilt-in datasets, which need no network: {', '.join(BUILT_IN)}."
    )
