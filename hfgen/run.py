"""One training run, from a resolved config to a finished run folder."""

import contextlib
import functools
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from hfgen import checkpoint, run_folder
from hfgen.arguments import RunConfig
from hfgen.batches import no_labels
from hfgen.building import CLASS_NAME, SHAPE, component_choices
from hfgen.card import write_card
from hfgen.data import ImageFacts, load_images
from hfgen.errors import HFGenError, UsageError
from hfgen.held_out import HeldOut, refuse_other_images, wanted_metrics
from hfgen.launch import from_main_process, join_processes
from hfgen.noise import key
from hfgen.objective import objective_options
from hfgen.pipeline import HFGenPipeline
from hfgen.plots import plot_run
from hfgen.publishing import push, push_step, require_place
from hfgen.registry import family_of
from hfgen.run_lock import RunLock
from hfgen.streamed_images import stream_images
from hfgen.trainer import Trainer
from hfgen.transformers_models import config_of
from hfgen.validation import drawing_options

Facts = dict[str, Any]


def train(config: RunConfig, pipeline_class: type[HFGenPipeline], folder: Path, say: Any) -> Facts:
    """Train, and leave a run folder that `HFGenPipeline.from_pretrained` reads.

    Args:
        say: called with each line for the user.

    Returns:
        the summary of the run: folder, steps and, on the main process, seconds and last metrics.

    Raises:
        UsageError: another process trains in the folder; or what is asked for contradicts itself, the data or the
            machine.
    """
    join_processes()
    lock = RunLock()
    try:
        from_main_process(lambda: lock.take(folder))
        return _train(config, pipeline_class, folder, lock, say)
    finally:
        lock.release()


def _train(config: RunConfig, pipeline_class: type[HFGenPipeline], folder: Path, lock: RunLock, say: Any) -> Facts:
    require_place(config.arguments, folder)
    images = find_images(config)
    pipeline = build(config, pipeline_class, images)
    for line in describe(config, pipeline, images):
        say(line)
    objective, held_out = config.components.get("objective"), find_held_out(config, pipeline, images)
    trainer = Trainer(pipeline, images, config.arguments, folder, objective, held_out)
    resume_from = config.arguments.resume_from_checkpoint
    place = from_main_process(lambda: checkpoint.find_checkpoint(resume_from, folder, say)) if resume_from else None
    if place is not None:
        trainer.resume(place)
        done = "; nothing is left to train" if trainer.step == trainer.last_step else ""
        say(f"resumed from {place}, step {trainer.step} of {trainer.last_step}{done}")
    elif resume_from:
        say(f"no checkpoint in {folder} yet: starting from the first step")
    start = full_config(config, pipeline, images)
    from_main_process(lambda: begin(trainer, start, lock, say))
    say(f"run folder {folder}")
    trainer.train(functools.partial(push_on_the_way, trainer, folder, say))
    if trainer.accelerator.is_main_process:
        with writable(folder):
            plot_run(run_folder.read_metrics(folder), folder / "plots")
            write_card(folder)
        if config.arguments.push_to_hub:
            say(f"pushed to {push(folder, config.arguments)}")
    return summary(trainer, folder)


def push_on_the_way(trainer: Trainer, folder: Path, say: Any) -> None:
    """Push the model of a step at which a grid was drawn, if asked to; should it fail, the training goes on."""
    a, every = trainer.arguments, trainer.validation_steps
    if not a.push_to_hub or a.hub_strategy == "end" or not every or trainer.step % every:
        return
    if trainer.step == trainer.last_step:
        return  # it is pushed with the finished run
    with trainer.averaged() as pipeline:
        if trainer.accelerator.is_main_process:
            try:
                say(f"step {trainer.step} pushed to {push_step(folder, pipeline, trainer.arguments, trainer.step)}")
            except (HFGenError, OSError) as error:
                say(f"step {trainer.step} was not pushed; the training goes on: {str(error).splitlines()[0]}")
    trainer.accelerator.wait_for_everyone()


def begin(trainer: Trainer, config: Facts, lock: RunLock, say: Any) -> None:
    """Write what a run's folder holds from the start, after a run that is to be overwritten was set aside."""
    folder, a = trainer.folder, trainer.arguments
    assert folder is not None
    with writable(folder):
        kept = run_folder.set_aside(folder) if a.overwrite_output_dir else None
        if kept is not None:
            say(f"the run that was in {folder} is now in {kept}")
        run_folder.take(folder, resumed=bool(a.resume_from_checkpoint))
        lock.take(folder)
        run_folder.write_start(folder, config, facts(trainer))


def find_images(config: RunConfig) -> ImageFacts:
    """The data set that the arguments name."""
    a = config.arguments
    name = a.dataset_name or a.train_data_dir
    if not name:
        raise UsageError("Which data? Give --dataset_name; `hfgen list datasets` shows what is built in.")
    find = stream_images if a.streaming else load_images
    return find(name, a.dataset_split, a.dataset_config_name, a.image_column, a.label_column, a.cache_dir)


