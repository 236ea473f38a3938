"""The results that `hfgen evaluate` has written, found by what a person names, and read with care.

They may come from anywhere: their shape is checked, and nothing in them reaches a terminal but printable text.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfgen.errors import UsageError
from hfgen.files import printable, read_json, write_text
from hfgen.results.metrics import METRICS

Fetch = Callable[[str, list[str]], str]
FOLDER = "evaluation"
REQUIRED: dict[str, type] = {
    "protocol.name": str,
    "protocol.num_images": int,
    "protocol.seed": int,
    "values": dict,
    "reference.name": str,
    "reference.images": int,
    "reference.sha256": str,
    "model.weights_sha256": str,
    "sampler.scheduler": str,
    "sampler.config": dict,
    "sampler.options": dict,
    "versions": dict,
    "hardware": dict,
}


@dataclass(frozen=True)
class Result:
    """One measurement of one model.

    Attributes:
        target: as the person named it.
        path: of the file.
        record: what `hfgen.evaluation.record` made.
    """

    target: str
    path: Path
    record: Mapping[str, Any]

    @property
    def model(self) -> tuple[str, str]:
        """Name and weights: two results of the same are of one model, wherever they lie."""
        return self.name, self.record["model"]["weights_sha256"]

    @property
    def name(self) -> str:
        name = self.record.get("name")
        return name if isinstance(name, str) and name else self.path.stem


def find(target: str, fetch: Fetch | None = None) -> list[Result]:
    """All results of a target; several of one model, as of several numbers of steps, by what they cost.

    Args:
        target: a run, a checkpoint or a model card's folder, a folder of results, a result, or a repository's id.
        fetch: downloads a repository's files of these patterns and returns their folder; None: the disk alone.

    Raises:
        UsageError: there is no such thing, or no result in it, or one that cannot be read.
        LoadError: the repository cannot be fetched.
    """
    for files in _places(target, fetch):
        records = [(file, _read(file)) for file in files]
        results = [
            Result(target, file, _checked(file, record))
            for file, record in records
            if isinstance(record, dict) and record.get("metric") == "evaluation"
        ]
        if results:
            return sorted(results, key=_order)
    what, model = ("is", "TARGET") if Path(target).is_file() else ("holds", target)
    raise UsageError(
        f"{target} {what} no result of `hfgen evaluate`: there is nothing to compare. Measure the model:\n"
        f"  hfgen evaluate {model} --dataset_name NAME"
    )


def _order(result: Result) -> tuple[str, float]:
    evaluations = result.record["values"].get("network_evaluations", {}).get("value", math.inf)
    return result.record["sampler"]["scheduler"], evaluations


def _places(target: str, fetch: Fetch | None) -> Iterator[list[Path]]:
    """The JSON files of each place where results of the target may lie, the likeliest first."""
    path = Path(target)
    if path.is_dir():
        yield _in(path / FOLDER) if (path / FOLDER).is_dir() else _in(path)
    elif path.is_file():
        yield [path]
    elif path.exists() or target.startswith((".", "/", "~")) or target.count("/") > 1:
        raise UsageError(
            f"There is no {target}. Give the folder of a run, a checkpoint or a model card, a folder of results,\n"
            "a result file, or a repository id."
        )
    else:
        if fetch is not None:
            yield _in(Path(fetch(target, [f"{FOLDER}/*.json"])) / FOLDER)
        yield _in(Path("evaluations") / target / FOLDER)  # where `hfgen evaluate` writes of a repository


def _in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


def _read(path: Path) -> Any:
    try:
        return printable(read_json(path, finite=True))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}\nMeasure again, or move that file away.") from error


def _checked(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """The record, its shape that of a result; what stands in it may still be anyone's."""
    wrong = [name for name, kind in REQUIRED.items() if not _is(_at(record, name), kind)]
    for kind in ("values", "floor"):
        entries = record.setdefault(kind, {})
        wrong += [kind] if not isinstance(entries, dict) else _wrong_values(kind, entries)
    extractor = record.setdefault("extractor", None)
    if extractor is not None:
        wrong += [n for n in ("extractor.name", "extractor.weights_sha256") if not _is(_at(record, n), str)]
    values = record["values"] if isinstance(record["values"], dict) else {}
    if {"bits_per_dim", "nats"} & set(values) and not _is(_at(record, "likelihood.kind"), str):
        wrong.append("likelihood.kind")
    if wrong:
        raise UsageError(
            f"{path} is no result that this version of hfgen can read; missing, or of another kind:\n"
            f"  {', '.join(dict.fromkeys(wrong))}\nMeasure again with `hfgen evaluate`, or move that file away."
        )
    return record


