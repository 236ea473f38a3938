"""Imports go down: `hfgen/` is a house of floors, a plugin enters by the one door."""

import ast
import functools
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLOORS = [  # lowest first; a name is a module or a folder of `hfgen/`
    {"cores", "errors", "noise", "signals", "terminal"},
    {"whole_batch", "wrappers"},
    {"components", "files", "inputs", "likelihood", "modality", "objective", "scheduler", "tokens"},
    {"modalities", "settings"},
    {"registry", "run_folder"},
    {"data", "processes", "repository", "results"},
    {"cards", "declaration", "editing"},
    {"hub"},
    {"building"},
    {"pipeline"},
    {"conversion", "evaluation"},
    {"training"},
    {"commands"},
    {"__main__", "train"},
    {"testing"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
PLUGINS = sorted(path.name for path in (ROOT / "plugins").iterdir() if (path / "__init__.py").is_file())


def modules(folder: Path) -> Iterator[tuple[str, Path]]:
    """(dotted name, file) of each module of a package."""
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


@functools.cache
def homes() -> dict[str, str]:
    """Name at the door -> the module that defines it."""
    import hfgen

    return hfgen._HOME


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of hfgen's, inside functions and for type checkers too.

    A name at the door counts as the module that defines it.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import"
            for alias in node.names:
                yield node.lineno, _module(str(node.module), alias.name)


def _module(module: str, name: str) -> str:
    if module == "hfgen" and name in homes():
        return homes()[name]
    place = ROOT.joinpath(*module.split("."), name)
    return f"{module}.{name}" if place.is_dir() or place.with_suffix(".py").is_file() else module


def room(module: str) -> str:
    """`hfgen.data.images` -> `data`; the door itself has none."""
    return [*module.split("."), ""][1]


def test_every_room_is_on_a_floor() -> None:
    rooms = {room(module) for module, _ in modules(ROOT / "hfgen")} - {""}
    assert rooms == set(FLOOR)


def upward() -> list[str]:
    """Imports between rooms that do not go to a lower floor."""
    return [
        f"{path.relative_to(ROOT)}:{line}: {room(module)} imports {target}"
        for module, path in modules(ROOT / "hfgen")
        if module != "hfgen"
        for line, target in imported(path)
        if target.startswith("hfgen.") and room(target) != room(module) and FLOOR[room(target)] >= FLOOR[room(module)]
    ]


def circle() -> list[str]:
    """The modules of a circle of imports, at whatever time they are made; empty where there is none."""
    graph = {
        module: {target for _, target in imported(path) if target != module}
        for module, path in modules(ROOT / "hfgen")
        if module != "hfgen"
    }
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return list(error.args[1])
    return []


def test_imports_go_down() -> None:
    assert upward() == []


def test_no_circle_of_modules() -> None:
    """Between files of one folder too."""
    assert circle() == []


def past_the_door(files: Iterator[tuple[str, Path]], own: str) -> Iterator[str]:
    """Imports of hfgen that are neither names at its door, nor of `hfgen.testing`, nor of the own package."""
    for _, path in files:
        for line, module, name in _imports(path):
            top = module.partition(".")[0]
            at_the_door = module == "hfgen" and name in homes()
            if top.startswith("hfgen") and top != own and not at_the_door and module != "hfgen.testing":
                yield f"{path.relative_to(ROOT)}:{line}: {module} {name or ''}".strip()


def _imports(path: Path) -> Iterator[tuple[int, str, str | None]]:
    """(line, module, name) of each imported name; None as the name in `import module`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, str(node.module), alias.name) for alias in node.names)


# The modality for which the rooms `data` and `evaluation` were written reads from them what no other plugin needs.
@pytest.mark.parametrize("package", [package for package in PLUGINS if package != "hfgen_image"])
def test_plugins_enter_by_the_door(package: str) -> None:
    assert list(past_the_door(modules(ROOT / "plugins" / package), package)) == []


@pytest.mark.parametrize("name", ["cfm", "gmmn", "points"])
def test_the_examples_enter_by_the_door(name: str) -> None:
    files = list(modules(ROOT / "examples" / f"hfgen-{name}"))
    assert len(files) == (5 if name == "points" else 2)
    assert list(past_the_door(iter(files), f"hfgen_{name}")) == []


def test_another_way_in_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    lines = [
        "from hfgen import UsageError",
        "from hfgen import hub",
        "import hfgen.errors",
        "from hfgen.hub import client",
    ]
    (tmp_path / "plugin.py").write_text("\n".join(lines))
    found = list(past_the_door(iter([("plugin", tmp_path / "plugin.py")]), "plugin"))
    assert [line.partition(": ")[2] for line in found] == ["hfgen hub", "hfgen.errors", "hfgen.hub client"]
