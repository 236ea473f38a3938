"""The index of a saved pipeline, `model_index.json`, and what it may say."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hfgen.errors import LoadError, first_line
from hfgen.files import read_json, refuse_links_out
from hfgen.repository.weights import AGAIN

MODEL_INDEX, CONFIG, SCHEDULER_CONFIG = "model_index.json", "config.json", "scheduler_config.json"
MODULES = "modules"  # in the index, under `_hfgen`: component -> its class's module, where the index names a code file


# --- reading ----------------------------------------------------------------------------------------------------
def read_index(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Read `model_index.json`, check it, and flatten the class name to a string."""
    path = Path(folder) / MODEL_INDEX
    refuse_links_out(folder, path)
    try:
        index = read_json(path)
    except FileNotFoundError as error:
        single = single_component(folder)
        what = f"it is a single {single}, which no enabled family wraps" if single else "there is no saved pipeline"
        raise LoadError(f"{folder} has no {MODEL_INDEX}: {what}.") from error
    except (ValueError, OSError) as error:
        raise LoadError(f"{path} is damaged: {first_line(error)}\n{AGAIN}") from error
    check_index(index)
    return index


def single_component(folder: str | os.PathLike[str]) -> str | None:
    """Class name of the single model at a folder's root; None for a pipeline, or where no class is named."""
    try:
        if not (Path(folder) / MODEL_INDEX).exists():
            class_name = read_json(Path(folder) / CONFIG).get("_class_name")
            return class_name if isinstance(class_name, str) else None
    except (OSError, ValueError, AttributeError):
        pass
    return None


# --- checking ---------------------------------------------------------------------------------------------------
def check_index(index: Any) -> None:
    """Refuse a malformed index; replace the names of code files beside the weights by the classes' modules."""
    class_name = index.get("_class_name") if isinstance(index, dict) else None
    if isinstance(class_name, list) and is_pair_of_strings(class_name):
        class_name = index["_class_name"] = class_name[1]
    if not isinstance(class_name, str):
        raise LoadError(f"{MODEL_INDEX} names no pipeline class.")
    if not isinstance(index.get("_hfgen", {}), dict):
        raise LoadError(f"{MODEL_INDEX}: the entry '_hfgen' is not a dictionary.")
    index.update(unbundled(index))
    for name, value in index.items():
        if is_pair_of_strings(value) and not name.isidentifier():
            raise LoadError(
                f"{MODEL_INDEX} names a component {name!r}; a name must be an identifier, as its folder has it too."
            )
        is_list = isinstance(value, list) and not name.startswith("_")
        if is_list and any(isinstance(v, str) for v in value) and not is_pair_of_strings(value):
            raise LoadError(_malformed(name, value))


def unbundled(index: Mapping[str, Any]) -> dict[str, Any]:
    """The index with each component's own module instead of the code file; malformed entries are left as they are."""
    modules = index.get("_hfgen", {}).get(MODULES)
    modules = modules if isinstance(modules, dict) else {}
    named = {name: module for name, module in modules.items() if isinstance(module, str)}
    return {**index, **{n: [m, index[n][1]] for n, m in named.items() if is_pair_of_strings(index.get(n))}}


def check_entries(index: Mapping[str, Any], components: Iterable[str]) -> None:
    """Refuse an index whose entry of one of these components is neither a pair of strings nor `[null, null]`."""
    for name in components:
        value = index.get(name, [None, None])
        if not is_pair_of_strings(value) and value != [None, None]:
            raise LoadError(_malformed(name, value))


def _malformed(name: str, value: Any) -> str:
    return f"{MODEL_INDEX}: the entry {name!r} is not a component, [library, class name]: {value!r}."


def class_name_of(index: Mapping[str, Any]) -> str:
    """Name of the pipeline class: hfgen's own entry if the index has one, else diffusers' entry."""
    return index.get("_hfgen", {}).get("pipeline") or index["_class_name"]


def component_entries(index: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(name, library, class name) of each component of an index; absent optional ones are left out."""
    entries = [(n, v) for n, v in index.items() if not n.startswith("_") and is_pair_of_strings(v)]
    return [(name, library, class_name) for name, (library, class_name) in entries]


def is_pair_of_strings(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) for v in value)


def is_bundled(folder: Path) -> bool:
    """Return True if the index of a folder names code files beside it."""
    try:
        index = json.loads((folder / MODEL_INDEX).read_text(encoding="utf-8"))
        return isinstance(index["_class_name"], list)
    except (OSError, ValueError, KeyError, TypeError):
        return False
