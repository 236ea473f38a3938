"""The start of a training run: find the data, build the pipeline, describe both."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from hfgen import run_folder
from hfgen.building import INNER_SHAPE, complete, options_of, require_sources
from hfgen.cards.parts import component_notes, component_rows
from hfgen.components import absent, declared, inner_pipelines, published_networks
from hfgen.data.class_names import aligned
from hfgen.data.divided import divided, facts_of
from hfgen.data.facts import Items, described
from hfgen.data.layout import Layout, no_labels, too_large
from hfgen.errors import UsageError, counted
from hfgen.evaluation.held_out import HeldOut, wanted_metrics
from hfgen.evaluation.likelihoods import metric_names
from hfgen.modality import Modality
from hfgen.noise import key
from hfgen.pipeline import HFGenPipeline
from hfgen.processes.world import join_processes
from hfgen.registry import family_of, modality_of
from hfgen.results.metrics import METRICS
from hfgen.scheduler import require_steps
from hfgen.settings.arguments import TrainingArguments
from hfgen.settings.model_configs import component_config
from hfgen.settings.options import (
    CLASS_NAME,
    FAMILY,
    FROM_PRETRAINED,
    SHAPE,
    component_choices,
    merge_inner,
    objective_options,
)
from hfgen.settings.resolve import RunConfig
from hfgen.training.trainer import Trainer
from hfgen.training.validation import drawing_options, shows_reconstructions

SHOWN = 10  # names of classes in a line

Facts = dict[str, Any]
Data = Any  # `hfgen.data.facts.Facts`, or its `Items`


def find_data(config: RunConfig, modality: Modality, folder: Path | None = None) -> Data:
    """Find the dataset that the arguments name; of one with a held-out part, what to train on.

    Args:
        folder: of the run; if it is resumed, classes keep the numbers that they have there.
    """
    a = config.arguments
    resumed = run_folder.class_names(folder) if a.class_conditional and a.resume_from_checkpoint and folder else None
    before = run_folder.data_facts(folder) if a.resume_from_checkpoint and folder else {}
    found = wanted(modality.find(name_of(a), a.dataset_split, a.options, a.streaming), a).read_as(before)
    if not isinstance(found, Items):
        return found.renumbered(resumed) if resumed else found
    if a.class_conditional and a.pretrained_model_name_or_path:
        found = _numbered_as(a.pretrained_model_name_or_path, found)
    if resumed:
        found = aligned(found, resumed, len(resumed))
    return found if a.validation_fraction is None else divided(found, a.validation_fraction, a.seed)


def name_of(arguments: TrainingArguments) -> str:
    """Return the name or the folder of the dataset.

    Raises:
        UsageError: the arguments name none.
    """
    name = arguments.dataset_name or arguments.train_data_dir
    if not name:
        raise UsageError("Which data? Give --dataset_name; `hfgen list datasets` shows what is built in.")
    return name


def _numbered_as(model: str, items: Items) -> Items:
    """Give the classes the numbers that they have in a model that is trained further, if it has the same classes."""
    names = run_folder.class_names(Path(model)) or []
    same = sorted(names) == sorted(items.label_names or [])
    return aligned(items, names, len(names)) if names and same else items


def wanted(found: Data, arguments: TrainingArguments) -> Data:
    """Return the data without what the arguments leave out."""
    skips = arguments.class_conditional and arguments.unlabeled == "skip" and isinstance(found, Items)
    return found.labeled() if skips else found


def find_held_out(config: RunConfig, pipeline: HFGenPipeline, trained_on: Data) -> HeldOut | None:
    """Find the validation data and what is measured on them; None where there are none, or nothing is measured.

    Raises:
        UsageError: they differ in form from the training data, or cannot be measured as asked.
    """
    a, part = config.arguments, getattr(trained_on, "held_out", None)
    if not a.validates or (part is not None and not (a.validation_metrics or a.best_metric or metric_names(pipeline))):
        return None
    metrics = wanted_metrics(pipeline, a, config.model)
    if part is not None:
        return HeldOut(part, a, metrics, pipeline)
    found = wanted(modality_of(pipeline).find(name_of(a), str(a.validation_split), a.options), a)
    found = found.read_like(trained_on)
    found.refuse_other(trained_on, a.options)
    if a.class_conditional:
        found = aligned(found, trained_on.label_names, trained_on.num_classes)
    return HeldOut(found, a, metrics, pipeline)


def build(config: RunConfig, pipeline_class: type[HFGenPipeline], data: Data) -> HFGenPipeline:
    """Build the untrained pipeline for these data, with the same weights in every process.

    Raises:
        UsageError: the data lack labels that are wanted, or hold fewer items than a batch; the model does not draw in
            as many steps as its grids are to be drawn in; or its options are not those of its components.
    """
    a = config.arguments
    if a.class_conditional and not data.all_labeled:
        raise UsageError(no_labels(data))
    layout = Layout(a.train_batch_size, join_processes().num_processes, accumulation=a.gradient_accumulation_steps)
    count = data.num_examples(a.options)
    if count is not None and layout.global_batch_size > count:
        raise UsageError(too_large(layout, data, count))
    pipeline = _build(config, pipeline_class, data)
    if a.num_inference_steps is not None:
        require_steps(getattr(pipeline, "scheduler", None), a.num_inference_steps)
    return pipeline


def _build(config: RunConfig, pipeline_class: type[HFGenPipeline], data: Data) -> HFGenPipeline:
    a = config.arguments
    overrides: Facts = {name: options for name, options in config.components.items() if name != "objective"}
    modality = modality_of(pipeline_class)
    brought = modality.components(data, a.options)
    size, channels, num_classes = data_shape(config, modality, data, brought)
    if a.pretrained_model_name_or_path:
        return pretrained(config, pipeline_class, (size, channels), num_classes)
    torch.manual_seed(key(a.seed, "weights"))
    pipeline = pipeline_class.build(size, channels, num_classes, components=brought, **overrides)
    require_sources(pipeline, declared(pipeline, "frozen_components"))
    if any(name in inner_pipelines(pipeline) for name in pipeline.sources):  # which may make images of another shape
        given = ", ".join(f"--{name}.{FROM_PRETRAINED} {source.name}" for name, source in pipeline.sources.items())
        _require_shape(f"The model with {given}", pipeline, (size, channels), pipeline.num_classes)
    return pipeline


def pretrained(
    config: RunConfig, pipeline_class: type[HFGenPipeline], shape: tuple[int, int], num_classes: int | None
) -> HFGenPipeline:
    """Load a published or finished model, to be trained further.

    Raises:
        UsageError: it is of another family, its images have another shape or other classes, or the given options
            would change its networks.
    """
    name = str(config.arguments.pretrained_model_name_or_path)
    pipeline = HFGenPipeline.from_pretrained(name)
    if not isinstance(pipeline, pipeline_class):
        raise UsageError(f"{name} is a {type(pipeline).__name__}; {config.model} trains {pipeline_class.__name__}.")
    only_training = {name: options for name, options in config.components.items() if name in absent(pipeline)}
    changed = changed_options(pipeline, {n: v for n, v in config.components.items() if n not in only_training})
    if changed:
        raise UsageError(
            f"Options that differ from its own cannot be combined with --pretrained_model_name_or_path {name}:\n"
            f"  {', '.join(changed)}\nLeave them out, or train from the beginning."
        )
    _require_shape(name, pipeline, shape, num_classes)
    torch.manual_seed(key(config.arguments.seed, "weights"))
    complete(pipeline, (*shape, num_classes), only_training)
    frozen, left_out = (declared(pipeline, f"{kind}_components") for kind in ("frozen", "training_only"))
    require_sources(pipeline, [name for name in frozen if name in left_out])
    return pipeline


def _require_shape(name: str, pipeline: HFGenPipeline, shape: tuple[int, int], num_classes: int | None) -> None:
    """Raise a UsageError unless a pipeline samples items of this shape, and of so many classes."""
    modality = modality_of(pipeline)
    found, classes = modality.sample_shape(pipeline), pipeline.num_classes
    if (found, classes) == (shape, num_classes):
        return
    options = modality.advice(found, shape)
    if (classes is None) != (num_classes is None):
        options.append("--class_conditional" if num_classes is None else "no --class_conditional")
    raise UsageError(
        f"{name} makes {modality.noun[1]} of {modality.shape_words(found)}, {_class_words(classes)};\n"
        f"the data have {modality.shape_words(shape)}, {_class_words(num_classes)}.\n"
        + (f"Try {', '.join(options)}." if options else "Data of the same classes are needed.")
    )


def _class_words(num_classes: int | None) -> str:
    return "without classes" if num_classes is None else f"of {counted(num_classes, 'class')}"


def changed_options(pipeline: HFGenPipeline, components: Mapping[str, Facts], place: str = "") -> list[str]:
    """List the options that differ from a model's own, as `--encoder.width is 8, not 4`."""
    changed = []
    for name, options in components.items():
        part, own = pipeline.components.get(name), Facts()
        if name == "objective":
            continue
        if isinstance(part, HFGenPipeline):
            options = merge_inner({}, options)
            inner = {n: options.pop(n) for n in set(options) - {FAMILY, FROM_PRETRAINED}}
            changed += changed_options(part, inner, f"{place}{name}.")
            own = {FAMILY: family.name} if (family := family_of(type(part))) else {}
        else:
            own = {**getattr(part, "config", {}), CLASS_NAME: type(part).__name__}
        changed += [
            f"--{place}{name}.{option} is {value}, not {_plain(own.get(option))}"
            for option, value in options.items()
            if _plain(own.get(option)) != _plain(value)
        ]
    return changed


