"""The one door: what users and plugins import from `hfgen`, lazily."""

import ast
import importlib
import inspect
import os
import re
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


USE = """from hfgen import Diagnosis, HFGenPipeline, LogLikelihood, Update

reveal_type(HFGenPipeline)
reveal_type(Diagnosis().values)
Update("x", 3, "nonsense", 4, 5, 6)
LogLikelihood(3)


class Mine(HFGenPipeline):
    number: int = HFGenPipeline.num_classes


from hfgen import Updaet
"""
QUICK = "[mypy]\n" + "".join(  # without the stack's own sources, which would take a minute
    f"[mypy-{name}.*]\nfollow_imports = skip\n"
    for name in ("torch", "diffusers", "transformers", "accelerate", "datasets", "numpy", "PIL", "huggingface_hub")
)


@pytest.mark.slow  # of each change, `make types` sees it by tests/helpers/typed_door.py
def test_type_checkers_see_the_types_of_what_is_imported(tmp_path):
    """From outside the repository, where the package is installed, as its users' type checkers do."""
    (tmp_path / "use.py").write_text(USE)
    (tmp_path / "mypy.ini").write_text(QUICK + "[mypy-hfgen.*]\nfollow_imports = silent\n")
    words = [sys.executable, "-m", "mypy", "--strict", "--allow-subclassing-any", "--no-error-summary", "use.py"]
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    said = done.stdout
    assert 'use.py:3: note: Revealed type is "def ' in said, said + done.stderr
    assert "-> hfgen.pipeline.HFGenPipeline" in said
    assert re.search(r'use.py:4: note: Revealed type is "typing.Mapping\[.*str, ', said)
    assert 'use.py:5: error: Too many arguments for "Update"' in said
    assert 'use.py:5: error: Argument 3 to "Update" has incompatible type "str"' in said
    assert 'use.py:6: error: Missing positional argument "kind"' in said or "use.py:6: error: Missing" in said
    assert "use.py:10: error: Incompatible types in assignment" in said
    assert 'use.py:13: error: Module "hfgen" has no attribute "Updaet"' in said


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