def find_held_out(config: RunConfig, pipeline: HFGenPipeline, trained_on: ImageFacts) -> HeldOut | None:
    """What is measured on the images that `validation_split` names.

    Raises:
        UsageError: they are no such images as those that are trained on, or cannot be measured as asked.
    """
    a = config.arguments
    if a.validation_split is None:
        return None
    metrics = wanted_metrics(pipeline, a, config.model)
    where = a.dataset_config_name, a.image_column, a.label_column, a.cache_dir
    images = load_images(a.dataset_name or a.train_data_dir or "", a.validation_split, *where)
    refuse_other_images(images, trained_on, a.resolution)
    return HeldOut(images, a, metrics)


def build(config: RunConfig, pipeline_class: type[HFGenPipeline], images: ImageFacts) -> HFGenPipeline:
    """The untrained pipeline for these images; the same weights in every process."""
    a = config.arguments
    if a.class_conditional and images.num_classes is None:
        raise UsageError(no_labels(images))
    overrides: Facts = {name: options for name, options in config.components.items() if name != "objective"}
    size, channels, num_classes = data_shape(config, images)
    if a.pretrained_model_name_or_path:
        return pretrained(config, pipeline_class, (channels, size), num_classes)
    torch.manual_seed(key(a.seed, "weights"))
    return pipeline_class.build(size, channels, num_classes, **overrides)


def pretrained(
    config: RunConfig, pipeline_class: type[HFGenPipeline], shape: tuple[int, int], num_classes: int | None
) -> HFGenPipeline:
    """A published or finished model, to be trained further.

    Raises:
        UsageError: it is of another family, its images have another shape or other classes, or options were given
            that would make another network of it.
    """
    name = str(config.arguments.pretrained_model_name_or_path)
    pipeline = HFGenPipeline.from_pretrained(name)
    if not isinstance(pipeline, pipeline_class):
        raise UsageError(f"{name} is a {type(pipeline).__name__}; {config.model} trains {pipeline_class.__name__}.")
    changed = changed_options(pipeline, config.components)
    if changed:
        raise UsageError(
            f"Other options than its own do not go with --pretrained_model_name_or_path {name}:\n"
            f"  {', '.join(changed)}\nLeave them out, or train from the beginning."
        )
    found = tuple(pipeline(seeds=[0], num_inference_steps=1, output_type="pt").images.shape[1:3])
    if (found, pipeline.num_classes) != (shape, num_classes):
        raise UsageError(
            f"{name} makes images of {found[0]} channels and {found[1]} pixels, of {pipeline.num_classes} classes; "
            f"the data have {shape[0]} channels, {shape[1]} pixels and {num_classes} classes.\n"
            "Try --resolution, or (not) --class_conditional."
        )
    return pipeline


def changed_options(pipeline: HFGenPipeline, components: Mapping[str, Facts]) -> list[str]:
    """The options that are not a model's own, as `encoder.width is 8, not 4`."""
    changed = []
    for name, options in components.items():
        part = pipeline.components.get(name)
        for option, value in options.items() if name != "objective" else ():
            own = type(part).__name__ if option == CLASS_NAME else _plain(getattr(part, "config", {}).get(option))
            if own != _plain(value):
                changed.append(f"{name}.{option} is {value}, not {own}")
    return changed


def data_shape(config: RunConfig, images: ImageFacts) -> tuple[int, int, int | None]:
    """Side, channels and classes of what is trained on."""
    a = config.arguments
    return a.resolution or images.resolution(), images.channels, images.num_classes if a.class_conditional else None


def full_config(config: RunConfig, pipeline: HFGenPipeline, images: ImageFacts) -> Facts:
    """The config with the options of components and objective spelled out, so that it outlives changed defaults."""
    choices, components = component_choices(type(pipeline)), pipeline.components
    chosen = {name: {CLASS_NAME: type(components[name]).__name__} for name in choices if len(choices[name]) > 1}
    overrides = {name: {**chosen.get(name, {}), **config.components.get(name, {})} for name in choices}
    flat, derived = config.to_dict(), pipeline.default_configs(*data_shape(config, images), overrides)
    for name, component in components.items():
        if isinstance(component, choices[name]):  # a trained model may have a scheduler of another class
            follows = set(SHAPE) if isinstance(component, torch.nn.Module) else _of_networks(pipeline, component)
            options = _options_of(component, {k: v for k, v in derived.get(name, {}).items() if k in follows})
            flat[name] = {**chosen.get(name, {}), **options}
    options = objective_options(type(pipeline), config.components.get("objective", {}))
    return {**flat, "objective": {name: _plain(value) for name, value in options.items()}}


