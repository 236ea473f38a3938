"""The one door: what users and plugins import from `hfgen`, lazily."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import hfgen

SOURCE = Path(hfgen.__file__).read_text(encoding="utf-8")
ROOT = Path(__file__).parents[1]
PUBLISHED = (  # what `from hfgen import` gave before plugins entered here
    "HFGenPipeline PriorScheduler Objective Update Diagnosis LogLikelihood frozen Trainer TrainingArguments "
    "load_images list_families get_family register_family HFGenError"
).split()


def typed():
    """Name -> module, of the imports that type checkers and editors see."""
    block = next(node for node in ast.parse(SOURCE).body if isinstance(node, ast.If))
    return {alias.asname: node.module for node in block.body for alias in node.names}


def imported(path):
    """Names that a file imports from `hfgen` itself."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "hfgen":
            yield from (alias.name for alias in node.names)


def test_type_checkers_see_what_is_imported():
    assert typed() == hfgen._HOME


@pytest.mark.parametrize("name", sorted(hfgen._HOME))
def test_every_name_is_defined_where_the_door_says(name):
    """In that very module: a name that it imports itself would hide where to read."""
    value = getattr(hfgen, name)
    module = importlib.import_module(hfgen._HOME[name])
    assert value is getattr(module, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__module__ == module.__name__


def test_published_names_stay():
    assert set(PUBLISHED) <= set(hfgen.__all__)
    assert set(hfgen.__all__) <= set(dir(hfgen))
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = hfgen.no_such_name


def test_every_name_has_a_user():
    """Of the built-in plugins, the example and the toys, or it is what a user calls."""
    folders = ("plugins", "examples", "tests/helpers/toy")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    used = {name for path in files for name in imported(path)}
    assert set(hfgen.__all__) - used - set(PUBLISHED) - {"PluginError", "directional_derivative"} == set()


def test_the_door_costs_no_torch():
    heavy = "{'torch', 'diffusers', 'transformers', 'datasets', 'accelerate', 'numpy'}"
    code = f"import sys, hfgen; from hfgen import HFGenError; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
