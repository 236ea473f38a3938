"""What is read from and written to a folder or a Hub: only JSON, text and safetensors; whole or not at all."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError, safe_open

from hfgen import __version__
from hfgen.bundling import unbundled
from hfgen.errors import HFGenError, LoadError, UsageError
from hfgen.transformers_models import config_class_of

if TYPE_CHECKING:
    from hfgen.pipeline import HFGenPipeline

INDEX = "model_index.json"
ROOT_WEIGHTS = ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model-*.safetensors"]
READABLE = [INDEX, "README.md", "*.json", "*/*.json", "*/*.txt", "*/*.safetensors", *ROOT_WEIGHTS]
DEEP, VARIANT = "*/*/*", "*/*.*.safetensors"  # checkpoints of a run; weights of another variant

# --- finding ----------------------------------------------------------------------------------------------------


def local_folder(target: str, patterns: Sequence[str] = READABLE, /, **kwargs: Any) -> str:
    """The folder of a pipeline: `target` itself, or where its repository's files of these patterns are."""
    if os.path.isdir(target):
        return target
    if os.path.exists(target) or target.startswith((".", "/", "~")) or target.count("/") > 1:
        raise LoadError(f"{target!r} is no folder; a pipeline is a folder with a {INDEX}, or a repository id.")
    return download(target, patterns, **kwargs)


def download(repo_id: str, patterns: Sequence[str] = READABLE, /, **kwargs: Any) -> str:
    """Fetch what a pipeline may hold from a Hub repository; index and weights are of one commit.

    Raises:
        LoadError: no such repository, revision or right to read it; no connection and nothing cached.
    """
    known = ("revision", "token", "cache_dir", "force_download", "local_files_only")
    options = {name: kwargs[name] for name in known if kwargs.get(name) is not None}
    unwanted = [DEEP] if kwargs.get("variant") else [DEEP, VARIANT]
    try:
        return snapshot_download(
            repo_id,
            allow_patterns=list(patterns),
            ignore_patterns=unwanted,
            library_name="hfgen",
            library_version=__version__,
            **options,
        )
    except RevisionNotFoundError as error:
        raise LoadError(f"The repository {repo_id!r} has no revision {options.get('revision')!r}.") from error
    except RepositoryNotFoundError as error:
        raise LoadError(
            f"There is no folder and no readable repository {repo_id!r}.\n"
            "A private repository needs `token=` or `hf auth login`."
        ) from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise LoadError(
            f"There is no folder {repo_id!r}, and it is not in the cache of the Hub, which cannot be reached."
        ) from error
    except httpx2.TransportError:  # dropped or reset: there the client does not fall back to its cache
        return download(repo_id, patterns, **{**kwargs, "local_files_only": True, "force_download": False})
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        refused = isinstance(error, HfHubHTTPError) and error.response.status_code == 401
        hint = "\nThe token is not valid; `hf auth login` stores another." if refused else ""
        raise LoadError(f"{repo_id!r} could not be fetched: {_first_line(error)}{hint}") from error


