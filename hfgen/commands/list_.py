"""hfgen list"""

import fnmatch
import json

import click

from hfgen.data_names import BUILT_IN_DATASETS
from hfgen.recipes import list_recipes
from hfgen.registry import conflict, list_families

Row = dict[str, str]


def models() -> list[Row]:
    families = list_families()
    return [
        {"name": f.name, "class": f.class_name, "plugin": f.source, "state": conflict(f, families) or ""}
        for f in families
    ]


def recipes() -> list[Row]:
    return [{"name": name, "package": file.parent.parent.name} for name, file in sorted(list_recipes().items())]


def datasets() -> list[Row]:
    return [{"name": name, "what": what} for name, what in BUILT_IN_DATASETS.items()]


def plugins() -> list[Row]:
    distributions: dict[str, list[str]] = {}
    for family in list_families():
        distributions.setdefault(family.source, []).append(family.name)
    return [{"name": source, "families": ", ".join(names)} for source, names in distributions.items()]


WHAT = {"models": models, "recipes": recipes, "datasets": datasets, "plugins": plugins}


@click.command("list")
@click.argument("what", type=click.Choice(list(WHAT)), default="models")
@click.argument("pattern", metavar="[GLOB]", default="*")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(what: str, pattern: str, as_json: bool) -> None:
    """List models, recipes, built-in data sets or plugins, a line each. Imports no plugin."""
    rows = [row for row in WHAT[what]() if fnmatch.fnmatch(row["name"], pattern)]
    click.echo(json.dumps(rows, indent=2) if as_json else table(rows), nl=bool(rows) or as_json)


def table(rows: list[Row]) -> str:
    """Columns as wide as their widest value.

    >>> print(table([{"name": "a", "class": "Long"}, {"name": "bcd", "class": "X"}]))
    a    Long
    bcd  X
    """
    widths = [max(len(value) for value in column) for column in zip(*(row.values() for row in rows), strict=True)]
    lines = ("  ".join(v.ljust(w) for v, w in zip(row.values(), widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
