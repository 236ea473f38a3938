"""The house: what may import what, and what may be called what."""

import ast
import re
import statistics
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORE = sorted((ROOT / "hfgen").rglob("*.py"))
PLUGINS = sorted(path.name for path in (ROOT / "plugins").iterdir() if path.is_dir() and "egg-info" not in path.name)
FAMILIES = "dcgan|glow|realnvp|ddpm|ddim|vqvae|wgan"


def imported(path: Path) -> set[str]:
    """Top packages of all imports of a file, also of those inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.whole
def test_the_core_imports_no_plugin():
    assert not {path.name: found for path in CORE if (found := imported(path) & set(PLUGINS))}


@pytest.mark.whole
def test_the_core_names_no_family():
    family = re.compile(rf"\b({FAMILIES})\b", flags=re.IGNORECASE)
    assert not {path.name: found for path in CORE if (found := family.findall(code_of(path)))}


def code_of(path):
    """Return the file without its comments and docstrings."""
    code = "\n".join(line.partition("#")[0] for line in path.read_text(encoding="utf-8").splitlines())
    return re.sub(r'""".*?"""', "", code, flags=re.DOTALL)


def test_no_module_shadows_a_library():
    """`accelerate launch hfgen/train.py` puts hfgen/ first on sys.path."""
    installed = {top for d in distributions() for top in (d.read_text("top_level.txt") or d.name).split()}
    names = {path.stem for path in [*(ROOT / "hfgen").glob("*.py"), *(ROOT / "hfgen").glob("*/")]} - {"__init__"}
    assert not names & (installed | set(sys.stdlib_module_names))


@pytest.mark.parametrize("folder", ["hfgen", "plugins", "examples", "scripts", "benchmarks", "tests"])
def test_files_stay_short(folder):
    lines = {str(p): len(p.read_text(encoding="utf-8").splitlines()) for p in (ROOT / folder).rglob("*.py")}
    assert not {path: count for path, count in lines.items() if count > 420}


@pytest.mark.parametrize("folder", ["hfgen", "plugins", "examples", "scripts", "benchmarks", "tests"])
@pytest.mark.whole
def test_functions_stay_short(folder):
    """Median, ninth tenth and longest, in lines from `def` to the last statement."""
    lengths = [
        node.end_lineno - node.lineno + 1
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert statistics.median(lengths) <= 9
    assert statistics.quantiles(lengths, n=10)[-1] <= 25
    assert max(lengths) <= 60


def test_quick_commands_import_no_torch():
    """Nor numpy, which takes as long as all else that they import. One after the other in one process."""
    commands = ["--help", "list", "list recipes", "plugins", "train --help", "init --help", "convert --help"]
    code = (
        "import sys\nfrom hfgen.commands.main import main\nfor words in sys.argv[1:]:\n    try:\n"
        "        main(words.split())\n    except SystemExit as stop:\n        assert stop.code == 0\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'datasets', 'accelerate', 'numpy'}\n"
        "print('heavy', sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.check_output([sys.executable, "-c", code, *commands], text=True)
    assert out.splitlines()[-1] == "heavy []"
