"""docs/architecture.md names what exists: its floors, each folder's files, and the functions of the walks."""

import ast
import re
from functools import cache

import pytest
from pages import ROOT
from test_layers import FLOORS

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
STEP = re.compile(r"^\d+\. `([\w/]+\.py)`: ((?:`[\w.]+`(?:, )?)+)", flags=re.MULTILINE)
STEPS = [(file, name) for file, names in STEP.findall(PAGE) for name in re.findall(r"`([\w.]+)`", names)]
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, flags=re.DOTALL | re.MULTILINE))
FOLDERS = sorted(path.name for path in (ROOT / "hfgen").iterdir() if (path / "__init__.py").is_file())


@cache
def names_in(file):
    """Functions and classes of a file, methods as `Class.method`."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    found = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        for member in node.body if isinstance(node, ast.ClassDef) else ():
            found |= {f"{node.name}.{member.name}"} if isinstance(member, ast.FunctionDef) else set()
    return found


@pytest.mark.parametrize(("file", "name"), sorted(set(STEPS)), ids=lambda value: value)
def test_each_step_of_a_walk_exists(file, name):
    assert (ROOT / file).is_file()
    assert name in names_in(file)


def test_the_walks_were_found():
    """Each numbered line is a step, and there are four walks and the three hops."""
    numbered = re.findall(r"^\d+\. ", SECTIONS["The way of the data"], flags=re.MULTILINE)
    assert len(STEP.findall(PAGE)) == len(numbered) > 50
    hops = re.search(r"### From command to equation in three hops\n(.*?)\n###", PAGE, flags=re.DOTALL)[1]
    assert len(STEP.findall(hops)) == 4


def test_the_floors_are_those_of_the_layers_test():
    """The page shows the highest floor first."""
    shown = re.search(r"```text\n(.*?)```", PAGE, flags=re.DOTALL)[1].splitlines()
    assert [set(line.split()) for line in reversed(shown)] == FLOORS


def test_every_folder_has_its_section():
    assert {title[:-1] for title in SECTIONS if title.endswith("/")} == {*FOLDERS, "plugins"}


@pytest.mark.parametrize("folder", ["The root", *(f"{name}/" for name in FOLDERS)])
def test_every_file_has_its_line(folder):
    place = ROOT / "hfgen" / ("" if folder == "The root" else folder)
    listed = re.findall(r"^- `(\w+\.py)`: ", SECTIONS[folder], flags=re.MULTILINE)
    there = sorted(path.name for path in place.glob("*.py") if folder == "The root" or path.name != "__init__.py")
    assert sorted(listed) == there


def test_every_plugin_has_its_line():
    there = sorted(path.name for path in (ROOT / "plugins").iterdir() if (path / "__init__.py").is_file())
    assert sorted(re.findall(r"^- `(\w+)`: ", SECTIONS["plugins/"], flags=re.MULTILINE)) == there


def test_private_names_stand_where_the_page_says():
    """A name that is no longer used leaves the table."""
    rows = re.findall(r"^\| .*?(_\w+)`(?: [\w ]+)? \| `([\w/]+\.py)` \|", PAGE, flags=re.MULTILINE)
    assert len(rows) == 8
    for name, file in rows:
        assert name in (ROOT / "hfgen" / file).read_text(encoding="utf-8"), (name, file)


def test_the_table_of_places_names_files():
    for name in re.findall(r"`([\w/]+\.py)`", SECTIONS["Where is ...?"]):
        assert (ROOT / "hfgen" / name).is_file(), name
