"""Recipes: YAML files from which a run can be repeated, in the folder `recipes/` of a plugin's package.

They are found through the entry points of the families, without importing any plugin.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hfgen.data.sources import BUILT_IN, PLACES, check_name
from hfgen.errors import UsageError, did_you_mean
from hfgen.files import read_config_file
from hfgen.processes.child import launched_precision
from hfgen.registry import get_family, list_families, list_modalities, modality_of
from hfgen.settings.arguments import canonical
from hfgen.settings.resolve import RunConfig, resolve
from hfgen.settings.unimported import check_words

SCRIPT_OPTIONS = "script_options"  # block of a recipe that stands in for a script, with the script's own options


def list_recipes() -> dict[str, Path]:
    """Map the names of all enabled plugins' recipes to their files."""
    packages = sorted({family.module.partition(".")[0] for family in list_families()})
    files = [file for package in packages for file in sorted(_folder(package).glob("*.yaml"))]
    return {file.stem: file for file in reversed(files)}


def find_recipe(target: str) -> Path:
    """Find the file of a recipe by its name or its path.

    Raises:
        UsageError: there is no such recipe.
    """
    recipes = list_recipes()
    if target in recipes:
        return recipes[target]
    if Path(target).suffix in (".yaml", ".yml"):
        return Path(target)
    known = [*recipes, *(family.name for family in list_families())]
    raise UsageError(f"There is no model or recipe {target!r}.{did_you_mean(target, known)}")


def read_recipe(path: Path) -> dict[str, Any]:
    """Read the settings of a recipe.

    Raises:
        UsageError: the file is missing, or does not hold a YAML dictionary.
    """
    return {key: value for key, value in read_config_file(path).items() if key != SCRIPT_OPTIONS}


def _folder(package: str) -> Path:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    locations = list(spec.submodule_search_locations or []) if spec is not None else []
    return Path(locations[0]) / "recipes" if locations else Path("/nonexistent")


def resolve_run(
    target: str | None,
    config: Path | None,
    given: Mapping[str, Any],
    dotted: Mapping[str, dict[str, Any]],
    script: Mapping[str, Any] | None = None,
    with_data: bool = False,
) -> tuple[RunConfig, Any]:
    """Resolve recipe, config file and command line to a run, and find its pipeline class.

    Args:
        target: a family, a recipe's name or its file.
        config: the file of `--config`.
        given, dotted: options of the command line, of the run and of components.
        script: settings from the options of a script that the recipe stands in for.
        with_data: look for the dataset too, as far as that is quick.

    Raises:
        UsageError: no model is named, or two are; or a word of the settings is wrong. It comes before the model's
            module is imported, as far as source files tell.
    """
    precision = launched_precision()
    layers: list[tuple[str, Mapping[str, Any]]] = [
        ("accelerate launch", {"mixed_precision": precision} if precision else {})
    ]
    if target is not None and is_family(target):
        layers.append(("the command line", {"model": target}))
    elif target is not None:
        recipe = find_recipe(target)
        layers.append((str(recipe), read_recipe(recipe)))
    if config is not None:
        layers.append((str(config), read_config_file(config)))
    layers.append(("command line", script or {}))
    layers.append(("command line", {k: v for k, v in {**given, **dotted}.items() if v is not None}))
    name = _one_model(layers)
    family = get_family(name)
    if family.by_hand is None:
        check_words(layers, family.module, family.class_name, own_data_options())
    if with_data:
        _check_data(layers)
    pipeline_class = family.load()
    return resolve(layers, name, pipeline_class, modality_of(pipeline_class)), pipeline_class


def own_data_options() -> set[str]:
    """Return the names of the options of data that only one modality has, of all modalities."""
    declared = [m.data_options for m in list_modalities() if m.data_options is not None]
    return {name for options in declared for name in options.__dataclass_fields__}


def _one_model(layers: list[tuple[str, Mapping[str, Any]]]) -> str:
    named = [(source, layer["model"]) for source, layer in layers if layer.get("model")]
    if not named:
        raise UsageError("Which model? `hfgen train MODEL ...`; `hfgen list models` shows them.")
    for source, model in named[1:]:
        if model != named[0][1]:
            raise UsageError(
                f"{source} is for the model {model!r}, but {named[0][0]} says {named[0][1]!r}.\n"
                "Name only one of the two; a file of settings for any model has no line `model:`."
            )
    return named[0][1]


def _check_data(layers: list[tuple[str, Mapping[str, Any]]]) -> None:
    settings = {canonical(key): value for _, layer in layers for key, value in layer.items()}
    for place in PLACES:
        name = settings.get(place)
        if name and (name in BUILT_IN or not any(name in modality.built_in for modality in list_modalities())):
            check_name(str(name), settings.get("dataset_split"))


def is_family(target: str) -> bool:
    return any(family.name == target for family in list_families())
