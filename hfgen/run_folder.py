"""A run's folder: where it lies, and what is kept there beside the model."""

import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from hfgen.errors import UsageError

CONFIG, METRICS, ENVIRONMENT = "config.yaml", "metrics.jsonl", "env.json"
STACK = (
    "hfgen",
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "datasets",
    "huggingface_hub",
    "safetensors",
)


def choose(model: str, dataset: str, output_dir: str | None, resume: bool) -> Path:
    """The folder of a run: the given one, or the first free of runs/MODEL-DATASET, -2, -3 (the last used, to resume).

    Raises:
        UsageError: the given folder is in use and the run is not resumed, or it is a file.
    """
    if output_dir is None:
        return _numbered(Path("runs") / f"{model}-{_slug(dataset)}", resume)
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"output_dir {output_dir} is a file.")
    if not resume and folder.is_dir() and any(folder.iterdir()):
        raise UsageError(
            f"output_dir {output_dir} is not empty; nothing was written.\n"
            "Give another folder, or go on with that run: --resume_from_checkpoint latest"
        )
    return folder


def _numbered(base: Path, resume: bool) -> Path:
    folder, number, last = base, 1, base
    while folder.is_dir() and any(folder.iterdir()):
        last, number = folder, number + 1
        folder = base.with_name(f"{base.name}-{number}")
    return last if resume else folder


def _slug(dataset: str) -> str:
    """`ylecun/mnist` -> `mnist`, `data/My Faces/` -> `My-Faces`, `faces.npz` -> `faces`."""
    name = Path(dataset.rstrip("/")).name
    stem = name.removesuffix(Path(name).suffix) if Path(name).suffix in (".npz", ".npy", ".parquet") else name
    return "-".join(stem.split()) or "data"


def write_start(folder: Path, config: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """The resolved config, from which the run can be repeated, and the environment."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
    (folder / ENVIRONMENT).write_text(json.dumps({**environment(), **facts}, indent=2) + "\n", encoding="utf-8")


def environment() -> dict[str, Any]:
    """Versions and hardware; no paths, no names of people or machines."""
    import torch

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
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
        self.path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def write(self, line: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; a last line that a kill cut off is left out."""
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    parsed = []
    for line in lines:
        try:
            parsed.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return parsed
