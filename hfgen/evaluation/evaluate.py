"""Measure a pipeline by a protocol, as `hfgen evaluate` does: find the real items, measure, write the result."""

import math
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from hfgen.cards import card
from hfgen.data.class_names import aligned
from hfgen.errors import UsageError
from hfgen.evaluation.measure import measure, metrics_of, prepare
from hfgen.evaluation.progress import Bars, no_bars
from hfgen.evaluation.real import Real
from hfgen.evaluation.record import identity, record, result_name
from hfgen.evaluation.reference import Data, dataset_of, published_names, trained_on
from hfgen.registry import modality_name, modality_of
from hfgen.results.metrics import chosen
from hfgen.results.protocol import PARTICULAR, Protocol, general, protocol_of, read_protocol
from hfgen.results.records import FOLDER, Result, write

SIZE = ("resolution", "center_crop")


@dataclass(frozen=True)
class Asked:
    """Options of `hfgen evaluate`; where one is None, the protocol's value holds, or that of the training's config.

    Attributes:
        metrics: comma-separated.
        extractor_weights: a file or folder.
    """

    dataset_name: str | None = None
    dataset_config_name: str | None = None
    split: str | None = None
    metrics: str | None = None
    num_images: int | None = None
    num_likelihood_images: int | None = None
    seed: int | None = None
    resolution: int | None = None
    center_crop: bool | None = None
    extractor: str | None = None
    protocol: str | None = None
    extractor_weights: str | None = None


@dataclass(frozen=True)
class Sampling:
    """Options of a sampler and of a likelihood.

    Attributes:
        options: of the pipeline's call.
        likelihood: options of the family's `log_likelihood`.
        changed: options of the command line by which the pipeline itself was changed, for the record.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    likelihood: Mapping[str, Any] = field(default_factory=dict)
    changed: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """The plan of a measurement: the protocol, the real items and the metrics, for every way to sample alike.

    Attributes:
        asked: the options, completed from the training's config.
        unchanged: the protocol as it is written.
        protocol: the same with the changes that the options make.
        split: name of the split of the real items.
        metrics: names of the metrics to measure.
        real: the real items; what the metrics need of them is there after `prepare_evaluation`.
        train: the training items; None where the dataset has none.
    """

    asked: Asked
    unchanged: Protocol
    protocol: Protocol
    split: str
    metrics: list[str]
    real: Real
    train: Any


# --- the real items ---------------------------------------------------------------------------------------------
def plan_evaluation(target: str, pipeline: Any, asked: Asked, bars: Bars = no_bars) -> Evaluation:
    """Find and decode the real items, choose the protocol that belongs to them, and choose the metrics.

    Args:
        target: a run, a checkpoint or a repository; where it is a run, its config says what it was trained on.

    Raises:
        UsageError: the real items are not found, or a metric is unknown or cannot be measured of this model.
    """
    modality, made = modality_of(pipeline), modality_name(pipeline)
    given = read_protocol(asked.protocol) if asked.protocol else None
    refuse_other_modality(modality, made, asked, given)
    trained = trained_on(target)
    dataset = asked.dataset_name or dataset_of(trained, given)
    is_its_own = trained.is_of(dataset)
    if is_its_own:  # read it as the training did
        asked = _completed(asked, trained.config, modality.protocol_options)
    data = Data(dataset, asked.dataset_config_name, trained if is_its_own else None, modality)
    split, items = data.reference(asked.split or (given.split if given else None))
    classes = getattr(pipeline, "num_classes", None)
    items = aligned(items, trained.facts.get("class_names") or (published_names(target) if classes else None), classes)
    own = {n: v for n, v in trained.options.items() if is_its_own and n in modality.protocol_options}
    usual = replace(general(made), options={n: v for n, v in own.items() if n not in PARTICULAR})
    real = modality.reference(items, pipeline, replace(given or usual, **_given(asked, SIZE)), bars("decoding"))
    unchanged = given or protocol_of(real.sha256, made)
    unchanged = usual if unchanged.name == usual.name else unchanged
    protocol = replace(unchanged, **_changes(unchanged, asked))
    train = data.train(protocol.train_split)
    possible = [n for n in metrics_of(pipeline, protocol) if train is not None or n not in modality.train_metrics]
    metrics = chosen_metrics(asked.metrics, possible, getattr(pipeline, "measured_on_request", ()), modality.noun[1])
    return Evaluation(asked, unchanged, protocol, split, metrics, real, train)


def prepare_evaluation(plan: Evaluation, pipeline: Any, bars: Bars = no_bars) -> Evaluation:
    """Find what the metrics need of the real items, such as features, on the pipeline's device.

    Raises:
        UsageError: the real items are not those of the protocol, or do not fit its extractor.
    """
    weights, wanted = plan.asked.extractor_weights, plan.metrics
    real = prepare(plan.real, lambda: plan.train, pipeline, plan.protocol, wanted, weights=weights, bars=bars)
    return replace(plan, real=real)


def refuse_other_modality(modality: Any, name: str, asked: Asked, given: Protocol | None) -> None:
    """Raise a UsageError for a protocol of another modality, or options that this one's protocols do not have."""
    if given is not None and given.modality != name:
        raise UsageError(
            f"{given.name} is a protocol of another modality: {given.modality}, and the model's is {name}."
        )
    for option in ("extractor", "extractor_weights", *SIZE):
        if getattr(asked, option) is not None and option.removesuffix("_weights") not in modality.protocol_options:
            raise UsageError(f"--{option}: a measurement of {modality.noun[1]} has no such option. Leave it out.")


