"""hfgen list"""

import fnmatch
import itertools
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click

from hfgen.commands.recipes import list_recipes
from hfgen.registry import (
    CONVERTERS,
    EXTRACTORS,
    FAMILIES,
    GROUPS,
    Group,
    conflict,
    installed,
    list_modalities,
    misspelled_plugins,
)
from hfgen.results.metrics import METRICS
from hfgen.results.protocol import list_protocols
from hfgen.results.words import table

Row = dict[str, str]


def registered(group: Group) -> list[Row]:
    """List the entries of a group, with what they clash with; import none of them."""
    entries = installed(group)
    return [
        {"name": e.name, "class": e.class_name, "plugin": e.source, "state": conflict(e, entries) or ""}
        for e in entries
    ]


def recipes() -> list[Row]:
    return [
        {"name": name, "package": file.parent.parent.name, "what": _first_sentence(file)}
        for name, file in sorted(list_recipes().items())
    ]


def datasets() -> list[Row]:
    found = {name: what for modality in list_modalities() for name, what in modality.built_in.items()}
    return [{"name": name, "what": what} for name, what in found.items()]


def plugins() -> list[Row]:
    entries = [entry for group in GROUPS for entry in installed(group)]
    return [
        {
            "name": source,
            "families": ", ".join(e.name for e in entries if e.source == source and e.group == FAMILIES),
            "others": ", ".join(e.name for e in entries if e.source == source and e.group != FAMILIES),
        }
        for source in dict.fromkeys(entry.source for entry in entries)
    ]


def metrics() -> list[Row]:
    better = {"lower": "lower is better", "higher": "higher is better", None: ""}
    return [{"name": name, "better": better[m.better], "what": m.what} for name, m in METRICS.items()]


def protocols() -> list[Row]:
    return [{"name": name, "what": _first_comment(path)} for name, path in list_protocols().items()]


def _first_sentence(path: Path) -> str:
    """Return the beginning of the comment that a recipe begins with, up to a colon or the end of its sentence."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    text = " ".join(line.removeprefix("#").strip() for line in lines)
    return re.split(r"(?<!al)(?<!appendix)[.:;](?: |$)", text)[0]


def _first_comment(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


WHAT: dict[str, Callable[[], list[Row]]] = {
    "models": partial(registered, FAMILIES),
    "recipes": recipes,
    "datasets": datasets,
    "plugins": plugins,
    "metrics": metrics,
    "protocols": protocols,
    "extractors": partial(registered, EXTRACTORS),
    "formats": partial(registered, CONVERTERS),
}


@click.command("list", short_help="List models, recipes, datasets, metrics ...")
@click.argument("what", type=click.Choice(list(WHAT)), default="models")
@click.argument("pattern", metavar="[GLOB]", default="*")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(what: str, pattern: str, as_json: bool) -> None:
    """List models, recipes, built-in datasets, plugins, metrics, protocols, extractors, formats that convert reads.

    Imports no plugin but the modalities, for their datasets.
    """
    for line in misspelled_plugins():
        click.echo(line, err=True)
    rows = [row for row in WHAT[what]() if fnmatch.fnmatch(row["name"], pattern)]
    click.echo(json.dumps(rows, indent=2) if as_json else table(rows), nl=bool(rows) or as_json)
