"""The command `hfgen plugins new NAME`."""

import importlib.util
import re
import shutil
from pathlib import Path
from string import Template

import click

from hfgen import __version__
from hfgen.errors import HFGenError, UsageError
from hfgen.registry import FAMILIES, installed, left_out

TEMPLATE = Path(__file__).with_name("plugin_template")
NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")  # that which PEP 503 leaves as it is, but for the underscore
PREFIX = "hfgen-"


@click.command("new")
@click.argument("name")
@click.option("--output_dir", type=click.Path(path_type=Path), help="The folder to make.  [default: hfgen-NAME, here]")
def command(name: str, output_dir: Path | None) -> None:
    """Write the distribution of a new family NAME: a small model that trains, with its tests, to be edited."""
    names = names_of(name.removeprefix(PREFIX))
    refuse_taken(names)
    folder = output_dir or Path(names["distribution"])
    write(folder, names)
    click.echo(f'{folder}\nNext: pip install -e "{folder}[test]" && pytest {folder}')


def names_of(family: str) -> dict[str, str]:
    """Return what the templates call a family: its name, distribution, module, and the beginning of its classes.

    Raises:
        UsageError: it cannot be a name of a family, of a distribution and of a module.

    >>> names_of("moment-matching")["title"]
    'MomentMatching'
    """
    if not NAME.fullmatch(family):
        near = re.sub(r"[^a-z0-9]+", "-", family.lower()).strip("-")
        hint = f" Did you mean {near!r}?" if NAME.fullmatch(near) else ""
        raise UsageError(
            f"{family!r} cannot be a family's name: it begins with a letter a to z, and has these, digits, and\n"
            f"single dashes or underscores between them.{hint}"
        )
    words = re.split("[-_]", family)
    return {
        "family": family,
        "distribution": "-".join(["hfgen", *words]),
        "module": "_".join(["hfgen", *words]),
        "title": "".join(word.capitalize() for word in words),
        "version": __version__,
    }


def refuse_taken(names: dict[str, str]) -> None:
    """Raise a UsageError if an installed family, of an enabled plugin or not, or a module has one of the names."""
    class_name = f"{names['title']}Pipeline"
    for entry in [*installed(FAMILIES), *left_out(FAMILIES)]:
        if entry.name == names["family"] or entry.class_name == class_name:
            raise UsageError(
                f"{names['family']!r} ({class_name}) is taken by the family {entry.name!r} of {entry.source}.\n"
                "Choose another name."
            )
    if class_name == FAMILIES.base_name or importlib.util.find_spec(names["module"]) is not None:
        what = f"class {class_name}" if class_name == FAMILIES.base_name else f"module {names['module']}"
        raise UsageError(f"{names['family']!r} is taken: a {what} is installed. Choose another name.")


def write(folder: Path, names: dict[str, str]) -> None:
    """Make the folder and fill it from the templates.

    Raises:
        UsageError: it exists; nothing is overwritten.
        HFGenError: it cannot be written; what was begun is removed.
    """
    places = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        "gitignore": ".gitignore",
        "module.py": f"{names['module']}.py",
        "test.py": f"tests/test_{names['module']}.py",
    }
    if folder.exists() or folder.is_symlink():
        raise UsageError(f"{folder} exists; nothing was written. Name another folder: --output_dir DIR")
    try:
        (folder / "tests").mkdir(parents=True)
        for source, place in places.items():
            text = Template((TEMPLATE / f"{source}.in").read_text(encoding="utf-8")).substitute(names)
            (folder / place).write_text(text, encoding="utf-8")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise HFGenError(f"{folder} cannot be written: {error}") from error
