"""One training run, from a resolved config to a finished run folder."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml

from hfgen import checkpoint, run_folder
from hfgen.arguments import RunConfig
from hfgen.batches import no_labels
from hfgen.building import CLASS_NAME, SHAPE, component_choices, signature_of
from hfgen.card import write_card
from hfgen.data import Images, load_images
from hfgen.errors import HFGenError, UsageError
from hfgen.noise import key
from hfgen.pipeline import HFGenPipeline
from hfgen.plots import plot_run
from hfgen.registry import family_of
from hfgen.trainer import Trainer

Facts = dict[str, Any]


def train(config: RunConfig, pipeline_class: type[HFGenPipeline], folder: Path, say: Any) -> Facts:
    """Train, and leave a run folder that `HFGenPipeline.from_pretrained` reads.

    Args:
        say: called with each line for the user.

    Returns:
        the summary of the run: folder, steps, seconds, last metrics.
    """
    images = find_images(config)
    pipeline = build(config, pipeline_class, images)
    for line in describe(config, pipeline, images):
        say(line)
    trainer = Trainer(pipeline, images, config.arguments, folder, config.components.get("objective"))
    resume_from = config.arguments.resume_from_checkpoint
    place = checkpoint.find_checkpoint(resume_from, folder) if resume_from else None
    if place is not None:
        trainer.resume(place)
        done = "; nothing is left to train" if trainer.step == trainer.last_step else ""
        say(f"resumed from {place}, step {trainer.step} of {trainer.last_step}{done}")
    elif resume_from:
        say(f"no checkpoint in {folder} yet: starting from the first step")
    if trainer.accelerator.is_main_process:
        start = full_config(config, pipeline, images)
        with writable(folder):
            kept = run_folder.set_aside(folder) if config.arguments.overwrite_output_dir else None
            if kept is not None:
                say(f"the run that was in {folder} is now in {kept}")
            run_folder.write_start(folder, start, facts(trainer), resumed=bool(resume_from))
        say(f"run folder {folder}")
    trainer.train()
    if trainer.accelerator.is_main_process:
        with writable(folder):
            plot_run(run_folder.read_metrics(folder), folder / "plots")
            write_card(folder)
    return summary(trainer, folder)


def find_images(config: RunConfig) -> Images:
    """The data set that the arguments name."""
    a = config.arguments
    name = a.dataset_name or a.train_data_dir
    if not name:
        raise UsageError("Which data? Give --dataset_name; `hfgen list datasets` shows what is built in.")
    return load_images(name, a.dataset_split, a.dataset_config_name, a.image_column, a.label_column, a.cache_dir)


def build(config: RunConfig, pipeline_class: type[HFGenPipeline], images: Images) -> HFGenPipeline:
    """The untrained pipeline for these images; the same weights in every process."""
    a = config.arguments
    if a.class_conditional and images.num_classes is None:
        raise UsageError(no_labels(images))
    overrides: Facts = {name: options for name, options in config.components.items() if name != "objective"}
    torch.manual_seed(key(a.seed, "weights"))
    size, channels, num_classes = data_shape(config, images)
    return pipeline_class.build(size, channels, num_classes, **overrides)


def data_shape(config: RunConfig, images: Images) -> tuple[int, int, int | None]:
    """Side, channels and classes of what is trained on."""
    a = config.arguments
    return a.resolution or images.resolution(), images.channels, images.num_classes if a.class_conditional else None


def full_config(config: RunConfig, pipeline: HFGenPipeline, images: Images) -> Facts:
    """The config with the options of components and objective spelled out, so that it outlives changed defaults."""
    choices, components = component_choices(type(pipeline)), pipeline.components
    chosen = {name: {CLASS_NAME: type(components[name]).__name__} for name in choices if len(choices[name]) > 1}
    overrides = {name: {**chosen.get(name, {}), **config.components.get(name, {})} for name in choices}
    flat, derived = config.to_dict(), pipeline.default_configs(*data_shape(config, images), overrides)
    for name, component in components.items():
        if component is not None:
            follows = set(SHAPE) if isinstance(component, torch.nn.Module) else _of_networks(pipeline, component)
            options = _options_of(component, {k: v for k, v in derived.get(name, {}).items() if k in follows})
            flat[name] = {**chosen.get(name, {}), **options}
    parameters = signature_of(pipeline.objective_class)
    defaults = {n: _plain(p.default) for n, p in parameters.items() if n not in pipeline.component_classes()}
    return {**flat, "objective": {**defaults, **config.components.get("objective", {})}}


def _of_networks(pipeline: HFGenPipeline, scheduler: Any) -> set[str]:
    """What a scheduler's config holds of the networks: the shapes of latents, and options that a network has too."""
    networks = {key for model in pipeline.models().values() for key in getattr(model, "config", {})}
    return {key for key in scheduler.config if key.endswith("_shape") or key in networks}


