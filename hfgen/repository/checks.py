"""Checks of a model's folder before and after it is loaded: its files, their configs and the shapes of its tensors."""

from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import SchedulerMixin
from torch import nn

from hfgen.components import MOST_LEVELS
from hfgen.errors import LoadError, UsageError, did_you_mean, first_line
from hfgen.files import MOST_TABLE, read_json, refuse_links_out
from hfgen.repository.components import PROCESSORS, classes_in
from hfgen.repository.fit import check_config, check_fit, incomplete, missing_tensors, renamed
from hfgen.repository.index import CONFIG, SCHEDULER_CONFIG, class_name_of
from hfgen.repository.model_folder import ModelFolder
from hfgen.repository.processor_files import (
    FEATURE_EXTRACTOR_CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    check_feature_extractor,
    check_tokenizer,
    check_tokenizer_file,
)
from hfgen.repository.weights import AGAIN, check_names, variant_of
from hfgen.settings.options import component_choices, is_pipeline, signature_of

# Keywords of diffusers' `from_pretrained` that hfgen supports; the first say what to fetch from the Hub.
RUNS_CODE = ("trust_remote_code", "custom_pipeline")
FETCHING = ("revision", "token", "cache_dir", "force_download", "local_files_only")
LOADING = (
    *FETCHING,
    *("proxies", "variant", "dtype", "torch_dtype", "device_map", "max_memory", "offload_folder"),
    *("offload_state_dict", "low_cpu_mem_usage", "use_safetensors", "quantization_config", "disable_mmap"),
)


def check_variant(variant: str | None, names: Iterable[str]) -> None:
    """Raise a LoadError if none of these files are weights of a variant.

    >>> check_variant("ema", ["unet/model.ema.safetensors", "unet/model.bf16-00001-of-00002.safetensors"])
    >>> check_variant("fp16", ["unet/model.ema.safetensors", "unet/model.bf16-00001-of-00002.safetensors"])
    Traceback (most recent call last):
    hfgen.errors.LoadError: There are no weights of the variant 'fp16', only of: bf16, ema.
    """
    there = sorted({found for name in names if name.endswith(".safetensors") and (found := variant_of(name))})
    if variant and variant not in there:
        known = f", only of: {', '.join(there)}" if there else ": it was saved without any"
        raise LoadError(f"There are no weights of the variant {variant!r}{known}.")


def check_pipeline(
    folder: ModelFolder, family: type, given: Container[str] = (), variant: str | None = None
) -> dict[str, type]:
    """Check the files of a pipeline's components, and of pipelines inside, before any of them is loaded.

    Args:
        family: the class that it is loaded as.
        given: names of components that are not loaded.

    Returns:
        component -> the class that it is loaded as, without the given ones.

    Raises:
        LoadError: as `check_component`; or an index does not hold what the one above it says.
    """
    if folder.level == 1:
        patterns = ["/".join("*" * depth) for depth in range(1, MOST_LEVELS + 2)]
        check_variant(variant, [p.name for it in patterns for p in folder.path.glob(f"{it}.safetensors")])
    classes = {name: found for name, found in classes_in(folder.index, family).items() if name not in given}
    for name, class_ in classes.items():
        if is_pipeline(class_):
            refuse_links_out(folder, folder.path / name)
            inner = folder.inside(name)
            with inner.clear_errors():
                if class_name_of(inner.index) != class_.__name__:
                    raise LoadError(f"It is a {class_name_of(inner.index)}; the index above says {class_.__name__}.")
                check_pipeline(inner, class_, variant=variant)
        else:
            check_component(folder, name, class_, variant)
    return classes


def check_component(folder: ModelFolder, name: str, class_: type, variant: str | None = None) -> None:
    """Raise a LoadError if a component's files are missing, damaged, outside the folder, or do not fit each other."""
    config = config_name(class_)
    place = folder.place(name)
    where = (place / config).relative_to(folder).as_posix()
    refuse_links_out(folder, place)
    if not (place / config).exists():
        raise LoadError(f"The component {name!r} is incomplete: {where} is missing.")
    if config in (TOKENIZER_CONFIG, FEATURE_EXTRACTOR_CONFIG):
        check_files(folder, name)
        check_tokenizer(place) if config == TOKENIZER_CONFIG else check_feature_extractor(place / config)
        return
    refuse_links_out(folder, *place.glob("*.json"), *place.glob("*.safetensors"))
    settings = read_config(place / config, class_)
    if issubclass(class_, torch.nn.Module):
        saved = folder.shapes(name, class_, variant)
        check_names(place, variant)
        check_fit(name, class_, settings, saved, where)


