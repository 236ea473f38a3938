"""Measure a pipeline by a protocol, as `hfgen evaluate` does: find the real images, measure, write the result."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hfgen import run_folder
from hfgen.cards import card
from hfgen.data.builtin import BUILT_IN_FOLDERS
from hfgen.data.images import Images, images_from
from hfgen.data.sources import DataSource, NoSplitError
from hfgen.errors import UsageError
from hfgen.evaluation.measure import Real, measure, metrics_of, prepare
from hfgen.evaluation.progress import Bars, no_bars
from hfgen.evaluation.real_images import RealImages
from hfgen.evaluation.record import identity, record, result_name
from hfgen.files import read_config_file
from hfgen.results.metrics import LIKELIHOOD, chosen
from hfgen.results.protocol import GENERAL, Protocol, protocol_of, read_protocol
from hfgen.results.records import FOLDER, Result, write

SIZE = ("resolution", "center_crop")


@dataclass(frozen=True)
class Asked:
    """The options that a person gave; None leaves one to the protocol, or to the training's config.

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
    """The shared part of all measurements of one call: real images, prepared once, and the metrics.

    Attributes:
        asked: with what the training's config adds.
        unchanged: the protocol as it is written; `protocol` with the changes that were asked for.
        split: of the real images.
        metrics: names of what is measured.
    """

    asked: Asked
    unchanged: Protocol
    protocol: Protocol
    split: str
    metrics: list[str]
    real: Real


# --- the real images --------------------------------------------------------------------------------------------
def prepare_evaluation(target: str, pipeline: Any, asked: Asked, bars: Bars = no_bars) -> Evaluation:
    """Find the real images, by them the protocol, and what of it was asked to change; extract features.

    Args:
        target: a run, a checkpoint or a repository; where it is a run, its config says what it was trained on.

    Raises:
        UsageError: the images or the metrics cannot be had, or do not fit the protocol.
    """
    given = read_protocol(asked.protocol) if asked.protocol else None
    trained = trained_on(target)
    dataset = asked.dataset_name or _dataset_of(trained.get("dataset_name"), given)
    source = DataSource(dataset)
    if dataset == trained.get("dataset_name"):  # read it as the training did
        asked = _completed(asked, trained)
        source = replace(source, image_column=trained.get("image_column"), label_column=trained.get("label_column"))
    source = replace(source, config_name=asked.dataset_config_name)
    split, images = _find(source, asked.split or (given.split if given else None))
    size = replace(given or read_protocol(GENERAL), **_given(asked, SIZE))
    pixels = RealImages.of(images, size.resolution, size.center_crop, bars("decoding"))
    unchanged = given or protocol_of(pixels.sha256)
    protocol = replace(unchanged, **_changes(unchanged, asked))
    train = _train_images(source, protocol.train_split)
    possible = [n for n in metrics_of(pipeline, protocol) if train is not None or n != "authenticity"]
    metrics = chosen_metrics(asked.metrics, possible, getattr(pipeline, "measured_on_request", ()))
    weights, device = asked.extractor_weights, pipeline.device
    real = prepare(images, pixels, lambda: train, protocol, metrics, weights=weights, device=device, bars=bars)
    return Evaluation(asked, unchanged, protocol, split, metrics, real)


def trained_on(target: str) -> dict[str, Any]:
    """The config of a run, with the data's name or folder as its `dataset_name`; empty where there is none."""
    place = Path(target)
    for folder in (place, place.parent.parent) if place.is_dir() else ():  # a run, or a checkpoint of one
        if (folder / run_folder.CONFIG).is_file():
            config = read_config_file(folder / run_folder.CONFIG)
            return {**config, "dataset_name": config.get("dataset_name") or config.get("train_data_dir")}
    return {}


def _dataset_of(trained: str | None, protocol: Protocol | None) -> str:
    """The dataset that a model was trained on, if it is at hand; else the protocol's, in a copy from the Hub."""
    at_hand = trained is not None and (trained in BUILT_IN_FOLDERS or Path(trained).exists())
    name = trained if at_hand or protocol is None or protocol.dataset is None else protocol.dataset
    if name is None:
        raise UsageError("Which real images? The model does not say what it was trained on; give --dataset_name.")
    return name


def _completed(asked: Asked, trained: Mapping[str, Any]) -> Asked:
    names = [n for n in ("dataset_config_name", *SIZE) if getattr(asked, n) is None]
    return replace(asked, **{name: trained.get(name) for name in names})


def _find(source: DataSource, split: str | None) -> tuple[str, Images]:
    for name in [split] if split else ["test", "validation"]:
        try:
            return name, images_from(replace(source, split=name))
        except NoSplitError:
            if split:
                raise
    raise UsageError(
        f"{source.name} has no split test or validation to compare with; name one: --split.\n"
        "Images that a model was trained on do not show what it has memorized."
    )


def _train_images(source: DataSource, split: str) -> Images | None:
    try:
        return images_from(replace(source, split=split))
    except UsageError:
        return None


def _changes(protocol: Protocol, asked: Asked) -> dict[str, Any]:
    """The fields of a protocol that are asked to differ from how it is written."""
    found = _given(asked, ("num_images", "seed", "extractor", *SIZE))
    if asked.num_likelihood_images is not None:
        found["likelihood_images"] = asked.num_likelihood_images
    if found.get("extractor", protocol.extractor) != protocol.extractor or asked.extractor_weights:
        found["extractor_sha256"] = None
    return found


def _given(asked: Asked, names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(asked, name)) is not None}


def chosen_metrics(text: str | None, possible: Sequence[str], on_request: Iterable[str]) -> list[str]:
    """The metrics that were asked for, else all that are measured quickly."""
    if text is not None:
        return chosen(text, possible, "--metrics")
    found = [name for name in possible if name not in on_request]
    if set(found) <= {"parameters"}:
        raise UsageError(
            "No protocol is about these images, and there is no likelihood to measure; in whose features are\n"
            "they to be compared? Give --extractor; `hfgen list extractors` shows them."
        )
    return found


# --- the measurement --------------------------------------------------------------------------------------------
def evaluate(
    pipeline: Any, evaluation: Evaluation, name: str, folder: Path, sampling: Sampling, bars: Bars = no_bars
) -> tuple[str, Result] | None:
    """Sample, compare, and return the file's name and the result; None in all processes but the main one.

    Args:
        name: of the model, for the record.
        folder: images sampled so far are kept in its `evaluation/`, so that a killed measurement goes on.

    Raises:
        UsageError: options of a likelihood that is not measured.
        OSError: the folder cannot be written.
    """
    if sampling.likelihood and not set(LIKELIHOOD) & set(evaluation.metrics):
        raise UsageError(f"--likelihood.{next(iter(sampling.likelihood))}: no likelihood is measured; see --metrics.")
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
    options["dataset_name"] = None if unchanged.dataset is not None else evaluation.real.images.dataset_id
    options["split"] = None if evaluation.split == unchanged.split else evaluation.split
    options |= {name: None for name in SIZE if options[name] == getattr(unchanged, name)}
    words = ["hfgen", "evaluate", name, "--protocol", unchanged.name]
    for option, value in {**options, **sampling.options, **sampling.changed}.items():
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no_{option}")
        elif value is not None:
            words += [f"--{option}", str(value)]
    for option, value in _dotted(sampling.likelihood).items():
        words += [f"--{option}", str(value)]
    return shlex.join(words)


def _dotted(options: Mapping[str, Any]) -> dict[str, Any]:
    return {f"likelihood.{name}": value for name, value in options.items()}