def _options_of(component: Any, derived: Facts) -> Facts:
    """Its config, without what follows from the data and the networks."""
    options = {k: _plain(v) for k, v in component.config.items() if not k.startswith("_")}
    return {k: v for k, v in options.items() if k not in derived or derived[k] != v}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def describe(config: RunConfig, pipeline: HFGenPipeline, images: Images) -> Iterator[str]:
    """What was inferred from the data, and what is trained."""
    resolution = config.arguments.resolution or images.resolution()
    notes = "".join(f"; {note}" for note in images.notes)
    labels = f", {images.num_classes} classes" if images.num_classes else ""
    noun = "image" if len(images) == 1 else "images"
    yield f"{images.name}: {len(images):,} {noun}, {images.mode}, {resolution}x{resolution}{labels}{notes}"
    for row in component_rows(pipeline):
        yield f"{row['name']}: {row['class_name']}, {row['parameters']} parameters"


def component_rows(pipeline: HFGenPipeline) -> list[Facts]:
    """Name, class and number of parameters of each network."""
    return [
        {
            "name": name,
            "class_name": type(model).__name__,
            "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        }
        for name, model in pipeline.models().items()
    ]


def facts(trainer: Trainer) -> Facts:
    """What env.json says beside versions and hardware."""
    images = trainer.batches.images
    return {
        "global_batch_size": trainer.layout.global_batch_size,
        "num_processes": trainer.layout.num_processes,
        "plugin": _plugin(trainer.pipeline),
        "sampled_with": dict(trainer.pipeline.validation_options),
        "components": component_rows(trainer.pipeline),
        "data": {
            "name": Path(images.name).name if images.dataset_id is None else images.dataset_id,
            "dataset_id": images.dataset_id,
            "count": len(images),
            "channels": images.channels,
            "resolution": trainer.batches.resolution,
            "class_names": images.label_names,
        },
    }


def _plugin(pipeline: HFGenPipeline) -> dict[str, str]:
    family = family_of(type(pipeline))
    return {} if family is None else {"distribution": family.distribution, "version": family.version}


def summary(trainer: Trainer, folder: Path) -> Facts:
    last = run_folder.read_metrics(folder)[-1]
    return {"output_dir": str(folder), "steps": trainer.step, "seconds": last["seconds"], "metrics": last}


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Within, what keeps the run folder from being written is one clear error."""
    try:
        yield
    except OSError as error:
        raise HFGenError(f"The run folder {folder} cannot be written: {error}") from error


def dry_run(config: RunConfig, pipeline_class: type[HFGenPipeline], say: Any) -> str:
    """Build everything and take two steps, writing nothing; return the resolved config as YAML."""
    images = find_images(config)
    pipeline = build(config, pipeline_class, images)
    for line in describe(config, pipeline, images):
        say(line)
    resolved = yaml.safe_dump(full_config(config, pipeline, images), sort_keys=False)
    trainer = Trainer(pipeline, images, config.arguments, None, config.components.get("objective"))
    micro_batches = next(trainer.batches.steps(0, 1))
    trainer.train_step(micro_batches)
    trainer.step += 1
    start = time.perf_counter()
    trainer.train_step(micro_batches)
    seconds = time.perf_counter() - start
    say(
        f"{trainer.last_step:,} steps of {trainer.layout.global_batch_size} images; one took {seconds:.3f} s "
        f"just now, so about {seconds * trainer.last_step / 60:.1f} min in all. Nothing was written."
    )
    return resolved