def data_shape(
    config: RunConfig, modality: Modality, data: Data, brought: Mapping[str, Any]
) -> tuple[int, int, int | None]:
    """Return what `build` takes: `sample_size`, `in_channels` and the number of classes.

    Args:
        brought: the components that the data bring.
    """
    a = config.arguments
    return *modality.shape(data, a.options, brought), data.num_classes if a.class_conditional else None


def full_config(config: RunConfig, pipeline: HFGenPipeline, data: Data) -> Facts:
    """Return the config with all options of components and objective, so that it outlives changed defaults."""
    options = objective_options(type(pipeline), config.components.get("objective", {}))
    brought = {name: getattr(pipeline, name) for name in pipeline.from_data}
    shape = data_shape(config, modality_of(pipeline), data, brought)
    components = _component_options(pipeline, shape, config.components)
    objective = {name: _plain(value) for name, value in options.items()}
    return {**config.to_dict(), **components, "objective": objective}


def _component_options(
    pipeline: HFGenPipeline, shape: tuple[int, int, int | None], given: Mapping[str, Facts]
) -> dict[str, Facts]:
    """Return component -> options with which it would be built again; of a loaded one its source."""
    choices, components, found = component_choices(type(pipeline)), pipeline.components, dict[str, Facts]()
    chosen = {name: {CLASS_NAME: type(components[name]).__name__} for name in choices if len(choices[name]) > 1}
    overrides = {name: {**chosen.get(name, {}), **given.get(name, {})} for name in choices}
    there = {n: part for n, part in components.items() if n in pipeline.sources or isinstance(part, HFGenPipeline)}
    overrides |= {name: options_of(part, choices[name]) for name, part in there.items()}
    derived = pipeline.default_configs(*shape, overrides)
    for name, component in components.items():
        if name in pipeline.from_data:
            continue  # the data make it again
        if name in pipeline.sources:
            found[name] = {FROM_PRETRAINED: pipeline.sources[name].name}
        elif isinstance(component, HFGenPipeline):
            family, of_inner = family_of(type(component)), dict(derived.get(name, {}))
            size, channels, classes = (of_inner.pop(k, v) for k, v in zip(INNER_SHAPE, shape, strict=True))
            own = {n: options for n, options in merge_inner(of_inner, given.get(name, {})).items() if n != FAMILY}
            named: Facts = {FAMILY: family.name} if family is not None else {}
            found[name] = {**named, **_component_options(component, (size, channels, classes), own)}
        elif isinstance(component, choices[name]):  # a trained model may have a scheduler of another class
            follows = set(SHAPE) if isinstance(component, torch.nn.Module) else _of_networks(pipeline, component)
            options = _options_of(component, {k: v for k, v in derived.get(name, {}).items() if k in follows})
            found[name] = {**chosen.get(name, {}), **options}
    return found


