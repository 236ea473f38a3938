"""Sources of datasets: name, split and columns, and how `datasets` loads them.

A name is that of a built-in dataset (`mnist-mini`), of a folder of images (with or without class sub-folders), of a
folder or file of parquet, of an `.npz` or `.npy` file, or an id on the Hub.
"""

import contextlib
import errno
import glob
import sys
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hfgen.data.builtin import BUILT_IN_FOLDERS as BUILT_IN
from hfgen.data.declared import configurations, declared_splits, names_files_beyond
from hfgen.data.local_tables import local_tables
from hfgen.data.on_the_hub import asked_first, why_not_found
from hfgen.data.parquet_files import (
    MOST_IN_MEMORY,
    PARQUET,
    by_split,
    bytes_of,
    columns_of_folders,
    read_in_memory,
    with_pictures,
)
from hfgen.data.splits import chosen_split, splits_in
from hfgen.errors import UsageError, did_you_mean, first_line, nearest
from hfgen.files import looks_local
from hfgen.settings.arguments import TrainingArguments

KNOWN = ".parquet, .csv, .tsv, .jsonl, .npz, .npy, .zip, .tar"
CONVERTED = {  # kinds of files that others write -> what to do
    ".xlsx .xls .ods .numbers": "Save the sheet as CSV",
    ".pkl .pickle .pt .pth .joblib": "A pickle runs code when it is read: save parquet or .npz",
    ".mat .h5 .hdf5 .bin .idx": "Save its arrays as .npz",
    ".feather .arrow .orc .avro .db .sqlite": "Save it as parquet",
    ".json": "Write one row a line, as .jsonl",
    ".txt .xml .yaml": "Save a table as CSV",
    ".heic .heif .hif .raw .arw .cr2 .cr3 .dng .nef .orf .raf .rw2": "Convert the photos to JPEG or PNG",
    ".svg .eps .ps .pdf .ai .psd": "Export the drawings as PNG",
    ".mp4 .mov .avi .mkv .webm .m4v .mpg": "Save frames of the films as images",
    ".dcm .nii": "Save the slices as PNG or .npz",
    ".tfrecord": "Save the images as parquet or .npz",
}
CONTENTS = {  # how files without an ending begin -> what to do
    b"\x80": "They are pickles, which run code when they are read: save the arrays as .npz",
    b"\0\0\x08": "They are arrays as MNIST has them (IDX): save them as .npz",
}
UNWRITABLE = (  # errors of a cache: of its rights, its room, its locks, its place
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOLCK, errno.ENOSYS),
    errno.ENOTSUP,
)
MISSING = (errno.ENOENT, errno.ENOTDIR, errno.EEXIST)  # of a cache, if they are of its place
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
        on_error: "skip" leaves out images that cannot be read.
        all_frames: take every picture of a file, not the first alone.
        image_mode: the mode that images are converted to; None chooses by the images.
        value_range: the values of images of more than 8 bits that stand for black and white; None looks at them.
    """

    name: str
    split: str = "train"
    config_name: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    cache_dir: str | None = None
    on_error: str = "fail"
    all_frames: bool = False
    image_mode: str | None = None
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.name in BUILT_IN or self.path.is_file():
            self.refuse_configuration()

    def refuse_configuration(self) -> None:
        """Raise a UsageError if a configuration is named, where the data can have none."""
        if self.config_name is not None:
            raise UsageError(f"--dataset_config_name {self.config_name}: {self.name} has no configurations.")

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
        columns = a.image_column, a.label_column
        found = cls(name, a.dataset_split, a.dataset_config_name, *columns, a.cache_dir, a.on_error)
        return replace(found, all_frames=a.all_frames, image_mode=a.image_mode, value_range=a.value_limits)

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


def way_of(ending: str) -> str:
    """Return what to do with a kind of file that is not read; nothing where that is unknown."""
    return next((way for kinds, way in CONVERTED.items() if ending.lower() in kinds.split()), "")


def way_by_content(beginning: bytes) -> str:
    """Return what to do with a file, by its first bytes; nothing where that is unknown."""
    return next((way for start, way in CONTENTS.items() if beginning.startswith(start)), "")


def check_name(name: str, split: str | None = None) -> None:
    """Refuse a dataset's name that is surely mistaken, before anything slow is imported or a Hub is asked.

    Raises:
        UsageError: it names a local place that does not exist or, without an owner, nearly a built-in dataset or a
            local place.
        NoSplitError: the built-in dataset has no such split.
    """
    path = Path(name).expanduser()
    if name in BUILT_IN and split is not None:
        _require_split(name, split, sorted(file.stem for file in BUILT_IN[name].glob("*.parquet")))
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


def _require_split(name: str, wanted: str, there: Collection[str]) -> str:
    """Return what a dataset calls a split, by the names of all its splits."""
    split = chosen_split(wanted, there)
    if split is None:
        near = did_you_mean(wanted, there)
        held = f" It has {', '.join(there)}." if "Known" not in near else ""
        raise NoSplitError(f"The dataset {name!r} has no split {wanted!r}.{near}{held} Choose with --dataset_split.")
    return split


def located(name: str | None) -> str | None:
    """Return a local file or folder by its absolute path, so that it is found from anywhere; another name as it is."""
    if not name or name in BUILT_IN or not Path(name).expanduser().exists():
        return name
    return str(Path(name).expanduser().absolute())


@dataclass(frozen=True)
class Table:
    """A split of a dataset other than an array.

    Attributes:
        rows: a `datasets.Dataset`, or an `IterableDataset` to be streamed.
        splits: names of all splits of the dataset.
        notes: lines for the user.
        split: what the dataset calls this one.
        count: number of rows, where it is known before they are read.
    """

    rows: Any
    splits: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    split: str = "train"
    count: int | None = None


def load_table(source: DataSource, streaming: bool = False) -> Table:
    """Load the split of a dataset other than an array.

    Raises:
        NoSplitError: there is no such split.
        UsageError: there is no such dataset.
    """
    path, name = source.path, source.name
    check_name(name)
    if path.is_dir() and not any(p.is_file() for p in path.rglob("*")):
        raise UsageError(f"The dataset {name!r} is an empty folder.")
    loaded, notes = local_tables(path) or (_loaded(source, streaming), _about_files(source, streaming))
    split = _require_split(name, source.split, loaded)
    rows = loaded[split]
    count = len(rows) if hasattr(rows, "__len__") else None
    if streaming and hasattr(rows, "to_iterable_dataset"):
        rows = rows.to_iterable_dataset()
    return Table(rows, list(loaded), notes, split, count)


def _loaded(source: DataSource, streaming: bool) -> Any:
    """Read parquet files, or let `datasets` load them, or what is on the Hub: split -> dataset."""
    import datasets

    names, options = arguments_of(source)
    files = options.get("data_files") if names == ["parquet"] else None
    if files is not None and not streaming and bytes_of(files) <= MOST_IN_MEMORY:
        root = source.path if source.path.is_dir() else source.path.parent
        return {split: read_in_memory(source.name, root, found) for split, found in by_split(files).items()}
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    cached = Path(source.cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser()
    is_cached = (cached / source.name.replace("/", "___")).exists()
    try:
        with contextlib.nullcontext() if source.path.exists() else asked_first(source.name, is_cached):
            return datasets.load_dataset(
                *names, name=source.config_name, cache_dir=source.cache_dir, streaming=streaming, **options
            )
    except datasets.exceptions.DatasetGenerationError as error:
        cause = error.__cause__ or error
        refused = _cache_refused(source, cause)
        raise UsageError(refused or f"The dataset {source.name!r} cannot be read: {cause}") from error
    except UsageError:
        raise
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        refused = _cache_refused(source, error)
        raise UsageError(refused or why_not_found(source.name, source.config_name, error)) from error


def data_bytes(source: DataSource, streaming: bool) -> tuple[int, Path | None]:
    """Return the bytes of local data, and the cache to which `datasets` copies them; None where it does not.

    Of a dataset on the Hub the bytes in the cache are returned.
    """
    import datasets

    cache = Path(source.cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser()
    if source.dataset_id is not None:
        copied = 0 if streaming else _size(cache / source.name.replace("/", "___"))
        return (copied, cache) if copied else (0, None)
    size = _size(source.path)
    if streaming or source.is_array or (source.path.is_file() and source.path.suffix.lower() not in PARQUET):
        return size, None
    tables = [source.path] if source.path.is_file() else list(source.path.rglob("*.parquet"))
    return size, None if bytes_of({"all": [glob.escape(str(table)) for table in tables]}) <= MOST_IN_MEMORY else cache


def _size(place: Path) -> int:
    return sum(path.stat().st_size for path in [place, *place.rglob("*")] if path.is_file())


def _cache_refused(source: DataSource, error: BaseException) -> str | None:
    """Return a message on the cache of `datasets`, if an error says that it cannot be written; else None."""
    import datasets

    if not isinstance(error, OSError) or error.errno not in (*UNWRITABLE, *MISSING):
        return None
    cache = Path(source.cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser()
    if error.errno in MISSING and not str(error.filename or "").startswith(str(cache)):
        return None
    size = _size(source.path)
    needed = f" A copy of {size / 1e6:,.0f} MB is written there." if size else ""
    return (
        f"The cache of datasets, {cache}, cannot be used: {first_line(error)}.{needed}\n"
        "Name another folder by --cache_dir, or by the variable HF_HOME; --streaming needs none."
    )


def arguments_of(source: DataSource) -> tuple[list[str], dict[str, Any]]:
    """Return the positional and the keyword arguments by which `datasets` finds it."""
    path = source.path
    if source.name in BUILT_IN:
        return ["parquet"], {"data_files": {p.stem: str(p) for p in sorted(path.glob("*.parquet"))}}
    if path.is_file():
        if path.suffix.lower() not in PARQUET:
            with path.open("rb") as file:
                way = way_of(path.suffix) or way_by_content(file.read(4))
            way = f" {way}." if way else ""
            raise UsageError(f"{source.name!r} is a file of unknown kind; known: {KNOWN}, or a folder.{way}")
        return ["parquet"], {"data_files": glob.escape(str(path))}
    if not path.is_dir():
        return [source.name], {}
    if len(configurations(path)) > 1 and not names_files_beyond(path):
        return [str(path)], {}
    kept = _parquet_below(path)[0]
    if not kept:
        return ["imagefolder"], {"data_dir": glob.escape(str(path))}
    splits = (declared_splits(path, kept) or splits_in(kept)).items()
    return ["parquet"], {"data_files": {split: [glob.escape(str(path / f)) for f in found] for split, found in splits}}


def _parquet_below(folder: Path) -> tuple[list[str], list[str]]:
    """List the parquet files below a folder: those of the table of images, and others."""
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.suffix.lower() in PARQUET and p.is_file())
    shown = [p for p in found if not any(part.startswith((".", "__")) for part in p.parts)]
    kept, others = with_pictures([folder / p for p in shown])
    return [p.relative_to(folder).as_posix() for p in kept], [p.relative_to(folder).as_posix() for p in others]


def _about_files(source: DataSource, streaming: bool) -> list[str]:
    """Return lines on a folder's parquet files: which are left out, and what the names of their folders mean."""
    path = source.path
    if source.name in BUILT_IN or not path.is_dir() or len(configurations(path)) > 1:
        return []
    kept, others = _parquet_below(path)
    notes = [f"left out, as they have no column of images: {', '.join(sorted(others)[:5])}"] if others else []
    named = sorted({column for file in kept for column in columns_of_folders(path, path / file)})
    is_read = not streaming and bytes_of({"all": [glob.escape(str(path / f)) for f in kept]}) <= MOST_IN_MEMORY
    what = "a column" if is_read else "not read as a column of a table that is streamed or larger than 256 MiB"
    notes += [f"the folders {column}=... are {what}" for column in named]
    declared = declared_splits(path, kept)
    return notes + ([f"splits are those that README.md declares: {', '.join(declared)}"] if declared else [])
