"""Sources of datasets: name, split and columns, and how `datasets` loads them.

A name is that of a built-in dataset (`mnist-mini`), of a folder of images (with or without class sub-folders), of a
folder or file of parquet, of an `.npz` or `.npy` file, or an id on the Hub.
"""

import glob
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfgen.data.builtin import BUILT_IN_FOLDERS as BUILT_IN
from hfgen.errors import UsageError, did_you_mean, first_line, nearest
from hfgen.files import looks_local
from hfgen.settings.arguments import TrainingArguments

TIMEOUT = 10.0  # seconds, for a question to the Hub
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


def check_name(name: str, split: str | None = None) -> None:
    """Refuse a dataset's name that is surely mistaken, before anything slow is imported or a Hub is asked.

    Raises:
        UsageError: it names a local place that does not exist or, without an owner, nearly a built-in dataset or a
            local place.
        NoSplitError: the built-in dataset has no such split.
    """
    path = Path(name).expanduser()
    if name in BUILT_IN and split is not None:
        _require_split(name, split, [file.stem for file in BUILT_IN[name].glob("*.parquet")])
    if name in BUILT_IN or path.exists():
        return
    is_local, near = looks_local(name), None
    if is_local or "/" not in name:
        beside = {other.name: str(path.with_name(other.name)) for other in path.parent.glob("*")}
        beside |= {built_in: built_in for built_in in BUILT_IN}
        near = beside.get(nearest(path.name, beside) or "")
    if near or is_local:
        hint = f" Did you mean {near!r}?" if near else ""
        raise UsageError(
            f"The dataset {name!r} does not exist: no such file or folder.{hint}\n"
            f"Built-in datasets: {', '.join(BUILT_IN)}; or give the id of one on the Hub, ORG/NAME."
        )


def _require_split(name: str, split: str, there: Collection[str]) -> None:
    if split not in there:
        near = did_you_mean(split, there)
        raise NoSplitError(f"The dataset {name!r} has no split {split!r}.{near} Choose with --dataset_split.")


def _ask_once(source: DataSource) -> None:
    """Ask the Hub once whether it has a dataset without an owner, where `datasets` would ask for half a minute.

    Raises:
        UsageError: it has none, or it is not reached and the dataset is not in the cache.
    """
    import datasets
    import httpx2
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    cache = Path(source.cache_dir or datasets.config.HF_DATASETS_CACHE)
    try:
        HfApi().dataset_info(source.name, timeout=TIMEOUT)
    except OfflineModeIsEnabled:
        return  # `datasets` looks into its cache at once
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403, 404):
            raise UsageError(_why_not_found(source, error)) from error
    except (httpx2.HTTPError, OSError) as error:
        if not (cache / source.name).exists():
            raise UsageError(_why_not_found(source, error)) from error


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
    check_name(name)
    if path.is_dir() and not any(p.is_file() for p in path.rglob("*")):
        raise UsageError(f"The dataset {name!r} is an empty folder.")
    names, options = arguments_of(source)
    if source.dataset_id is not None and "/" not in name:
        _ask_once(source)
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
    _require_split(name, source.split, loaded)
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
