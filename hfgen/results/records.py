"""The results that `hfgen evaluate` has written: one class, one reader, one writer.

They may come from anywhere: their shape is checked, and only printable text in them reaches a terminal.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hfgen.errors import UsageError
from hfgen.files import printable, read_json, write_text
from hfgen.results.metrics import LIKELIHOOD, METRICS
from hfgen.results.protocol import modality_in

Fetch = Callable[[str, list[str]], str]
Json = Mapping[str, Any]
FOLDER = "evaluation"
METRIC = "evaluation"  # what `metric` says in a file of a result
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
OPTIONAL: dict[str, type] = {"warning": str, "command": str, "changed": dict, "likelihood": dict}


TOO_FEW = "images are too few for these values"  # in the warning of a result


@dataclass(frozen=True)
class Result:
    """A measurement of one model by one protocol; a file in `evaluation/` holds its fields under the same names.

    Attributes:
        protocol: `hfgen.results.protocol.Protocol` as a dictionary; one of an older version may lack a field.
        values: metric -> `value` and, where known, `error` and `error_of`.
        floor: the same of as many real images in the model's place.
        likelihood: how `bits_per_dim` and `nats` were found: kind, method, importance samples, images, options.
        warning: why the values tell little, or None.
        reference: name, split, number and SHA-256 of the real images.
        extractor: its declaration; None where no features were compared.
        model: class of the pipeline and SHA-256 of its weights.
        sampler: the scheduler with its config, the options of the pipeline's call, the dtype.
        changed: options of `hfgen evaluate` that changed the model's own way to sample.
        command: the command that repeats the result.
        path, target: the file that it was read from, and what the person named; not written.
    """

    protocol: Json
    values: Mapping[str, Json]
    floor: Mapping[str, Json]
    reference: Json
    extractor: Json | None
    model: Json
    sampler: Json
    versions: Json
    hardware: Json
    name: str
    likelihood: Json | None = None
    warning: str | None = None
    python: str | None = None
    changed: Json = field(default_factory=dict)
    command: str = ""
    path: Path = Path()
    target: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Name and weights: two results with the same key are of one model, wherever their files lie."""
        return self.name, self.model["weights_sha256"]

    @property
    def modality(self) -> Any:
        """Return the modality of what was measured."""
        return modality_in(self.protocol)

    @property
    def noun(self) -> str:
        """Return what several items are called: images."""
        return str(self.modality.noun[1])

    @property
    def choices(self) -> dict[str, Any]:
        """Options that depart from the model's own sampler, or from the family's own likelihood."""
        options = (self.likelihood or {}).get("options", {})
        return {**self.sampler["options"], **self.changed, **{f"likelihood.{k}": v for k, v in options.items()}}

    @property
    def is_of_few(self) -> bool:
        """Return True if so few images were sampled that the values which compare features say little."""
        return TOO_FEW in (self.warning or "")

    def to_dict(self) -> dict[str, Any]:
        """The JSON of a result file."""
        record = {"metric": METRIC, **{name: getattr(self, name) for name in KEYS}}
        absent = [name for name in ("likelihood", "warning", "python") if record[name] is None]
        return {name: value for name, value in record.items() if name not in absent}

    @classmethod
    def from_dict(cls, record: Json, path: Path, target: str = "") -> "Result":
        """Check the shape of a record and return it as a result; keys that this version does not know are dropped.

        Raises:
            UsageError: keys are missing or of another type; it names them.
        """
        wrong = _wrong(record)
        if wrong:
            raise UsageError(
                f"{path} is not a result that this version of hfgen can read; missing, or of another type:\n"
                f"  {', '.join(dict.fromkeys(wrong))}\nMeasure again with `hfgen evaluate`, or move that file away."
            )
        known = {name: record[name] for name in KEYS if record.get(name) is not None}
        known = {"floor": {}, "extractor": None, **known}
        name = known.get("name")
        known["name"] = name if isinstance(name, str) and name else path.stem
        if "likelihood" in known:
            known["likelihood"] = _respelled(known["likelihood"])
        return cls(**known, path=path, target=target)


KEYS = (
    *(
        "protocol",
        "values",
        "floor",
        "likelihood",
        "warning",
        "reference",
        "extractor",
        "model",
        "sampler",
        "versions",
    ),
    *("hardware", "python", "name", "changed", "command"),
)  # in the order in which a file holds them


# --- checks -----------------------------------------------------------------------------------------------------
def _wrong(record: Mapping[str, Any]) -> list[str]:
    """The keys of a record that are missing or of another type; what their values say may still be anyone's."""
    wrong = [name for name, kind in REQUIRED.items() if not _is(_at(record, name), kind)]
    wrong += [name for name, kind in OPTIONAL.items() if record.get(name) is not None and not _is(record[name], kind)]
    for kind in ("values", "floor"):
        entries = record.get(kind, {})
        wrong += _wrong_values(kind, entries) if isinstance(entries, dict) else [kind]
    if record.get("extractor") is not None:
        wrong += [n for n in ("extractor.name", "extractor.weights_sha256") if not _is(_at(record, n), str)]
        wrong += ["extractor.channels"] if not _is(_at(record, "extractor.channels") or "", str) else []
    values = record["values"] if isinstance(record.get("values"), dict) else {}
    if set(LIKELIHOOD) & set(values) and not _is(_at(record, "likelihood.kind"), str):
        wrong.append("likelihood.kind")
    return wrong