def _completed(asked: Asked, trained: Mapping[str, Any], options: Collection[str]) -> Asked:
    names = ["dataset_config_name", *(name for name in SIZE if name in options)]
    names = [name for name in names if getattr(asked, name) is None]
    return replace(asked, **{name: trained.get(name) for name in names})


def _changes(protocol: Protocol, asked: Asked) -> dict[str, Any]:
    """The fields of the protocol that the options change, with their new values."""
    found = _given(asked, ("num_images", "seed", "extractor", *SIZE))
    if asked.num_likelihood_images is not None:
        found["likelihood_images"] = asked.num_likelihood_images
    if found.get("extractor", protocol.extractor) != protocol.extractor or asked.extractor_weights:
        found["extractor_sha256"] = None
    return found


def _given(asked: Asked, names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(asked, name)) is not None}


def chosen_metrics(
    text: str | None, possible: Sequence[str], on_request: Iterable[str], noun: str = "images"
) -> list[str]:
    """The metrics that were asked for, else all that are measured quickly."""
    if text is not None:
        return chosen(text, possible, "--metrics")
    found = [name for name in possible if name not in on_request]
    if set(found) <= {"parameters"}:
        raise UsageError(
            f"Nothing can be measured: no protocol is made for these {noun}, so no feature extractor is chosen,\n"
            "and the model has no likelihood. Give --extractor; `hfgen list extractors` shows the names."
        )
    return found


# --- the measurement --------------------------------------------------------------------------------------------
def evaluate(
    pipeline: Any, evaluation: Evaluation, name: str, folder: Path, sampling: Sampling, bars: Bars = no_bars
) -> tuple[str, Result] | None:
    """Sample, compare, and return the file's name and the result; None in all processes but the main one.

    Args:
        name: of the model, for the record.
        folder: items sampled so far are kept in its `evaluation/`, so that a killed measurement goes on.

    Raises:
        OSError: the folder cannot be written.
    """
    protocol, real = evaluation.protocol, evaluation.real
    departures = {**sampling.options, **sampling.changed, **_dotted(sampling.likelihood)}
    file = result_name(protocol, departures, evaluation.unchanged, real)
    partial = folder / FOLDER / f".{file}.safetensors"
    sha256 = None if real.extractor is None else real.extractor.weights_sha256
    measured = measure(
        pipeline,
        real,
        protocol,
        evaluation.metrics,
        options=sampling.options,
        likelihood=sampling.likelihood,
        partial=partial,
        identity=identity(pipeline, protocol, sampling.options, sha256),
        bars=bars,
    )
    if measured is None:
        return None
    values, likelihood = measured
    result = record(
        pipeline,
        real,
        protocol,
        values,
        likelihood,
        name=name,
        split=evaluation.split,
        options=sampling.options,
        changed=sampling.changed,
        command=command_line(name, evaluation, sampling),
    )
    return file, result


def save(folder: Path, file: str, result: Result) -> tuple[Result, bool]:
    """Write the result; render the card again if it was rendered from the run.

    Returns:
        the result as written, with the values of an earlier one of the same rules; and whether the folder has a card
        that stays as it is, because somebody has edited it.
    """
    rendered = card.is_rendered(folder)
    result = write(folder, file, result)
    (folder / FOLDER / f".{file}.safetensors").unlink(missing_ok=True)
    if rendered:
        card.write_card(folder, card.name_on(folder))
    return result, rendered is False


def name_of(target: str) -> str:
    """A repository's id; a folder's name, that of a checkpoint with the run's before it."""
    if not Path(target).exists():
        return target
    parts = Path(target).resolve().parts
    return "/".join(parts[-3:] if parts[-2] == "checkpoints" else parts[-1:])


def command_line(name: str, evaluation: Evaluation, sampling: Sampling) -> str:
    """The command that repeats a result, without folders of this machine."""
    unchanged, options = evaluation.unchanged, asdict(evaluation.asked)
    del options["protocol"], options["extractor_weights"]
    options["dataset_name"] = None if unchanged.dataset is not None else evaluation.real.items.dataset_id
    options["split"] = None if evaluation.split == unchanged.split else evaluation.split
    options |= {name: None for name in SIZE if options[name] == getattr(unchanged, name)}
    words = ["hfgen", "evaluate", name, "--protocol", unchanged.name]
    for option, value in {**options, **sampling.options, **sampling.changed, **_dotted(sampling.likelihood)}.items():
        words += _words(option, value)
    return shlex.join(words)


def _words(option: str, value: Any) -> list[str]:
    """An option as the command line reads it: the value of a dotted one is YAML, others may be flags or left out."""
    if "." in option:
        return [f"--{option}", _yaml(value)]
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no_{option}"]
    return [] if value is None else [f"--{option}", str(value)]


def _yaml(value: Any) -> str:
    """
    >>> [_yaml(value) for value in (False, None, 1e-05, "none", "true", [1, 2])]
    ['false', 'null', '1.0e-05', 'none', "'true'", '[1, 2]']
    """
    return yaml.safe_dump(value, default_flow_style=True, width=math.inf).removesuffix("...\n").removesuffix("\n")


def _dotted(options: Mapping[str, Any]) -> dict[str, Any]:
    return {f"likelihood.{name}": value for name, value in options.items()}