def _of_networks(pipeline: HFGenPipeline, scheduler: Any) -> set[str]:
    """Name the options of a scheduler that follow from the networks: shapes of latents, options of a network."""
    networks = {key for model in pipeline.models().values() for key in component_config(model)}
    return {key for key in scheduler.config if key.endswith("_shape") or key in networks}


def _options_of(component: Any, derived: Facts) -> Facts:
    """Return a component's config, without what follows from the data and the networks."""
    options = {k: _plain(v) for k, v in component_config(component).items()}
    return {k: v for k, v in options.items() if k not in derived or derived[k] != v}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def describe(config: RunConfig, pipeline: HFGenPipeline, data: Data) -> Iterator[str]:
    """Yield lines that say what was inferred from the data, and what is trained."""
    options = config.arguments.options
    labels = f", {counted(data.num_classes, 'class')}{_class_names(data)}" if data.num_classes else ""
    count, words = data.counted(options), data.words(options)
    if isinstance(data, Items) and data.held_out is not None:
        count += f" to train on and {len(data.held_out):,} held out"
    yield f"{data.name}: {count}{', ' if words else ''}{words}{labels}"
    yield from (f"  {note}" for note in data.notes)
    for row in component_rows(pipeline.models()):
        yield f"{row['name']}: {row['class_name']}, {row['parameters']} parameters"