def _respelled(likelihood: Json) -> Json:
    """The facts of a likelihood, with its method in American spelling: older results have "isation" there."""
    method = likelihood.get("method")
    return {**likelihood, "method": method.replace("isation", "ization")} if isinstance(method, str) else likelihood


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


# --- reading ----------------------------------------------------------------------------------------------------
def read_results(folder: Path) -> list[Result]:
    """The results in a folder's `evaluation/`, in the order of their file names; what older versions measured by
    other tools, under another `metric`, is left out.

    Raises:
        UsageError: a file there cannot be read, or is damaged.
    """
    found = []
    for path in _in(folder / FOLDER):
        record = _record(path)
        if not isinstance(record, dict) or not isinstance(record.get("metric"), str):
            raise UsageError(f"{path} is not a result of `hfgen evaluate`. Move it away, or measure again.")
        found += [Result.from_dict(record, path)] if _is_result(record) else []
    return found


def _in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


def _record(path: Path) -> Any:
    try:
        return printable(read_json(path, finite=True))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}\nMeasure again, or move that file away.") from error


def _is_result(record: Any) -> bool:
    return isinstance(record, dict) and record.get("metric") == METRIC


class NoResultError(UsageError):
    """Raised for a target that exists and holds no result."""


def find(target: str, fetch: Fetch | None = None) -> list[Result]:
    """Find the results of a target; several of one model, as with several numbers of steps, are ordered by cost.

    Args:
        target: a run, a checkpoint or a model card's folder, a folder of results, a result, or a repository's id.
        fetch: downloads a repository's files of these patterns and returns their folder; None: the disk alone.

    Raises:
        NoResultError: the target holds no result.
        UsageError: the target does not exist, or holds a result that cannot be read.
        LoadError: the repository cannot be fetched.
    """
    for files in _places(target, fetch):
        records = [(file, _record(file)) for file in files]
        results = [Result.from_dict(record, file, target) for file, record in records if _is_result(record)]
        if results:
            return sorted(results, key=_order)
    what, model = ("is not a result", "TARGET") if Path(target).is_file() else ("holds no result", target)
    raise NoResultError(
        f"{target} {what} of `hfgen evaluate`: there is nothing to compare. Measure the model:\n"
        f"  hfgen evaluate {model} --dataset_name NAME"
    )


def _order(result: Result) -> tuple[str, float]:
    evaluations = result.values.get("network_evaluations", {}).get("value", math.inf)
    return result.sampler["scheduler"], evaluations


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
        yield _in(folder_of(target) / FOLDER)


def folder_of(target: str) -> Path:
    """The folder whose `evaluation/` takes a target's results: its own, or one below here for a repository."""
    return Path(target) if Path(target).is_dir() else Path("evaluations") / target


# --- names ------------------------------------------------------------------------------------------------------
def labels(results: Sequence[Result]) -> dict[tuple[str, str], str]:
    """Name each model: where two share a name, with more of the target's path or of the weights' hash."""
    targets: dict[tuple[str, str], tuple[str, ...]] = {}
    for result in results:
        targets.setdefault(result.key, Path(result.target).parts)
    named = {model: model[0] for model in targets}
    for name in {name for name, _ in targets}:
        same = {model: parts for model, parts in targets.items() if model[0] == name}
        if len(same) > 1:
            named |= _tails(same)
    return named


def _tails(models: Mapping[tuple[str, str], tuple[str, ...]]) -> dict[tuple[str, str], str]:
    """The shortest ends of the targets' paths that differ: whole paths are nobody else's business."""
    for length in range(1, max(map(len, models.values())) + 1):
        tails = {model: "/".join(parts[-length:]) for model, parts in models.items()}
        if _distinct(tails.values()):
            return tails
    return {(name, sha256): f"{name} {sha256[:8]}" for name, sha256 in models}


def _distinct(words: Iterable[str]) -> bool:
    words = list(words)
    return len(set(words)) == len(words)


# --- writing ----------------------------------------------------------------------------------------------------
def write(folder: Path, name: str, result: Result) -> Result:
    """Write `evaluation/NAME.json`, joined with an earlier result of the same rules; return the joined result."""
    path = folder / FOLDER / f"{name}.json"
    result = replace(_merged(path, result), path=path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(result.to_dict(), indent=2, allow_nan=False) + "\n")
    return result


def _merged(path: Path, result: Result) -> Result:
    try:
        earlier = Result.from_dict(_record(path), path)
    except (UsageError, AttributeError):  # none yet, or one that is damaged
        return result
    if _same(earlier) != _same(result):
        return result
    ways = [r.likelihood.get("options") for r in (earlier, result) if r.likelihood is not None]
    if ways[1:] and ways[0] != ways[1]:
        return result
    values = {**earlier.values, **result.values}
    return replace(
        result,
        values={name: values[name] for name in METRICS if name in values},
        floor={**earlier.floor, **result.floor},
        likelihood=result.likelihood or earlier.likelihood,
    )


def _same(result: Result) -> list[Any]:
    """The facts that must agree for values to join; of an extractor its weights, not the words that describe it."""
    e = result.extractor
    extractor = None if e is None else (e["name"], e["weights_sha256"])
    return [extractor, result.protocol, result.reference, result.model, result.sampler, result.versions]
