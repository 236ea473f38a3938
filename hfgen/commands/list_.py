"""hfgen list"""

import fnmatch
import importlib.metadata
import json
from pathlib import Path

import click

from hfgen.commands.recipes import list_recipes
from hfgen.data.builtin import BUILT_IN_DATASETS
from hfgen.registry import CONVERTERS, EXTRACTORS, conflict, enabled_entry_points, list_families
from hfgen.results.metrics import METRICS
from hfgen.results.protocol import list_protocols
from hfgen.results.words import table

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


def metrics() -> list[Row]:
    better = {"lower": "lower is better", "higher": "higher is better", None: ""}
    return [{"name": name, "better": better[m.better], "what": m.what} for name, m in METRICS.items()]


def protocols() -> list[Row]:
    return [{"name": name, "what": _first_comment(path)} for name, path in list_protocols().items()]


def _first_comment(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def extractors() -> list[Row]:
    found = importlib.metadata.entry_points(group=EXTRACTORS)
    return [{"name": e.name, "plugin": e.dist.name if e.dist else ""} for e in sorted(found, key=lambda e: e.name)]


def formats() -> list[Row]:
    found = enabled_entry_points(CONVERTERS)
    return [{"name": e.name, "plugin": e.dist.name if e.dist else ""} for e in found]


WHAT = {
    **{"models": models, "recipes": recipes, "datasets": datasets, "plugins": plugins},
    **{"metrics": metrics, "protocols": protocols, "extractors": extractors, "formats": formats},
}


@click.command("list")
@click.argument("what", type=click.Choice(list(WHAT)), default="models")
@click.argument("pattern", metavar="[GLOB]", default="*")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(what: str, pattern: str, as_json: bool) -> None:
    """List models, recipes, built-in datasets, plugins, metrics, protocols, extractors, formats that convert reads.

    Imports no plugin.
    """
    rows = [row for row in WHAT[what]() if fnmatch.fnmatch(row["name"], pattern)]
    click.echo(json.dumps(rows, indent=2) if as_json else table(rows), nl=bool(rows) or as_json)
