"""Plugin distributions as pip leaves them: modules beside a `name-version.dist-info` with its entry points."""

import contextlib
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType

import pytest

from hfgen.modality import Modality
from hfgen.registry import FAMILIES, Group

TOY = (Path(__file__).parent / "toy" / "toy_family.py").read_text(encoding="utf-8")
TOY_TRANSFORMER = (Path(__file__).parent / "toy" / "toy_transformer.py").read_text(encoding="utf-8")
TOYS = (  # two families of one distribution: entries and modules, for `install`
    {"toy_critic": "toy_critic:ToyCriticPipeline", "toy_coupled": "toy_coupled:ToyCoupledPipeline"},
    {
        name: (Path(__file__).parent / "toy" / f"{name}.py").read_text(encoding="utf-8")
        for name in ("toy_critic", "toy_coupled")
    },
)
TOY_WGAN = (Path(__file__).parent / "toy" / "toy_wgan.py").read_text(encoding="utf-8")
NOTED = "import os\nos.environ['IMPORTED'] = os.environ.get('IMPORTED', '') + __name__ + ' '\n"


def install(
    site: Path,
    distribution: str,
    entries: Mapping[str, str],
    modules: Mapping[str, str],
    version: str = "1.0",
    group: Group = FAMILIES,
) -> None:
    """Put a distribution into the folder `site`.

    Args:
        entries: name -> `module:Class`.
        modules: dotted module name -> source; the packages above it are made.
        group: what the entries are.
    """
    info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    lines = [f"[{group.name}]", *(f"{name} = {target}" for name, target in entries.items())]
    info.joinpath("entry_points.txt").write_text("\n".join(lines) + "\n")
    for name, source in modules.items():
        path = site.joinpath(*name.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
        for package in path.parents[: name.count(".")]:
            (package / "__init__.py").touch()
    importlib.invalidate_caches()


ABSTRACT = {"Modality": sorted(Modality.__abstractmethods__)}  # methods that a class must have


def install_classes(
    site: Path, distribution: str, group: Group, classes: Mapping[str, str], version: str = "1.0"
) -> None:
    """A distribution of empty classes of a group, whose module notes its import in $IMPORTED; name -> class name."""
    base_module, _, base = group.base.partition(":")
    module = distribution.lower().replace("-", "_").replace(".", "_")
    needed = ABSTRACT.get(base, ["recognizes", "read"])
    body = "".join(f"class {c}({base}): {' = '.join(needed)} = None\n" for c in classes.values())
    targets = {name: f"{module}:{class_name}" for name, class_name in classes.items()}
    source = f"{NOTED}from {base_module} import {base}\n{body}"
    install(site, distribution, targets, {module: source}, version, group)


def install_toy(site: Path, name: str = "toy", module: str = "toy_family", source: str = TOY) -> None:
    """The distribution `toy-plugin` with the family `toy`; or a like one with another name and class names."""
    title = name.capitalize()
    source = source.replace("Toy", title)
    install(site, f"{name}-plugin", {name: f"{module}:{title}Pipeline"}, {module: source})


def install_family(site: Path, distribution: str, families: Mapping[str, str], version: str = "1.0") -> None:
    """A distribution of empty pipeline classes, whose module notes its import in $IMPORTED; name -> class name."""
    install_classes(site, distribution, FAMILIES, families, version)


@contextlib.contextmanager
def on_path(site: Path) -> Iterator[None]:
    """Within, the distributions and modules of `site` are installed; afterwards they and their traces are gone."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(site)):
            del sys.modules[name]
    importlib.invalidate_caches()


@contextlib.contextmanager
def toy_installed(site: Path) -> Iterator[ModuleType]:
    """Within, the family `toy` is installed; its module."""
    install_toy(site)
    with on_path(site):
        yield importlib.import_module("toy_family")


def run(arguments: list[str], site: Path, environment: Mapping[str, str] = os.environ, stdin: str = "") -> str:
    """What Python prints in a fresh process that has the distributions of `site`."""
    path = os.pathsep.join([str(site), *filter(None, [environment.get("PYTHONPATH")])])
    command, environment = [sys.executable, *arguments], {**environment, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, input=stdin, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