def plan(trainer: Trainer) -> str:
    """Return a line on how long the training is, and what is drawn, measured and saved when."""
    a, batches, last = trainer.arguments, trainer.batches, trainer.last_step
    epochs = "" if batches.facts.count is None else f" ({counted(round(batches.epochs(last)), 'epoch')})"
    options = drawing_options(trainer.pipeline, a.num_inference_steps)
    steps = f" in {options['num_inference_steps']} steps" if "num_inference_steps" in options else ""
    noun = trainer.modality.noun[0]
    drawn = f"{counted(a.num_validation_images, noun)} are drawn{steps}"
    drawn += ", others reconstructed" if shows_reconstructions(trainer.pipeline) else ""
    if trainer.held_out is not None:
        drawn += f", {', '.join(METRICS[name].title for name in trainer.held_out.metrics)} measured"
    return (
        f"plan: {last:,} steps of {counted(trainer.layout.global_batch_size, noun)}{epochs}; "
        f"{_every(trainer.validation_steps, last)} {drawn}; "
        + (f"{_every(a.checkpointing_steps, last)} a checkpoint" if a.checkpointing_steps else "no checkpoints")
    )


def _every(steps: int, last: int) -> str:
    return f"every {steps:,} steps and at the end" if 0 < steps < last else "at the end"


def _class_names(data: Data) -> str:
    """Return the first names of the classes, in brackets."""
    names = data.label_names or []
    return f" ({', '.join(names[:SHOWN])}{' ...' if len(names) > SHOWN else ''})" if names else ""


def facts(trainer: Trainer) -> Facts:
    """Return what env.json holds beside versions and hardware."""
    data, form = trainer.batches.facts, trainer.batches.facts.recorded(trainer.arguments.options)
    return {
        "global_batch_size": trainer.layout.global_batch_size,
        "num_processes": trainer.layout.num_processes,
        "plugin": _plugin(trainer.pipeline),
        "sampled_with": drawing_options(trainer.pipeline, trainer.arguments.num_inference_steps),
        "components": component_rows(published_networks(trainer.pipeline)),
        **_averaged_inside(list(trainer.networks.emas)),
        **({"component_notes": notes} if (notes := component_notes(trainer.pipeline)) else {}),
        "data": {**described(data), **form, "class_names": data.label_names, **_held_out(data)},
    }


def _held_out(data: Data) -> Facts:
    part = data.held_out if isinstance(data, Items) else None
    return {} if part is None else {"held_out": facts_of(part)}


def _averaged_inside(names: list[str]) -> Facts:
    """Return the networks with EMA where some are in pipelines inside, whose classes the card does not ask."""
    return {"averaged": names} if any("." in name for name in names) else {}


def _plugin(pipeline: HFGenPipeline) -> dict[str, str]:
    family = family_of(type(pipeline))
    return {} if family is None else {"distribution": family.distribution, "version": family.version}
