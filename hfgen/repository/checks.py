"""What a folder or repository must be to be loaded: its index, its components, their files."""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from hfgen.errors import HFGenError, LoadError, UsageError, first_line
from hfgen.files import MOST_TABLE, read_json, refuse_links_out
from hfgen.repository.fit import check_config, check_fit, incomplete, missing_tensors, renamed
from hfgen.repository.index import component_folder, is_pair_of_strings
from hfgen.repository.weights import AGAIN, check_names, saved_shapes, weights_name

# Keywords of diffusers' `from_pretrained` that mean something here.
LOADING = (
    *("revision", "token", "cache_dir", "force_download", "local_files_only", "proxies", "variant", "dtype"),
    *("torch_dtype", "device_map", "max_memory", "offload_folder", "offload_state_dict", "low_cpu_mem_usage"),
    *("use_safetensors", "quantization_config", "disable_mmap"),
)


def check_variant(variant: str | None, names: Iterable[str]) -> None:
    """Raise a LoadError where no weights of a variant are among the names of files.

    >>> check_variant("ema", ["unet/model.ema.safetensors", "unet/model.bf16-00001-of-00002.safetensors"])
    >>> check_variant("fp16", ["unet/model.ema.safetensors", "unet/model.bf16-00001-of-00002.safetensors"])
    Traceback (most recent call last):
    hfgen.errors.LoadError: There are no weights of the variant 'fp16', only of: bf16, ema.
    """
    found = (re.search(r"\.([\w-]+?)(?:-\d+-of-\d+)?\.safetensors$", name) for name in names)
    there = sorted({match[1] for match in found if match})
    if variant and variant not in there:
        known = f", only of: {', '.join(there)}" if there else ": it was saved without any"
        raise LoadError(f"There are no weights of the variant {variant!r}{known}.")


def check_component_files(folder: str, index: Mapping[str, Any], kwargs: Mapping[str, Any]) -> None:
    """Each component that the index names is readable and of sizes that its weights have too, before any is loaded."""
    from hfgen.repository import components

    place = Path(folder)
    check_variant(
        kwargs.get("variant"), [p.name for p in [*place.glob("*.safetensors"), *place.glob("*/*.safetensors")]]
    )
    for name, value in index.items():
        if not name.startswith("_") and is_pair_of_strings(value) and name not in kwargs:
            check_component(folder, name, getattr(components, value[1]), kwargs.get("variant"))


def check_component(
    folder: str, name: str, class_: type, variant: str | None = None, place: Path | None = None
) -> None:
    """Raise a LoadError where a component cannot be loaded as this class, or should not be.

    Args:
        place: its own folder, where that is not told by its name.
    """
    from diffusers import SchedulerMixin

    config = "scheduler_config.json" if issubclass(class_, SchedulerMixin) else "config.json"
    place = place or component_folder(folder, name)
    where = (place / config).relative_to(folder).as_posix()
    refuse_links_out(folder, place)
    if not (place / config).exists():
        raise LoadError(f"The component {name!r} is incomplete: {where} is missing.")
    refuse_links_out(folder, *place.glob("*.json"), *place.glob("*.safetensors"))
    settings = read_config(place / config)
    if issubclass(class_, torch.nn.Module):
        saved = saved_shapes(place, variant, weights_name(class_))
        check_names(place, variant)
        check_fit(name, class_, settings, saved, where)


def check_files(folder: str, name: str) -> None:
    """Raise a LoadError where files of a component that is no network (a tokenizer) lie elsewhere, or are too long."""
    place = component_folder(folder, name)
    refuse_links_out(folder, place, *place.iterdir())
    for path in place.glob("*.json"):
        try:
            read_json(path, MOST_TABLE)
        except (ValueError, OSError) as error:
            raise LoadError(f"{place.name}/{path.name} is damaged: {first_line(error)}\n{AGAIN}") from error


def read_config(path: Path) -> dict[str, Any]:
    """A component's config, its sizes looked at."""
    where = f"{path.parent.name}/{path.name}"
    try:
        config = read_json(path)
    except (ValueError, OSError) as error:
        raise LoadError(f"{where} is damaged: {first_line(error)}\n{AGAIN}") from error
    if not isinstance(config, dict):
        raise LoadError(f"{where} is damaged: it holds no dictionary.")
    check_config(config, where)
    return config


def check_dtype(dtype: Any) -> None:
    """diffusers would load in float32 and say so in the log only."""
    for value in dtype.values() if isinstance(dtype, Mapping) else [dtype]:
        if value is not None and not isinstance(value, torch.dtype):
            raise UsageError(f"dtype is {value!r}; it must be a torch.dtype, such as torch.bfloat16.")


def check_weights_are_complete(folder: str, models: Mapping[str, torch.nn.Module], kwargs: Mapping[str, Any]) -> None:
    """No parameter or buffer was left at its initial value (or on the meta device) for want of a saved tensor."""
    for name, model in models.items():
        if name in kwargs:
            continue
        place = component_folder(folder, name)
        saved = renamed(model, saved_shapes(place, kwargs.get("variant"), weights_name(type(model))))
        missing = missing_tensors(model, saved)
        if missing:
            raise LoadError(incomplete(name, missing, len(model.state_dict())))


@contextlib.contextmanager
def clear_errors(target: str) -> Iterator[None]:
    """Turn what the stack raises while loading into one error that names the target; keep the default dtype."""
    dtype = torch.get_default_dtype()
    try:
        yield
    except HFGenError as error:
        raise type(error)(f"{target}: {error}") from error.__cause__
    except Exception as error:
        raise LoadError(f"{target} cannot be loaded: {_summary(error)}") from error
    finally:
        torch.set_default_dtype(dtype)


def _summary(error: BaseException) -> str:
    """In one line: torch names the tensors of a wrong shape from the second line on."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."
