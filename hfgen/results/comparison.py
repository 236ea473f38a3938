"""Choose the results that compare, and put them side by side with notes on their values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfgen.results.disagreements import no_common_protocol, no_common_rules, several_protocols, several_rules
from hfgen.results.metrics import METRICS, QUALITY
from hfgen.results.protocol import differing_fields, list_protocols, modality_in, read_protocol
from hfgen.results.records import Fetch, NoResultError, Result, find, labels
from hfgen.results.rows import ERRORS, Row, mark

LIBRARIES = ("torchmetrics", "prdc")  # compute the metrics of sampled images
OTHERS = ("hfgen", "torch", "diffusers")  # sample them: differences are noted, and do not forbid a comparison
STEPS = "num_inference_steps"


@dataclass
class Comparison:
    """Results of one protocol, side by side.

    Attributes:
        floor: the values that the metrics of sampled images give for as many real ones.
        hardware: each machine that sampled images, in a line.
        notes: sentences that explain the values.
    """

    rows: list[Row]
    protocol: Mapping[str, Any]
    reference: Mapping[str, Any]
    extractor: Mapping[str, Any] | None
    floor: Mapping[str, Any]
    versions: Mapping[str, str]
    hardware: list[str]
    notes: list[str]

    @property
    def noun(self) -> str:
        """Return what several of the compared items are called: images."""
        return str(modality_in(self.protocol).noun[1])

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "metric": "comparison", "rows": [row.to_dict() for row in self.rows]}

    def measured(self, names: Sequence[str]) -> list[str]:
        """The metrics, of these names, that were measured of at least one model."""
        return [name for name in names if any(name in row.values for row in self.rows)]


def compare(targets: Sequence[str], protocol: str | None = None, fetch: Fetch | None = None) -> Comparison:
    """The targets' results of one protocol, in the order of the targets.

    Args:
        protocol: its name or file; None where all targets have results of the same one.
        fetch: as of `find`.

    A target without results is left out, and named in the notes.

    Raises:
        UsageError: no target has results, or one has none that compare with the others'.
    """
    found, without = _found(targets, fetch)
    name = read_protocol(protocol).name if protocol and Path(protocol).is_file() else protocol
    found = of_protocol(found, name)
    results, left_out = of_same_rules(found)
    comparison = side_by_side(results, left_out)
    if without:
        comparison.notes.append(f"Without a result, and left out: {', '.join(without)}. `hfgen evaluate` measures.")
    return comparison


def _found(targets: Sequence[str], fetch: Fetch | None) -> tuple[dict[str, list[Result]], list[str]]:
    """The results of each target, and the targets that hold none, unless none of them holds any."""
    found: dict[str, list[Result]] = {}
    without: dict[str, NoResultError] = {}
    for target in dict.fromkeys(targets):
        try:
            found[target] = find(target, fetch)
        except NoResultError as error:
            without[target] = error
    if not found:
        raise next(iter(without.values()))
    return found, list(without)


# --- which compare ----------------------------------------------------------------------------------------------
def of_protocol(found: Mapping[str, Sequence[Result]], name: str | None) -> dict[str, list[Result]]:
    """The results of the named protocol, else of the one that all targets have."""
    names = {t: list(dict.fromkeys(r.protocol["name"] for r in results)) for t, results in found.items()}
    shared = [n for n in next(iter(names.values())) if all(n in others for others in names.values())]
    if name is None and len(shared) > 1:
        raise several_protocols(shared)
    if not shared or name not in (None, *shared):
        raise no_common_protocol(names, name)
    chosen = name or shared[0]
    return {t: [r for r in results if r.protocol["name"] == chosen] for t, results in found.items()}


def rules(result: Result) -> dict[str, Any]:
    """The facts that must be equal in two results, flat; extractor and libraries only where images were sampled."""
    found = {**result.protocol, "reference.sha256": result.reference["sha256"]}
    if result.extractor is not None:
        found["extractor.weights_sha256"] = result.extractor["weights_sha256"]
        found |= {f"versions.{name}": result.versions.get(name) for name in LIBRARIES}
    return found


def differences(one: Result, other: Result) -> list[str]:
    """The rules that differ between two results; a rule that one of them does not need does not count."""
    a, b = rules(one), rules(other)
    unused = {key for key in {*a, *b} if "." in key and not (key in a and key in b)}
    return [key for key in differing_fields(a, b) if key not in unused]


def of_same_rules(found: Mapping[str, Sequence[Result]]) -> tuple[list[Result], int]:
    """The results that compare, at least one of each target; and how many others there are."""
    every = [result for results in found.values() for result in results]
    kinds: list[Result] = []
    for result in [r for r in every if r.extractor is not None] or every:
        kinds += [result] if all(differences(result, kind) for kind in kinds) else []
    shared = [kind for kind in kinds if not _without(found, kind)]
    if not shared:
        raise no_common_rules(*_nearest(found, kinds))
    as_written = [kind for kind in shared if _is_as_written(kind.protocol)]
    if len(shared) > 1 and len(as_written) != 1:
        raise several_rules(shared[0], shared[1], differences(shared[0], shared[1]))
    kind = (as_written or shared)[0]
    once = {result.path.resolve(): result for result in reversed(every)}
    chosen = [r for r in every if once[r.path.resolve()] is r and not differences(kind, r)]
    return chosen, len(once) - len(chosen)


def _without(found: Mapping[str, Sequence[Result]], kind: Result) -> list[str]:
    return [target for target, results in found.items() if all(differences(kind, result) for result in results)]


def _nearest(found: Mapping[str, Sequence[Result]], kinds: Sequence[Result]) -> tuple[Result, Result, list[str]]:
    """The kind that most targets have, the nearest result of a target without it, and how they differ."""
    kind = min(kinds, key=lambda kind: len(_without(found, kind)))
    other = min(found[_without(found, kind)[0]], key=lambda result: len(differences(kind, result)))
    return kind, other, differences(kind, other)


def _is_as_written(protocol: Mapping[str, Any]) -> bool:
    """Tell whether a protocol is one of hfgen's own, unchanged by options of `hfgen evaluate`."""
    name = protocol["name"]
    return name in list_protocols() and not differing_fields(read_protocol(name).to_dict(), dict(protocol))


