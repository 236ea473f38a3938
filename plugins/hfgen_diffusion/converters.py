"""Reading folders and repositories of diffusers whose weights are pickles, or that lack a scheduler."""

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import SchedulerMixin
from safetensors.torch import save_file

from hfgen import (
    Conversion,
    Converter,
    ConverterOptions,
    ForeignFiles,
    HFGenError,
    HFGenPipeline,
    LoadError,
    ModelFolder,
    StateDict,
    UsageError,
    check_options,
    component_choices,
    component_config,
    did_you_mean,
    find_by_class,
    find_by_component,
    get_family,
)

WEIGHTS = re.compile(r"diffusion_pytorch_model(-\d+-of-\d+)?\.(safetensors|bin)")
CONFIGS = ("config.json", "scheduler_config.json")
AVERAGING = {  # which diffusers' EMAModel writes into the config of the network that it averaged
    *("decay", "min_decay", "optimization_step", "update_after_step", "use_ema_warmup", "inv_gamma", "power")
}
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # before diffusers 0.15


class Diffusers(Converter):
    """A pipeline, or a single model, as diffusers saves it: `model_index.json` or `config.json`, and weights.

    The official DDPM repositories (google/ddpm-cifar10-32 ...) are such, with pickled weights beside the index and
    attention under its old names.
    """

    name = "diffusers"
    description = "folder or repository of diffusers, with safetensors or pickled weights"

    @classmethod
    def recognizes(cls, source: ForeignFiles) -> bool:
        """Recognize a folder by its index, or by the class that a config names."""
        return source.has(HFGenPipeline.config_name) or ModelFolder(source.path).single is not None

    @classmethod
    def read(cls, source: ForeignFiles, options: ConverterOptions, model: str | None) -> Conversion:
        """Copy the folder with safetensors under today's names, and load it like any other."""
        folder = ModelFolder(source.path, source.name)
        with tempfile.TemporaryDirectory() as temporary:
            place = Path(temporary) / "model"
            weights = copy(source, folder, place, options, model)
            try:
                pipeline = HFGenPipeline.from_pretrained(place)
            except HFGenError as error:
                raise type(error)(str(error).replace(str(place), source.name)) from error
        single = folder.single
        alone = [name for name, part in pipeline.components.items() if type(part).__name__ == single]
        weights = {name or alone[0]: tensors for name, tensors in weights.items()}
        pipeline = _with_options(pipeline, options)
        return Conversion(lambda: pipeline, weights, _assumed(pipeline, single) if single else [])


def _assumed(pipeline: HFGenPipeline, single: str) -> list[str]:
    """Describe the schedulers that a single model was given, in sentences."""
    notes = []
    for name, part in pipeline.components.items():
        if isinstance(part, SchedulerMixin):
            settings = (f"{key} = {value!r}" for key, value in component_config(part).items() if value is not None)
            notes.append(
                f"The source is a single {single}, without a {name}: that of its training is not known, and a "
                f"{type(part).__name__} with {', '.join(settings)} is taken. Images are right only if it was such; "
                f"others are said by `--{name}.KEY VALUE` when it is converted."
            )
    return notes


def copy(
    source: ForeignFiles, folder: ModelFolder, place: Path, options: ConverterOptions, model: str | None
) -> dict[str, StateDict]:
    """Write configs and safetensors to `place`; return the tensors of each component, of a single model under "".

    Args:
        folder: the source's.

    Raises:
        UsageError: it was saved by hfgen, or no family has its class; or it is a single model and `model` is missing.
        LoadError: a component has no config or no weights.
    """
    single = folder.single
    wrapper = find_by_component(single)
    if single is None:
        index: Mapping[str, Any] = folder.index
        _refuse(source, index, model)
        entries = {name: folder.place(name) for name in folder.components}
    elif wrapper is not None and model in (None, wrapper.name):
        return _copy_component(source, source.path, place, "")
    elif model is None:
        raise UsageError(f"{source.name} is a single {single}, without a scheduler. Say what it is of: --model NAME.")
    else:
        name, index = _indexed(single, model, options, place)
        entries = {name: source.path}
    weights: dict[str, StateDict] = {}
    for name, part in entries.items():
        weights |= _copy_component(source, part, place / name, name)
    (place / HFGenPipeline.config_name).write_text(json.dumps(index), encoding="utf-8")
    return weights


