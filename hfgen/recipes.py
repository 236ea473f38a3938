"""Recipes: YAML files from which a run can be repeated, in a folder `recipes/` of each plugin's package.

They are found through the entry points of the families, without importing any plugin.
"""

import importlib.util
from pathlib import Path
from typing import Any

from hfgen.arguments import read_config_file
from hfgen.errors import UsageError, did_you_mean
from hfgen.registry import list_families

SCRIPT_OPTIONS = "script_options"  # of a recipe that stands in for a script: what became of the script's own options


def list_recipes() -> dict[str, Path]:
    """Name -> file, of all enabled plugins."""
    packages = sorted({family.module.partition(".")[0] for family in list_families()})
    files = [file for package in packages for file in sorted(_folder(package).glob("*.yaml"))]
    return {file.stem: file for file in reversed(files)}


def find_recipe(target: str) -> Path:
    """The file of a recipe, by its name or its path.

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
    """The settings of a recipe.

    Raises:
        UsageError: the file is missing, or is no YAML dictionary.
    """
    return {key: value for key, value in read_config_file(path).items() if key != SCRIPT_OPTIONS}


def _folder(package: str) -> Path:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    locations = list(spec.submodule_search_locations or []) if spec is not None else []
    return Path(locations[0]) / "recipes" if locations else Path("/nonexistent")