# --- side by side -----------------------------------------------------------------------------------------------
def side_by_side(results: Sequence[Result], left_out: int = 0) -> Comparison:
    """Rows with their marks, and the notes, of results that compare."""
    names, one = labels(results), next((r for r in results if r.extractor), results[0])
    hardware = list(dict.fromkeys(map(_hardware, results)))
    samplers = _samplers(results)
    rows = [
        Row(
            result=r,
            name=names[r.key],
            sampler=sampler,
            values={n: dict(v) for n, v in r.values.items() if n in METRICS},
            likelihood=r.likelihood,
            hardware=hardware.index(_hardware(r)),
        )
        for r, sampler in zip(results, samplers, strict=True)
    ]
    mark(rows)
    floor = {n: v for r in reversed(results) for n, v in r.floor.items() if n in QUALITY}
    versions = {name: str(one.versions.get(name)) for name in LIBRARIES}
    comparison = Comparison(rows, one.protocol, one.reference, one.extractor, floor, versions, hardware, notes=[])
    comparison.notes = notes(comparison, left_out)
    return comparison


def _hardware(result: Result) -> str:
    h = result.hardware
    accelerators = h.get("accelerators") or []
    return ", ".join(map(str, [*accelerators, h.get("processor"), f"{h.get('threads')} threads", h.get("platform")]))


def _samplers(results: Sequence[Result]) -> list[str]:
    """The sampler of each result in words: scheduler, options, and the settings that differ within a model."""
    found = []
    for result in results:
        sampler = result.sampler
        others = [r.sampler for r in results if r.key == result.key]
        alike = [other["config"] for other in others if other["scheduler"] == sampler["scheduler"]]
        settings = {
            key: value
            for key, value in sampler["config"].items()
            if key not in sampler["options"] and any(config.get(key) != value for config in alike)
        }
        for key, usual in (("temperature", 1), ("truncation", None)):  # another prior is another model
            if sampler["config"].get(key, usual) != usual:
                settings[key] = sampler["config"][key]
        words = [
            f"{value} steps" if name == STEPS else f"{name} {value}"
            for name, value in {**settings, **sampler["options"]}.items()
        ]
        found.append(", ".join([sampler["scheduler"], *words]))
    keys = [(r.key, words) for r, words in zip(results, found, strict=True)]
    return [
        f"{words} ({result.path.stem})" if keys.count(key) > 1 else words
        for result, words, key in zip(results, found, keys, strict=True)
    ]


def notes(c: Comparison, left_out: int) -> list[str]:
    """Sentences that explain these values."""
    found = [*_of_errors(c), *_of_directions(c)]
    if c.floor:
        found.append("real images: the floor, the same metrics of as many real images in place of a model's.")
    found += dict.fromkeys(f"Warning: {r.result.warning}." for r in c.rows if r.result.warning is not None)
    if any(row.likelihood and row.likelihood["kind"] != "exact" for row in c.rows):
        found.append(
            "<= is of a bound: bits/dim are at most, ln p(x) is at least so much. Likelihoods are ranked only among "
            "those of one kind, method and number of values."
        )
    if len(c.hardware) > 1 and c.measured(["seconds_per_image"]):
        on = "; ".join(f"({letter(i)}) {words}" for i, words in enumerate(c.hardware))
        found.append(f"s/image were measured on different hardware and do not compare: {on}.")
    if len({r.result.reference.get("train_sha256") for r in c.rows} - {None}) > 1:
        found.append("Floor and authenticity are of different training images; the floor shown is the first's.")
    for library in OTHERS:
        of = {str(r.result.versions.get(library)): r.name for r in c.rows}
        if len(of) > 1:
            found.append(f"Sampled with different versions of {library}: {', '.join(f'{v} ({of[v]})' for v in of)}.")
    unknown = sorted({name for r in c.rows for name in r.result.values} - set(METRICS))
    found += [f"Not known to this version of hfgen, and left out: {', '.join(unknown)}."] if unknown else []
    return found + ([f"{left_out} results of other rules or other protocols are left out."] if left_out else [])


def _of_errors(c: Comparison) -> list[str]:
    every = {name: v["error_of"] for row in c.rows for name, v in row.values.items() if v.get("error_of")}
    if not every:
        return []
    of = "; ".join(f"{METRICS[name].title}: {how}" for name, how in every.items() if how != "standard error")
    return [
        f"+- is one standard error{f' ({of})' if of else ''}: of these {c.noun}, not of training again.",
        f"Values are separable where value +- {ERRORS} errors do not overlap; values without an error are not ranked.",
    ]


def _of_directions(c: Comparison) -> list[str]:
    found = []
    for way in ("lower", "higher"):
        titles = [METRICS[name].title for name in c.measured(tuple(METRICS)) if METRICS[name].better == way]
        found += [f"{way.capitalize()} is better: {', '.join(titles)}."] if titles else []
    return found


def letter(i: int) -> str:
    """a, b, ... z, then a1, b1, ..."""
    return "abcdefghijklmnopqrstuvwxyz"[i % 26] + (str(i // 26) if i >= 26 else "")