def read_index(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """`model_index.json`, its shape checked, the class name flattened to a string."""
    path = Path(folder) / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        single = single_component(folder)
        what = f"a single {single}, which no enabled family wraps" if single else "no saved pipeline"
        raise LoadError(f"{folder} holds no {INDEX}: it is {what}.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise LoadError(f"{path} is damaged: {_first_line(error)}") from error
    check_index(index)
    return index


def single_component(folder: str | os.PathLike[str]) -> str | None:
    """The class name of the one model that a folder holds at its root; None where it holds a pipeline, or nothing."""
    try:
        if not (Path(folder) / INDEX).exists():
            class_name = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")).get("_class_name")
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
        is_list = isinstance(value, list) and not name.startswith("_")
        if is_list and any(isinstance(v, str) for v in value) and not _is_pair_of_strings(value):
            raise LoadError(f"{INDEX}: the entry {name!r} is no component: {value!r}.")


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


def check_component_files(folder: str, index: Mapping[str, Any], kwargs: Mapping[str, Any]) -> None:
    """Each component that the index names has a readable config and readable weights, before any is loaded."""
    from diffusers import SchedulerMixin

    from hfgen import components

    for name, value in index.items():
        if name.startswith("_") or not _is_pair_of_strings(value) or name in kwargs:
            continue
        class_ = getattr(components, value[1])
        config = "scheduler_config.json" if issubclass(class_, SchedulerMixin) else "config.json"
        place = component_folder(folder, name)
        if not (place / config).is_file():
            raise LoadError(f"The component {name!r} is incomplete: {name}/{config} is missing.")
        _check_config(place / config)
        if issubclass(class_, torch.nn.Module):
            saved_keys(place, kwargs.get("variant"), weights_name(class_))
            _check_names(place, kwargs.get("variant"))


def component_folder(folder: str, name: str) -> Path:
    """Where a component lies: in its own folder, or, as in diffusers' first repositories, beside the index."""
    return Path(folder) / name if (Path(folder) / name).is_dir() else Path(folder)


def _check_config(path: Path) -> None:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LoadError(f"{path.parent.name}/{path.name} is damaged: {_first_line(error)}") from error
    if not isinstance(config, dict):
        raise LoadError(f"{path.parent.name}/{path.name} is damaged: it holds no dictionary.")


def check_dtype(dtype: Any) -> None:
    """diffusers would load in float32 and say so in the log only."""
    for value in dtype.values() if isinstance(dtype, Mapping) else [dtype]:
        if value is not None and not isinstance(value, torch.dtype):
            raise UsageError(f"dtype is {value!r}; it must be a torch.dtype, such as torch.bfloat16.")


def _check_names(folder: Path, variant: str | None) -> None:
    """diffusers looks for the variant in the second part of each name."""
    undotted = [path.name for path in folder.iterdir() if "." not in path.name]
    if variant and undotted:
        raise LoadError(f"A variant cannot be loaded beside {folder.name}/{undotted[0]}; move that file away.")


def check_weights_are_complete(folder: str, pipeline: "HFGenPipeline", kwargs: Mapping[str, Any]) -> None:
    """No parameter or buffer was left at its initial value (or on the meta device) for want of a saved tensor."""
    for name, model in pipeline.models().items():
        if name in kwargs:
            continue
        place, state = component_folder(folder, name), model.state_dict()
        saved = saved_keys(place, kwargs.get("variant"), weights_name(type(model)))
        tied = {state[key].data_ptr() for key in saved & set(state)}  # of tensors that are one, one is saved
        missing = {key for key in set(state) - saved if state[key].data_ptr() not in tied}
        if missing:
            raise LoadError(
                f"The weights of {name!r} are incomplete: {len(missing)} of {len(model.state_dict())} tensors are "
                f"missing, such as {min(missing)!r}.\nThe file {name}/*.safetensors was not saved by this class."
            )


def weights_name(class_: type) -> str:
    """What a model's class calls its files of weights, without their end."""
    return "diffusion_pytorch_model" if config_class_of(class_) is None else "model"  # transformers' name


def saved_keys(folder: Path, variant: str | None, stem: str) -> set[str]:
    """Names of all tensors in a component's safetensors files, of the variant where the folder has it."""
    files = _weight_files(folder, variant, stem) or _weight_files(folder, None, stem)
    if not files:
        raise LoadError(f"The component {folder.name!r} has no weights: {folder.name}/*.safetensors is missing.")
    keys: set[str] = set()
    for file in files:
        if not file.is_file():
            raise LoadError(f"The weights of {folder.name!r} are incomplete: {folder.name}/{file.name} is missing.")
        try:
            with safe_open(file, "pt") as tensors:
                keys |= set(tensors.keys())
        except (SafetensorError, OSError) as error:
            raise LoadError(
                f"{folder.name}/{file.name} is truncated or damaged: {_first_line(error)}\nFetch or save it again."
            ) from error
    return keys


def _weight_files(folder: Path, variant: str | None, stem: str) -> list[Path]:
    dot_variant = f".{variant}" if variant else ""
    shards = folder / f"{stem}.safetensors.index{dot_variant}.json"  # the one that the stack reads
    if shards.is_file():
        try:
            weight_map = json.loads(shards.read_text(encoding="utf-8"))["weight_map"]
            names = sorted(set(weight_map.values()))
            if not all(name.endswith(".safetensors") and Path(name).name == name for name in names):
                raise ValueError("it names other files than safetensors beside it")
            return [folder / name for name in names]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LoadError(f"{folder.name}/{shards.name} is damaged: {_first_line(error)}") from error
    whole = folder / f"{stem}{dot_variant}.safetensors"
    return [whole] if whole.is_file() else []


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


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _summary(error: BaseException) -> str:
    """In one line: torch names the tensors of a wrong shape from the second line on."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."


# --- writing ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def staged(folder: Path, variant: str | None = None) -> Iterator[Path]:
    """A folder to write into; on success its entries are moved into `folder`, on failure it vanishes.

    Args:
        variant: of the weights: they join those that are in the subfolders, instead of replacing the subfolders.
    """
    created = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for killed in folder.glob(".saving-*"):
        _restore(killed, folder)
        shutil.rmtree(killed, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder))
    try:
        yield staging
        for entry in sorted(staging.iterdir(), key=lambda path: path.name == INDEX):
            _move_into_place(entry, folder / entry.name, variant)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        for parent in created:
            with contextlib.suppress(OSError):
                parent.rmdir()  # only if empty
        raise
    shutil.rmtree(staging, ignore_errors=True)


def _restore(killed: Path, folder: Path) -> None:
    """A save that was killed between its two renames left the former component among what it was writing."""
    for old in killed.glob("*.old"):
        place = folder / old.name.removesuffix(".old")
        if not place.exists():
            os.replace(old, place)


def _move_into_place(entry: Path, place: Path, variant: str | None) -> None:
    if not place.is_dir():
        os.replace(entry, place)
    elif variant:
        names = {file.name for file in entry.iterdir()}
        for pattern in (f"*.index.{variant}.json", f"*.{variant}-*.safetensors", f"*.{variant}.safetensors"):
            for stale in {path.name for path in place.glob(pattern)} - names:
                (place / stale).unlink()
        for name in names:
            os.replace(entry / name, place / name)
    else:
        old = entry.with_name(f"{entry.name}.old")
        os.replace(place, old)
        try:
            os.replace(entry, place)
        except BaseException:
            os.replace(old, place)
            raise


def strip_local_paths(folder: Path) -> None:
    """Drop `_name_or_path`, perhaps a private path of this machine, from the components' configs."""
    for path in folder.glob("*/config.json"):
        config = json.loads(path.read_text(encoding="utf-8"))
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
