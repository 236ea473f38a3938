"""A run's folder: where it lies, and what is kept there beside the model."""

import json
import platform
import re
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from hfgen.cores import usable_cores
from hfgen.errors import UsageError
from hfgen.files import printable, read_json, read_text, write_text

CONFIG, METRICS, ENVIRONMENT = "config.yaml", "metrics.jsonl", "env.json"
MOST_METRICS = 1 << 28  # bytes
DATA_FILES = (".npz", ".npy", ".parquet", ".csv", ".tsv", ".jsonl", ".zip", ".tar")  # endings that name no run
PICTURE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")  # of a picture that a diagnosis shows
STACK = ("hfgen", "torch", "diffusers", "transformers", "accelerate", "datasets", "huggingface_hub", "safetensors")


def choose(
    model: str, dataset: str, output_dir: str | None, resume: str | None = None, overwrite: bool = False
) -> Path:
    """Return the folder of a run: the given one, or the first free of runs/MODEL-DATASET, -2, -3.

    To resume, it is the one that the checkpoint lies in, or the last used one for `latest`. To overwrite, it may be
    that of another run, which `set_aside` keeps.

    Raises:
        UsageError: the given folder is in use, or it is a file.
    """
    if output_dir is None:
        if resume and Path(resume).parent.name == "checkpoints":
            return Path(resume).parent.parent
        return _numbered(Path("runs") / f"{model}-{_slug(dataset)}", bool(resume))
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"output_dir {output_dir} is a file.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return folder
    if not (folder / ENVIRONMENT).is_file():
        raise UsageError(
            f"output_dir {output_dir} is not empty and no run of hfgen; nothing was written. Give another folder."
        )
    if not resume and not overwrite:
        raise UsageError(
            f"output_dir {output_dir} is not empty; nothing was written.\n"
            "Give another folder, or go on with that run: --resume_from_checkpoint latest\n"
            "or start anew there, with that run set aside: --overwrite_output_dir"
        )
    if overwrite and Path.cwd().is_relative_to(folder.resolve()):
        raise UsageError(f"output_dir {output_dir} is where you are; it cannot be set aside.")
    return folder


def set_aside(folder: Path) -> Path | None:
    """Rename a run's folder to NAME.old-1, or -2, -3; return its new name, or None without a run.

    A run may have taken days, and the option that asks for this is often left in a script: nothing is deleted.
    """
    if not (folder / ENVIRONMENT).is_file():
        return None
    number = 1
    while (kept := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    return folder.rename(kept)


def _numbered(base: Path, resume: bool) -> Path:
    folder, number, last = base, 1, base
    while folder.is_dir() and any(folder.iterdir()):
        last, number = folder, number + 1
        folder = base.with_name(f"{base.name}-{number}")
    return last if resume else folder


def _slug(dataset: str) -> str:
    """`ylecun/mnist` -> `mnist`, `data/My Faces/` -> `My-Faces`, `faces.npz` -> `faces`."""
    name = Path(dataset.rstrip("/")).name
    stem = name.removesuffix(Path(name).suffix) if Path(name).suffix.lower() in DATA_FILES else name
    return "-".join(stem.split()) or "data"


def take(folder: Path, resumed: bool) -> None:
    """Make the folder a run's.

    Raises:
        UsageError: another run took the folder since it was chosen.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / ENVIRONMENT).open("a" if resumed else "x").close()
    except FileExistsError as error:
        raise UsageError(f"{folder} was taken by another run just now; start again.") from error


def write_start(folder: Path, config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Write the resolved config, from which the run can be repeated, and the environment."""
    write_text(folder / CONFIG, yaml.safe_dump(dict(config), sort_keys=False))
    write_text(folder / ENVIRONMENT, json.dumps({**environment(), **facts}, indent=2) + "\n")


def environment() -> dict[str, Any]:
    """Return versions and hardware; no paths, no names of people or machines."""
    import torch

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "accelerators": devices,
        "versions": {name: _version(name) for name in STACK},
    }


def _processor() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


class Metrics:
    """`metrics.jsonl`: one line per logged step; a resumed run goes on without gaps or doubles."""

    def __init__(self, folder: Path, resumed_step: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / METRICS
        kept = [line for line in read_metrics(folder) if line["step"] <= resumed_step]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def write(self, line: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read the lines of `metrics.jsonl`; leave out a last line that a kill cut off."""
    path = folder / METRICS
    if not path.is_file():
        return []
    try:
        lines = read_text(path, MOST_METRICS).splitlines()
    except ValueError as error:
        raise UsageError(f"{path} cannot be read: {error}. Move it away.") from error
    parsed = []
    for line in lines:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(found, dict) or not isinstance(found.get("step"), int):
            break
        parsed.append(found)
    return parsed


def read_environment(folder: Path) -> dict[str, Any]:
    """Read `env.json`.

    Raises:
        UsageError: it is missing or damaged.
    """
    try:
        found = read_json(folder / ENVIRONMENT)
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder / ENVIRONMENT} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{folder / ENVIRONMENT} does not hold a dictionary, so it is not from a run.")
    return found


def data_facts(folder: Path) -> dict[str, Any]:
    """Return what the environment of a run says of its data; nothing of a run that has only begun."""
    try:
        data = read_environment(folder).get("data")
    except UsageError:
        return {}
    return data if isinstance(data, dict) else {}


def class_names(folder: Path) -> list[str] | None:
    """Return the names of a model's classes, as the environment of its run says; None where it says none.

    Args:
        folder: of the run, of one of its checkpoints, or of its best model.
    """
    for place in (folder, folder.parent, folder.parent.parent):
        if (place / ENVIRONMENT).is_file():
            names = data_facts(place).get("class_names")
            is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
            return printable(names) if names and is_list else None
    return None


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a line's diagnosis."""
    return {n: v for n, v in line.get("diagnosis", {}).items() if isinstance(v, int | float)}


def listed(line: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return the lists of numbers of a line's diagnosis."""
    diagnosis = line.get("diagnosis", {})
    return {n: v for n, v in diagnosis.items() if isinstance(v, list) and n not in ("warnings", "pictures") and v}


def pictured(line: Mapping[str, Any]) -> list[str]:
    """Return the names of the pictures of a line's diagnosis, which are `samples/NAME_STEP.png`."""
    names = line.get("diagnosis", {}).get("pictures", ())  # they may be a stranger's
    return [name for name in names if isinstance(name, str) and PICTURE_NAME.fullmatch(name)]


def tabled(line: Mapping[str, Any]) -> dict[str, dict[str, list[Any]]]:
    """Return the tables of a line's diagnosis: name -> `columns` and `rows`."""
    return dict(line.get("diagnosis", {}).get("tables", {}))