def _at(record: Mapping[str, Any], name: str) -> Any:
    found: Any = record
    for key in name.split("."):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _wrong_values(kind: str, entries: Mapping[str, Any]) -> list[str]:
    def right(entry: Any) -> bool:
        numbers = [entry.get("value"), entry.get("error", 0.0)] if isinstance(entry, dict) else []
        return len(numbers) == 2 and all(map(_is_number, numbers)) and numbers[1] >= 0

    return [f"{kind}.{name}" for name, entry in entries.items() if not right(entry)]


def _is_number(value: Any) -> bool:
    return (_is(value, int) or _is(value, float)) and abs(value) < 1e300  # JSON's 1e999 is infinite


def labels(results: Sequence[Result]) -> dict[tuple[str, str], str]:
    """Model -> what to call it: its name; with more of its target, or of its weights' hash, where two share one."""
    targets: dict[tuple[str, str], tuple[str, ...]] = {}
    for result in results:
        targets.setdefault(result.model, Path(result.target).parts)
    named = {model: model[0] for model in targets}
    for name in {name for name, _ in targets}:
        same = {model: parts for model, parts in targets.items() if model[0] == name}
        if len(same) > 1:
            named |= _tails(same)
    return named


def _tails(models: Mapping[tuple[str, str], tuple[str, ...]]) -> dict[tuple[str, str], str]:
    """The shortest ends of the targets' paths that tell them apart: whole paths are nobody else's business."""
    for length in range(1, max(map(len, models.values())) + 1):
        tails = {model: "/".join(parts[-length:]) for model, parts in models.items()}
        if _distinct(tails.values()):
            return tails
    return {(name, sha256): f"{name} {sha256[:8]}" for name, sha256 in models}


def _distinct(words: Iterable[str]) -> bool:
    words = list(words)
    return len(set(words)) == len(words)


def read_results(folder: Path) -> list[dict[str, Any]]:
    """What was measured of the model in this folder."""
    return [read_result(path) for path in sorted((folder / FOLDER).glob("*.json"))]


def read_result(path: Path) -> dict[str, Any]:
    """One result.

    Raises:
        UsageError: it is none.
    """
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("metric"), str):
        raise UsageError(f"{path} is no result of hfgen; move it away.")
    return found


def write(folder: Path, name: str, result: Mapping[str, Any]) -> Path:
    """`evaluation/NAME.json` of the folder."""
    path = folder / FOLDER / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(result, indent=2, allow_nan=False) + "\n")
    return path


def merged(path: Path, result: dict[str, Any]) -> dict[str, Any]:
    """With the values of an earlier result that was found in the very same way."""
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        same = all(earlier[name] == result[name] for name in SAME)
        if "likelihood" in earlier and "likelihood" in result:
            same = same and earlier["likelihood"].get("options") == result["likelihood"].get("options")
    except (OSError, ValueError, KeyError, TypeError):
        return result
    if not same:
        return result
    values = {**earlier["values"], **result["values"]}
    kept = {name: {**earlier[name], **result[name]} for name in ("floor",) if name in earlier}
    likelihood = {"likelihood": earlier["likelihood"]} if "likelihood" in earlier else {}
    return {**likelihood, **result, **kept, "values": {name: values[name] for name in METRICS if name in values}}


SAME = ("protocol", "reference", "extractor", "model", "sampler", "versions")