def _refuse(source: ForeignFiles, index: Mapping[str, Any], model: str | None) -> None:
    if "_hfgen" in index:
        raise UsageError(f"{source.name} is hfgen's own already; nothing is to be converted.")
    if model is not None:
        raise UsageError(f"--model {model}: {source.name} says itself that it is a {index['_class_name']}.")
    if find_by_class(index["_class_name"]) is None:  # before its weights are read
        raise UsageError(f"{source.name} is a {index['_class_name']}, which no installed family makes.")


def _copy_component(source: ForeignFiles, folder: Path, place: Path, name: str) -> dict[str, StateDict]:
    """Copy configs unchanged and write weights as one file; return {} for a component without weights."""
    place.mkdir(parents=True, exist_ok=True)
    prefix = "" if folder == source.path else f"{folder.name}/"
    is_scheduler = name == "scheduler"
    for config in CONFIGS[1:] if is_scheduler else CONFIGS[:1]:
        if (folder / config).is_file():
            settings = source.json(prefix + config)
            if "optimization_step" in settings:  # weights that diffusers' EMAModel averaged
                settings = {key: value for key, value in settings.items() if key not in AVERAGING}
            (place / config).write_text(json.dumps(settings), encoding="utf-8")
    if is_scheduler or not (folder / CONFIGS[0]).is_file():
        return {}
    tensors = _tensors(source, folder, prefix)
    save_file(tensors, place / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    return {name: tensors}


def _tensors(source: ForeignFiles, folder: Path, prefix: str) -> StateDict:
    found = [match for path in sorted(folder.iterdir()) if (match := WEIGHTS.fullmatch(path.name))]
    files = [m[0] for m in found if m[2] == "safetensors"] or [m[0] for m in found if m[2] == "bin"]
    if not files and not source.allow_pickle:
        files = ["diffusion_pytorch_model.bin"]  # a repository's pickles were not fetched: it tells how they are
    if not files:
        raise LoadError(f"{source.name}: {prefix}diffusion_pytorch_model.bin (or .safetensors) is missing.")
    tensors: StateDict = {}
    for file in files:
        tensors |= source.state_dict(prefix + file)
    return {_modern(name): tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


def _modern(name: str) -> str:
    """
    >>> _modern("mid_block.attentions.0.proj_attn.weight"), _modern("conv_in.bias")
    ('mid_block.attentions.0.to_out.0.weight', 'conv_in.bias')
    """
    old = re.fullmatch(r"(.*attentions\.\d+)\.(\w+)\.(weight|bias)", name)
    return f"{old[1]}.{OLD_ATTENTION[old[2]]}.{old[3]}" if old and old[2] in OLD_ATTENTION else name


def _indexed(class_name: str, model: str, options: ConverterOptions, place: Path) -> tuple[str, dict[str, Any]]:
    """Return the name of the component that a single model is in a family, and the index of a pipeline with it; write
    schedulers with the given options."""
    family = get_family(model)
    choices = component_choices(family.load())
    names = [name for name, classes in choices.items() if class_name in {c.__name__ for c in classes}]
    if not names:
        known = {c.__name__ for several in choices.values() for c in several}
        raise UsageError(f"--model {model} has no component that is a {class_name}.{did_you_mean(class_name, known)}")
    index: dict[str, Any] = {"_class_name": family.class_name, names[0]: ["diffusers", class_name]}
    for name, classes in choices.items():
        scheduler: Any = classes[0]
        if issubclass(scheduler, SchedulerMixin):
            given = check_options(scheduler, options.get(name, {}), prefix=name)
            scheduler(**given).save_pretrained(place / name)
            library = scheduler.__module__
            index[name] = ["diffusers" if library.startswith("diffusers.") else library, scheduler.__name__]
    return names[0], index


def _with_options(pipeline: HFGenPipeline, options: ConverterOptions) -> HFGenPipeline:
    """Give a pipeline's scheduler the user's settings; a network keeps those of its weights."""
    for name, given in options.items():
        part = pipeline.components.get(name)
        if not isinstance(part, SchedulerMixin):
            schedulers = [n for n, p in pipeline.components.items() if isinstance(p, SchedulerMixin)]
            raise UsageError(f"--{name}.{next(iter(given))}: only settings of {', '.join(schedulers)} can be given.")
        checked = check_options(type(part), given, prefix=name)
        pipeline.register_modules(**{name: type(part).from_config(part.config, **checked)})
    return pipeline
