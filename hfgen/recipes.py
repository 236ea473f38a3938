"""Recipes: YAML files from which a run can be repeated, in a folder `recipes/` of each plugin's package.

They are found through the entry points of the families, without importing any plugin.
"""

import importlib.util
from pathlib import Path

from hfgen.registry import list_families


def list_recipes() -> dict[str, Path]:
    """Name -> file, of all enabled plugins."""
    packages = sorted({family.module.partition(".")[0] for family in list_families()})
    files = [file for package in packages for file in sorted(_folder(package).glob("*.yaml"))]
    return {file.stem: file for file in reversed(files)}


def _folder(package: str) -> Path:
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    locations = list(spec.submodule_search_locations or []) if spec is not None else []
    return Path(locations[0]) / "recipes" if locations else Path("/nonexistent")
