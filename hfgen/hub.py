"""What a folder or repository must be to be loaded: its index, its components, their files."""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hfgen.errors import HFGenError, LoadError, UsageError, first_line
from hfgen.reading import MOST_TABLE, read_json
from hfgen.sizes import check_config, check_fit, incomplete, missing_tensors, renamed
from hfgen.weights import AGAIN, check_names, saved_shapes, weights_name

if TYPE_CHECKING:
    from hfgen.pipeline import HFGenPipeline

INDEX = "model_index.json"
# Keywords of diffusers' `from_pretrained` that mean something here.
LOADING = (
    *("revision", "token", "cache_dir", "force_download", "local_files_only", "proxies", "variant", "dtype"),
    *("torch_dtype", "device_map", "max_memory", "offload_folder", "offload_state_dict", "low_cpu_mem_usage"),
    *("use_safetensors", "quantization_config", "disable_mmap"),
)
MODULES = "modules"  # in the index, under `_hfgen`: component -> its class's module, where the index names a code file

# --- finding ----------------------------------------------------------------------------------------------------


def read_index(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """`model_index.json`, its shape checked, the class name flattened to a string."""
    path = Path(folder) / INDEX
    refuse_links_out(folder, path)
    try:
        index = read_json(path)
    except FileNotFoundError as error:
        single = single_component(folder)
        what = f"a single {single}, which no enabled family wraps" if single else "no saved pipeline"
        raise LoadError(f"{folder} holds no {INDEX}: it is {what}.") from error
    except (ValueError, OSError) as error:
        raise LoadError(f"{path} is damaged: {first_line(error)}\n{AGAIN}") from error
    check_index(index)
    return index


def single_component(folder: str | os.PathLike[str]) -> str | None:
    """The class name of the one model that a folder holds at its root; None where it holds a pipeline, or nothing."""
    try:
        if not (Path(folder) / INDEX).exists():
            class_name = read_json(Path(folder) / "config.json").get("_class_name")
            return class_name if isinstance(class_name, str) else None
    except (OSError, ValueError, AttributeError):
        pass
    return None


# --- checking ---------------------------------------------------------------------------------------------------


def check_index(index: Any) -> None:
    """Refuse an index of any other shape than a pipeline's; where it names code files, put the classes' modules."""
    class_name = index.get("_class_name") if isinstance(index, dict) else None
    if isinstance(class_name, list) and _is_pair_of_strings(class_name):
        class_name = index["_class_name"] = class_name[1]
    if not isinstance(class_name, str):
        raise LoadError(f"{INDEX} names no pipeline class.")
    if not isinstance(index.get("_hfgen", {}), dict):
        raise LoadError(f"{INDEX}: the entry '_hfgen' is not a dictionary.")
    index.update(unbundled(index))
    for name, value in index.items():
        if _is_pair_of_strings(value) and not name.isidentifier():
            raise LoadError(f"{INDEX} names a component {name!r}; a name is a word, which its folder bears, too.")
        is_list = isinstance(value, list) and not name.startswith("_")
        if is_list and any(isinstance(v, str) for v in value) and not _is_pair_of_strings(value):
            raise LoadError(f"{INDEX}: the entry {name!r} is no component: {value!r}.")


def unbundled(index: Mapping[str, Any]) -> dict[str, Any]:
    """The index with each component's own module in place of the file beside it; what is malformed stays."""
    modules = index.get("_hfgen", {}).get(MODULES)
    modules = modules if isinstance(modules, dict) else {}
    named = {name: module for name, module in modules.items() if isinstance(module, str)}
    return {**index, **{n: [m, index[n][1]] for n, m in named.items() if _is_pair_of_strings(index.get(n))}}


def check_entries(index: Mapping[str, Any], components: Iterable[str]) -> None:
    """Refuse an index whose entry of a component is neither a pair of strings nor the pair of an absent one."""
    for name in components:
        value = index.get(name, [None, None])
        if not _is_pair_of_strings(value) and value != [None, None]:
            raise LoadError(f"{INDEX}: the entry {name!r} is no component: {value!r}.")


def component_entries(index: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(name, library, class name) of each component of an index, absent optional ones left out."""
    entries = [(n, v) for n, v in index.items() if not n.startswith("_") and _is_pair_of_strings(v)]
    return [(name, library, class_name) for name, (library, class_name) in entries]


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
    from hfgen import components

    place = Path(folder)
    check_variant(
        kwargs.get("variant"), [p.name for p in [*place.glob("*.safetensors"), *place.glob("*/*.safetensors")]]
    )
    for name, value in index.items():
        if not name.startswith("_") and _is_pair_of_strings(value) and name not in kwargs:
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


def refuse_links_out(folder: str | os.PathLike[str], *paths: Path) -> None:
    """Raise a LoadError where a file lies outside of the folder; those of a Hub's cache lie in its blobs."""
    root = Path(folder).resolve()
    caches = [p.parent for p in root.parents if p.name == "snapshots" and p.parent.name.startswith("models--")]
    roots = [root, *((cache / "blobs").resolve() for cache in caches)]
    for path in paths:
        try:
            real = path.resolve()
        except (RuntimeError, OSError):  # links in a circle
            real = Path("/")
        if not any(real.is_relative_to(allowed) for allowed in roots):
            raise LoadError(
                f"{path.relative_to(folder)} is a link out of the folder, which hfgen does not follow.\n"
                "If you trust it, put what it leads to in its place."
            )


def component_folder(folder: str, name: str) -> Path:
    """Where a component lies: in its own folder, or, as in diffusers' first repositories, beside the index."""
    return Path(folder) / name if (Path(folder) / name).is_dir() else Path(folder)


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


def check_weights_are_complete(folder: str, pipeline: "HFGenPipeline", kwargs: Mapping[str, Any]) -> None:
    """No parameter or buffer was left at its initial value (or on the meta device) for want of a saved tensor."""
    for name, model in pipeline.models().items():
        if name in kwargs:
            continue
        place = component_folder(folder, name)
        saved = renamed(model, saved_shapes(place, kwargs.get("variant"), weights_name(type(model))))
        missing = missing_tensors(model, saved)
        if missing:
            raise LoadError(incomplete(name, missing, len(model.state_dict())))


def _is_pair_of_strings(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) for v in value)


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