def _of_networks(pipeline: HFGenPipeline, scheduler: Any) -> set[str]:
    """What a scheduler's config holds of the networks: the shapes of latents, and options that a network has too."""
    networks = {key for model in pipeline.models().values() for key in config_of(model)}
    return {key for key in scheduler.config if key.endswith("_shape") or key in networks}


def _options_of(component: Any, derived: Facts) -> Facts:
    """Its config, without what follows from the data and the networks."""
    options = {k: _plain(v) for k, v in config_of(component).items()}
    return {k: v for k, v in options.items() if k not in derived or derived[k] != v}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def describe(config: RunConfig, pipeline: HFGenPipeline, images: ImageFacts) -> Iterator[str]:
    """What was inferred from the data, and what is trained."""
    resolution = config.arguments.resolution or images.resolution()
    notes = "".join(f"; {note}" for note in images.notes)
    labels = f", {images.num_classes} classes" if images.num_classes else ""
    noun = "image" if images.count == 1 else "images"
    count = f"a stream of {noun}" if images.count is None else f"{images.count:,} {noun}"
    yield f"{images.name}: {count}, {images.mode}, {resolution}x{resolution}{labels}{notes}"
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
        "sampled_with": drawing_options(trainer.pipeline, trainer.arguments.num_inference_steps),
        "components": component_rows(trainer.pipeline),
        "data": {
            "name": Path(images.name).name if images.dataset_id is None else images.dataset_id,
            "dataset_id": images.dataset_id,
            "count": images.count,
            "channels": images.channels,
            "resolution": trainer.batches.resolution,
            "class_names": images.label_names,
        },
    }


def _plugin(pipeline: HFGenPipeline) -> dict[str, str]:
    family = family_of(type(pipeline))
    return {} if family is None else {"distribution": family.distribution, "version": family.version}


def summary(trainer: Trainer, folder: Path) -> Facts:
    """What the run came to; the metrics on the main process, which has written them: no other may see that disk."""
    found = {"output_dir": str(folder), "steps": trainer.step}
    if not trainer.accelerator.is_main_process:
        return found
    last = run_folder.read_metrics(folder)[-1]
    return {**found, "seconds": last["seconds"], "metrics": last}


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Within, what keeps the run folder from being written is one clear error."""
    try:
        yield
    except OSError as error:
        raise HFGenError(f"The run folder {folder} cannot be written: {error}") from error


def dry_run(config: RunConfig, pipeline_class: type[HFGenPipeline], folder: Path, say: Any) -> str:
    """Build everything and take two steps, writing nothing; return the resolved config as YAML.

    Raises:
        UsageError: what the run itself would refuse.
    """
    images = find_images(config)
    pipeline = build(config, pipeline_class, images)
    for line in describe(config, pipeline, images):
        say(line)
    resolved = yaml.safe_dump(full_config(config, pipeline, images), sort_keys=False)
    find_held_out(config, pipeline, images)
    trainer = Trainer(pipeline, images, config.arguments, None, config.components.get("objective"))
    resume_from = config.arguments.resume_from_checkpoint
    place = from_main_process(lambda: checkpoint.find_checkpoint(resume_from, folder, say)) if resume_from else None
    if place is not None:
        trainer.resume(place)
        say(f"it would go on from {place}, step {trainer.step} of {trainer.last_step}")
    micro_batches = next(trainer.batches.steps(0, 1))
    trainer.train_step(micro_batches)
    trainer.step += 1
    start = time.perf_counter()
    trainer.train_step(micro_batches)
    _wait(trainer.accelerator.device)
    seconds = time.perf_counter() - start
    say(
        f"{trainer.last_step:,} steps of {trainer.layout.global_batch_size} images; one took {seconds:.3f} s "
        f"just now, so about {seconds * trainer.last_step / 60:.1f} min in all."
    )
    say(f"memory: {_peak_memory(trainer.accelerator.device)} at most up to here, in each process")
    say(f"disk: {_megabytes(_disk(trainer))} for the model and its checkpoints. Nothing was written.")
    return resolved


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def _peak_memory(device: torch.device) -> str:
    if device.type != "cpu":
        return _megabytes(torch.get_device_module(device).max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return _megabytes(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def _disk(trainer: Trainer) -> int:
    """Bytes of the model and as many checkpoints as there are at once; one more while the next is saved."""
    a = trainer.arguments
    weights = sum(_bytes(model.state_dict()) for model in trainer.pipeline.models().values())
    others = sum(_bytes(tensors) for tensors in checkpoint.tensors_of(trainer).values())
    written = -(-trainer.last_step // a.checkpointing_steps) if a.checkpointing_steps else 0
    kept = min(written, a.checkpoints_total_limit + 1) if a.checkpoints_total_limit else written
    return weights + kept * (weights + others)


def _bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