def config_name(class_: type) -> str:
    """Return the name of the file that holds the config of a component of this class."""
    from diffusers import SchedulerMixin
    from transformers import FeatureExtractionMixin, PreTrainedTokenizerBase

    if issubclass(class_, PreTrainedTokenizerBase):
        return TOKENIZER_CONFIG
    if issubclass(class_, FeatureExtractionMixin):
        return FEATURE_EXTRACTOR_CONFIG
    return SCHEDULER_CONFIG if issubclass(class_, SchedulerMixin) else CONFIG


def check_files(folder: ModelFolder, name: str) -> None:
    """Raise a LoadError if files of a component without a network (a tokenizer) are outside the folder or too long."""
    place = folder.place(name)
    refuse_links_out(folder, place, *place.iterdir())
    if (place / TOKENIZER).is_file():
        check_tokenizer_file(place / TOKENIZER)
    for path in [path for path in place.glob("*.json") if path.name != TOKENIZER]:
        try:
            read_json(path, MOST_TABLE)
        except (ValueError, OSError) as error:
            raise LoadError(f"{place.name}/{path.name} is damaged: {first_line(error)}\n{AGAIN}") from error


def read_config(path: Path, class_: type | None = None) -> dict[str, Any]:
    """Read a component's config, and check the sizes that its class takes; without a class, all numbers.

    Raises:
        LoadError: it is damaged, or asks for sizes that no model has.
    """
    where = f"{path.parent.name}/{path.name}"
    try:
        config = read_json(path)
    except (ValueError, OSError) as error:
        raise LoadError(f"{where} is damaged: {first_line(error)}\n{AGAIN}") from error
    if not isinstance(config, dict):
        raise LoadError(f"{where} is damaged: it does not hold a dictionary.")
    check_config(config, where, class_)
    return config


def loading_arguments(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `from_pretrained` as they are passed on to diffusers.

    Raises:
        UsageError: one of them would run code or read pickles, or diffusers would ignore it.
    """
    for refused in RUNS_CODE:
        if kwargs.get(refused):
            raise UsageError(f"hfgen does not run code from a repository: leave out {refused}.")
    if kwargs.get("use_safetensors") is False:
        raise UsageError("hfgen loads safetensors only; `hfgen convert --allow_pickle` reads pickled tensors.")
    check_dtype(kwargs.get("dtype"))
    return {name: value for name, value in kwargs.items() if name not in RUNS_CODE} | {"use_safetensors": True}


def check_dtype(dtype: Any) -> None:
    """Raise a UsageError for an invalid dtype: diffusers would load in float32 and only log it."""
    for value in dtype.values() if isinstance(dtype, Mapping) else [dtype]:
        if value is not None and not isinstance(value, torch.dtype):
            raise UsageError(f"dtype is {value!r}; it must be a torch.dtype, such as torch.bfloat16.")


def check_weights_are_complete(
    folder: ModelFolder, models: Mapping[str, torch.nn.Module], variant: str | None = None
) -> None:
    """Raise a LoadError if a parameter or buffer was not loaded, because no tensor was saved for it."""
    for name, model in models.items():
        missing = missing_tensors(model, renamed(model, folder.shapes(name, type(model), variant)))
        if missing:
            raise LoadError(incomplete(name, missing, len(model.state_dict())))


def check_given(family: Any, kwargs: Mapping[str, Any], inner: type) -> None:
    """Refuse unknown keywords of `from_pretrained`, which diffusers would ignore, and components of the wrong kind.

    Args:
        inner: the class of components that are pipelines.
    """
    known = [*LOADING, *signature_of(family), *component_choices(family)]
    for name in kwargs:
        if name not in known:
            raise UsageError(f"{family.__name__}.from_pretrained takes no {name!r}.{did_you_mean(name, known)}")
    for name, class_ in family.component_classes().items():
        if name in kwargs and kwargs[name] is None and name not in family._optional_components:
            raise UsageError(f"{name!r} is None; a {family.__name__} needs it.")
        kinds = (SchedulerMixin, inner, *PROCESSORS)
        kind = next((base for base in kinds if issubclass(class_, base)), nn.Module)
        given = kwargs.get(name)
        if given is not None and not isinstance(given, kind):
            raise UsageError(f"{name!r} is a {type(given).__name__}; it must be a {kind.__name__}.")
